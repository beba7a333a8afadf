"""``python -m examples.row_mnist``."""

from examples.row_mnist.main import main

main()
