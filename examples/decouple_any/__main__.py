"""``python -m examples.decouple_any``."""

from examples.decouple_any.main import main

main()
