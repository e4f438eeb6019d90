"""`python -m edge_assets.cli`."""

from edge_assets.cli.commands import main

main()
