"""Tests of the room `devices`."""
