"""Tests of the room `toolchains`."""
