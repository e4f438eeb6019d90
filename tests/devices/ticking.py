"""Runs a script in a process whose heavy imports are done: `python -m tests.devices.ticking script.py`."""

import runpy
import sys

if __name__ == "__main__":
    runpy.run_path(sys.argv[1], run_name="__main__")
