"""A network in two parts, neither of which waits for the other."""
