"""The outside world as Dagster resources: artifact store, MLflow, checkpoint sources, devices."""
