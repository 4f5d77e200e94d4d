def command():
    """List the environments, agents, studies and search spaces by name."""
