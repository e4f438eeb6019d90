"""Logs one entry to MLflow, as one of several processes at once: python -m tests.send FOLDER URI NAME GO.

It waits for the file GO, so that all begin together, and prints what was said and what waits.
"""

import sys
import time
from pathlib import Path

from tests.resources.test_tracking_faults import Desk

if __name__ == "__main__":
    folder, uri, name, go = sys.argv[1:]
    desk = Desk(Path(folder), uri)
    print("ready")
    while not Path(go).exists():
        time.sleep(0.01)
    desk.log(desk.entry(name, metrics={"accuracy": 0.9}))
    print(desk.said, desk.waiting())
