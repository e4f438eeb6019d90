"""Shared by the toolchains: types, sessions, verification, measurement, selection, isolation."""
