"""``python -m examples.mnist_mlp``."""

from examples.mnist_mlp.main import main

main()
