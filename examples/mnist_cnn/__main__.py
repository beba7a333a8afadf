"""``python -m examples.mnist_cnn``."""

from examples.mnist_cnn.main import main

main()
