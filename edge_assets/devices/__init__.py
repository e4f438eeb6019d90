"""How a device that is not this machine is reached, and asked."""
