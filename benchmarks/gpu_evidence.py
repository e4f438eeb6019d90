"""Run a rebuild kit on the NVIDIA GPU of this machine, and keep the evidence as JSON.

    python benchmarks/gpu_evidence.py KIT --output evidence.json
    python benchmarks/gpu_evidence.py KIT --architecture examples.digits.network:DigitsNet --checkpoint FILE ...

KIT is a released folder's `tensorrt_engine_*`, or a copy of one: its engine is built anew in a scratch copy. Three
engines of inference are tried, each on its own, and one that cannot run is recorded with its reason:

    tensorrt      the kit's own script: build, compare with the bundled sample, time
    onnxruntime   the kit's model.onnx on the CUDA execution provider, nothing of it on the CPU
    pytorch       the architecture with the checkpoint's weights, eager, in fp32 and fp16

Parity is against the outputs in sample.npz. Times are of single samples, wall clock around a synchronised query, with
the copies from and to the host; TensorRT also says how long the engine alone takes. It needs NumPy and whichever of
the libraries are there, not the product's own dependencies.
"""

import argparse
import importlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

WARM_UP, QUERIES, PERCENTILES = 50, 1000, (50, 90, 99)  # MLPerf's rule wants 662 queries for P99
Feeds = dict[str, np.ndarray]


class Unusable(Exception):
    """Why something cannot run here."""


def main() -> None:
    """Write the evidence. Exit code 1 if nothing could run on the GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kit", type=Path)
    parser.add_argument("--output", type=Path, default=Path("evidence.json"))
    parser.add_argument("--architecture", help="package.module:attribute, for PyTorch")
    parser.add_argument("--checkpoint", type=Path, help="its safetensors file")
    arguments = parser.parse_args()
    kit = json.loads((arguments.kit / "kit.json").read_text())
    if any("batch_axis" in tensor for tensor in kit["inputs"]):
        raise SystemExit("this kit's inputs have their batch elsewhere than first: use its own build_engine.py --time")
    with np.load(arguments.kit / "sample.npz", allow_pickle=False) as data:
        sample = {name: data[name] for name in data.files}
    feeds = {tensor["name"]: sample[f"input_{tensor['name']}"] for tensor in kit["inputs"]}
    expected = {tensor["name"]: sample[f"output_{tensor['name']}"] for tensor in kit["outputs"]}
    runs = {
        "tensorrt": attempt(lambda: tensorrt(arguments.kit)),
        "onnxruntime": attempt(lambda: onnxruntime(arguments.kit, kit, feeds, expected)),
    }
    for precision in ("fp32", "fp16"):
        runs[f"pytorch_{precision}"] = attempt(partial(pytorch, arguments, precision, feeds, expected))
    evidence = {
        "gpu": smi("name,driver_version,memory.total"),
        "model": kit["model"],
        "precision": kit["precision"],
        "recipe": kit["recipe"],
        "onnx_sha256": kit["onnx"]["sha256"],
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "runs": runs,
    }
    arguments.output.write_text(json.dumps(evidence, indent=1) + "\n")
    print(json.dumps(evidence, indent=1))
    sys.exit(all("unusable" in run for run in runs.values()))


def attempt(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The result of one engine of inference, or why there is none."""
    try:
        return run()
    except Exception as error:  # any library may raise anything; the reason is the evidence
        return {"unusable": f"{type(error).__name__}: {error}"}


def tensorrt(kit: Path) -> dict[str, Any]:
    """What the kit's own script says, in a scratch copy: it builds the engine for this GPU."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = shutil.copytree(kit, Path(scratch) / "kit")
        return {
            "built": script(copy),
            **json.loads(script(copy, "--verify")),
            "ms": json.loads(script(copy, "--time", str(QUERIES))),
            "engine": json.loads((copy / "kit.json").read_text())["engine"],
        }


def script(kit: Path, *arguments: str) -> str:
    """Output of the kit's script. Raises Unusable with its message."""
    command = [sys.executable, str(kit / "build_engine.py"), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=540)
    if result.returncode:
        raise Unusable(result.stderr.strip()[-2000:])
    return result.stdout.strip()


def onnxruntime(kit: Path, described: dict[str, Any], feeds: Feeds, expected: Feeds) -> dict[str, Any]:
    """The kit's graph on the CUDA execution provider. Raises Unusable where ONNX Runtime has none."""
    import onnxruntime as runtime

    if "CUDAExecutionProvider" not in runtime.get_available_providers():
        raise Unusable(f"onnxruntime {runtime.__version__} has no CUDA execution provider")
    options = runtime.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")  # else it would time the CPU
    session = runtime.InferenceSession(kit / "model.onnx", options, providers=["CUDAExecutionProvider"])
    names = [tensor["name"] for tensor in described["outputs"]]

    def run(inputs: Feeds) -> Feeds:
        return dict(zip(names, session.run(names, inputs), strict=True))

    return {"version": runtime.__version__, **compared_and_timed(run, feeds, expected)}


def pytorch(arguments: argparse.Namespace, precision: str, feeds: Feeds, expected: Feeds) -> dict[str, Any]:
    """PyTorch eager on the GPU. Raises Unusable without a model or without CUDA."""
    import torch
    from safetensors.torch import load_file

    if not (arguments.architecture and arguments.checkpoint):
        raise Unusable("no --architecture and --checkpoint given")
    if not torch.cuda.is_available():
        raise Unusable(f"PyTorch {torch.__version__} sees no CUDA GPU")
    sys.path.insert(0, str(Path.cwd()))
    module, _, attribute = arguments.architecture.partition(":")
    model = getattr(importlib.import_module(module), attribute)().eval()
    model.load_state_dict(load_file(arguments.checkpoint))
    dtype = {"fp32": torch.float32, "fp16": torch.float16}[precision]
    model = model.to("cuda", dtype)

    def run(inputs: Feeds) -> Feeds:
        tensors = [torch.from_numpy(array).cuda() for array in inputs.values()]
        with torch.inference_mode():
            result = model(*(tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in tensors))
        results = result if isinstance(result, tuple | list) else (result,)
        return {name: tensor.float().cpu().numpy() for name, tensor in zip(expected, results, strict=True)}

    measured = compared_and_timed(run, feeds, expected)
    return {"version": torch.__version__, **measured, "gpu_memory_bytes": torch.cuda.max_memory_reserved()}


def compared_and_timed(run: Callable[[Feeds], Feeds], feeds: Feeds, expected: Feeds) -> dict[str, Any]:
    """SNR in dB of each output against the sample's, and milliseconds of single samples."""
    found = {}
    for name, output in run(feeds).items():
        noise, signal = np.square(expected[name] - output).sum(dtype=float), np.square(expected[name]).sum(dtype=float)
        found[name] = 200.0 if noise == 0 else 10 * float(np.log10(signal / noise))
    one = {name: array[:1] for name, array in feeds.items()}
    times = []
    for _ in range(WARM_UP + QUERIES):
        started = time.perf_counter()
        run(one)  # its outputs are on the host, so the GPU is done
        times.append(1000 * (time.perf_counter() - started))
    quantiles = {f"p{p}": float(np.percentile(times[WARM_UP:], p)) for p in PERCENTILES}
    return {"snr_db": found, "with_copies_ms": quantiles, "queries": QUERIES}


def smi(query: str) -> str | None:
    """What nvidia-smi says of the first GPU; None without it."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return None
    listing = [command, f"--query-gpu={query}", "--format=csv,noheader"]
    lines = subprocess.run(listing, capture_output=True, text=True, check=False).stdout.splitlines()
    return lines[0] if lines else None


if __name__ == "__main__":
    main()
