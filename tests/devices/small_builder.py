"""What stands in a kit for its build script: builds something that a test can follow, and needs no TensorRT.

Its "engine" says what it was made of and when. No runtime opens it, and nothing takes it for TensorRT's.
"""

import hashlib
import json
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
KIT = HERE / "kit.json"
GPU = "no GPU, for tests"


def main() -> None:
    kit = json.loads(KIT.read_text())
    if "refuse" in kit:
        raise SystemExit(f"build_engine.py: {kit['refuse']}")
    if sys.argv[1:] == ["--check"]:
        if kit["engine"]["gpu"] != GPU:
            raise SystemExit("build_engine.py: the engine is for another GPU")
        return
    assert not sys.argv[1:]
    made_of = hashlib.sha256((HERE / "model.onnx").read_bytes()).hexdigest()
    engine = f"of {made_of} at {time.time_ns()}\n".encode() * 30_000  # several pieces on the wire
    (HERE / "model.engine").write_bytes(engine)
    kit["engine"] = {
        "builder": "tests",
        "version": "1",
        "compute_capability": "0.0",
        "system": "Linux",
        "gpu": GPU,
        "sha256": hashlib.sha256(engine).hexdigest(),
    }
    KIT.write_text(json.dumps(kit))


if __name__ == "__main__":
    main()
