"""Tests of what reaches the outside: the store, its garbage collection, checkpoints and MLflow."""
