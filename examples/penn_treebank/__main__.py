"""``python -m examples.penn_treebank``."""

from examples.penn_treebank.main import main

main()
