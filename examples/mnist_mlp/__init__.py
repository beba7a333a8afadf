"""A fully connected network with an interface after every hidden layer."""
