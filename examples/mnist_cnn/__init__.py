"""A convolutional network whose synthesizers are convolutional too."""
