"""``python -m examples.mnist_stages``."""

from examples.mnist_stages.main import main

main()
