"""Olive's quantization of one ONNX file, in an environment of its own: `olive_quantize.py MODEL CALIBRATION OUT`.

Writes OUT/<scheme>/model.onnx and OUT/seconds.json. CALIBRATION is an .npz of the model's inputs by name. Needs
olive-ai, onnxruntime and requests, and nothing of edge-assets.
"""

import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from olive.data.registry import Registry
from olive.workflows import run

STATIC = {"type": "OnnxStaticQuantization", "data_config": "calibration", "per_channel": True, "quant_format": "QDQ"}
# Olive's own passes in the flavour that x86 CPUs are fast with, and its int4 with its defaults
PASSES: dict[str, dict[str, Any]] = {
    "int8_static": {**STATIC, "activation_type": "uint8", "precision": "int8", "calibrate_method": "MinMax"},
    "int8_dynamic": {"type": "OnnxDynamicQuantization", "per_channel": True, "precision": "int8"},
    "int4_rtn": {"type": "OnnxBlockWiseRtnQuantization"},
}


@Registry.register_dataset()
def npz_samples(**_options: Any) -> "Samples":
    """The calibration data as Olive wants it."""
    return Samples(Path(sys.argv[2]))


class Samples:
    """Batches of 32 as (inputs, label), which is what Olive's data loader is made of."""

    def __init__(self, path: Path, batch: int = 32) -> None:
        with np.load(path, allow_pickle=False) as data:
            self.arrays = {name: data[name] for name in data.files}
        self.batch = batch

    def __len__(self) -> int:
        return math.ceil(len(next(iter(self.arrays.values()))) / self.batch)

    def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray], int]:
        if index >= len(self):
            raise IndexError(index)
        part = slice(index * self.batch, (index + 1) * self.batch)
        return {name: array[part] for name, array in self.arrays.items()}, 0

    def __iter__(self) -> Iterator[tuple[dict[str, np.ndarray], int]]:
        return (self[i] for i in range(len(self)))


def workflow(model: Path, scheme: str, output: Path) -> dict[str, Any]:
    """The configuration of one pass on this CPU."""
    accelerator = {"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}
    calibration = {
        "name": "calibration",
        "load_dataset_config": {"type": "npz_samples"},
        "dataloader_config": {"type": "no_auto_batch_dataloader"},
    }
    return {
        "input_model": {"type": "OnnxModel", "model_path": str(model)},
        "systems": {"here": {"type": "LocalSystem", "accelerators": [accelerator]}},
        "data_configs": [calibration],
        "passes": {"quantize": PASSES[scheme]},
        "host": "here",
        "target": "here",
        "cache_dir": str(output / "cache"),
        "output_dir": str(output / scheme),
        "log_severity_level": 3,
    }


def main() -> None:
    """Every scheme that Olive can apply; what it cannot is left out, with its message on stderr."""
    model, output = Path(sys.argv[1]), Path(sys.argv[3])
    seconds = {}
    for scheme in PASSES:
        started = time.perf_counter()
        try:
            run(workflow(model, scheme, output))
        except Exception as error:  # whatever a pass raises is that scheme's result
            print(f"olive {scheme}: {type(error).__name__}: {error}", file=sys.stderr)
            continue
        if list((output / scheme).glob("*.onnx")):
            seconds[scheme] = time.perf_counter() - started
        else:
            print(f"olive {scheme}: no model was written", file=sys.stderr)
    (output / "seconds.json").write_text(json.dumps(seconds))


if __name__ == "__main__":
    main()
