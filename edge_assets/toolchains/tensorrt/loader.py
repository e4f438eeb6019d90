"""Runs the released TensorRT engine. Needs NumPy and the TensorRT release that kit.json names.

On a machine without an NVIDIA driver it runs the kit's ONNX graph in ONNX Runtime instead, and says so. On another
GPU than the engine's it refuses: build an engine there with build_engine.py.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType


def kit_script(path: Path) -> ModuleType:
    """build_engine.py as a module, from its source, without the kit's folder on sys.path."""
    module = ModuleType("build_engine")
    sys.modules[module.__name__] = module
    exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    return module


def load(path: Path, manifest: dict) -> Callable[[dict], dict]:
    """A function from inputs by name to outputs by name."""
    build_engine = kit_script(path / "build_engine.py")
    try:
        build_engine.Cuda()
    except build_engine.KitError as error:
        print(f"{error}: running model.onnx in ONNX Runtime on the CPU, not the engine", file=sys.stderr)
        return _onnx(path, manifest)
    try:
        return build_engine.EngineRunner(path).run
    except build_engine.KitError as error:
        raise SystemExit(str(error)) from None


def _onnx(path: Path, manifest: dict) -> Callable[[dict], dict]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path / "model.onnx", providers=["CPUExecutionProvider"])
    names = manifest["outputs"]
    return lambda feeds: dict(zip(names, session.run(names, feeds), strict=True))
