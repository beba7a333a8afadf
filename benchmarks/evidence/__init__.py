"""Do synthetic gradients learn? One harness, arms as data."""
