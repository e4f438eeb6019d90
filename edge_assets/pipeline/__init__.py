"""One cell's way from checkpoint to release. Knows neither Dagster nor MLflow."""
