"""The examples: models whose checkpoints go the whole way."""
