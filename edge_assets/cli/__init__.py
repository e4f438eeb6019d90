"""The command line: the commands, and a module for the work of each."""

from edge_assets.cli.commands import main

__all__ = ["main"]
