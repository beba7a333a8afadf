"""``python -m examples.mnist_full_unlock``."""

from examples.mnist_full_unlock.main import main

main()
