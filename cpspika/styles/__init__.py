"""How a calling style is derived from the core's operations, which are written once."""
