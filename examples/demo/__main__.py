"""``python -m examples.demo``."""

from examples.demo.main import main

main()
