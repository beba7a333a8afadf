"""``python -m examples.wrapped``."""

from examples.wrapped.main import main

main()
