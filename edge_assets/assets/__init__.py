"""Dagster assets: one module per hardware family, and the steps that they share."""
