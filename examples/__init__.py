"""Short articles with a number each; run one with ``python -m examples.NAME --help``."""
