"""A network that knows nothing of interfaces, decoupled by one call."""
