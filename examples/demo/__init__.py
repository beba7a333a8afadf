"""Backpropagation, DNI and cDNI on the same small network, side by side."""
