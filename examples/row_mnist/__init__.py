"""MNIST, read row by row: the class is asked for after the last row."""
