"""How hardware is reached that is not this machine, and what stands in for hardware that nobody has."""
