"""Which variants a hardware family offers, one module each."""
