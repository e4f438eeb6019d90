"""All Dagster: assets, checks, jobs, sensors, schedules, resources, and the instance they run in."""

import gc

import dagster as dg  # noqa: F401  # what follows is about all that importing it makes

# It stays until the process ends, and each full collection of garbage would walk through it: a tenth of a second of
# loading the definitions alone.
gc.freeze()
