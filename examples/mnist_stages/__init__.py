"""A network in separate processes, some of which may die."""
