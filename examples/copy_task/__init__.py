"""Copy and repeat copy, on a curriculum that goes as far as the network can."""
