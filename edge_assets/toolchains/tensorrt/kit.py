"""Build, check and run the TensorRT engine of a rebuild kit.

This file is `build_engine.py` in every kit, so it imports nothing of the product: it needs Python and TensorRT or
TensorRT-RTX, an NVIDIA driver to build for the GPU at hand or to run, and NumPy to run.

    python build_engine.py                            build model.engine for the GPU of this machine
    python build_engine.py --compute-capability 8.9   build it ahead of time, without a GPU, with TensorRT-RTX
    python build_engine.py --check                    say whether model.engine may run on this machine
    python build_engine.py --verify                   run it, compare with the outputs in sample.npz
    python build_engine.py --time 500                 time it at batch 1

An engine runs on the kind of GPU, the TensorRT release and the operating system that it was built for, and nowhere
else. kit.json says which; another machine's engine is refused before TensorRT sees it.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    # a script's folder comes first where modules are looked for: nothing in the kit may pass for another module
    HERE = os.path.dirname(os.path.realpath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry or os.curdir) != HERE]

import argparse
import ctypes
import hashlib
import importlib
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

KIT, MODEL, ENGINE, SAMPLE, SCRIPT = "kit.json", "model.onnx", "model.engine", "sample.npz", "build_engine.py"
MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}  # distribution -> module
WARM_UP = 20  # queries before timing
STEPS = 8  # of a model with states, for which the sample is run

Kit = dict[str, Any]
Run = Callable[[Mapping[str, Any]], Mapping[str, Any]]


class KitError(Exception):
    """What a person can act on, in one message."""


class UnsupportedOperator(KitError):
    """The parser does not know an operator of the graph."""

    def __init__(self, operator: str, node: str, reason: str) -> None:
        super().__init__(f"operator {operator} (node '{node}'): {reason}")
        self.operator, self.node, self.reason = operator, node, reason


@dataclass(frozen=True)
class EnginePlatform:
    """What an engine was built for, or what a machine is."""

    builder: str  # tensorrt or tensorrt-rtx
    version: str
    compute_capability: str  # such as 8.9
    system: str  # such as Linux x86_64
    gpu: str | None = None  # the GPU's name; None: every GPU of the compute capability


def this_system() -> str:
    """Operating system and processor architecture of this machine."""
    return f"{platform.system()} {platform.machine()}"


def refusal(engine: EnginePlatform, here: EnginePlatform) -> str | None:
    """Why an engine may not run in a place, or None. Checked in the order GPU, TensorRT, operating system."""
    if engine.compute_capability != here.compute_capability:
        found = f"this GPU ({here.gpu}) has {here.compute_capability}"
        return f"the engine is for GPUs of compute capability {engine.compute_capability}, {found}"
    if engine.gpu is not None and engine.gpu != here.gpu:
        return f"the engine was built and tuned on a {engine.gpu}, this GPU is a {here.gpu}"
    if (engine.builder, engine.version) != (here.builder, here.version):
        return f"the engine needs {engine.builder} {engine.version}, here is {here.builder} {here.version}"
    if engine.system != here.system:
        return f"the engine was built for {engine.system}, this machine is {here.system}"
    return None


# --- the kit -------------------------------------------------------------------------------------------


def read_kit(folder: Path) -> Kit:
    """kit.json, after model.onnx was checked against it."""
    kit: Kit = json.loads((folder / KIT).read_text())
    _check_sha256(folder / MODEL, kit["onnx"]["sha256"])
    return kit


def read_engine(folder: Path, kit: Kit) -> tuple[bytes, EnginePlatform]:
    """The engine and what it was built for, after its hash was checked. Raises KitError if the kit has none."""
    if kit["engine"] is None:
        raise KitError(f"this kit has no engine: {kit['needs_device']}. Build it with: python {SCRIPT}")
    entry = dict(kit["engine"])
    _check_sha256(folder / ENGINE, entry.pop("sha256"))
    return (folder / ENGINE).read_bytes(), EnginePlatform(**entry)


def write_engine(folder: Path, kit: Kit, plan: bytes, place: EnginePlatform) -> Kit:
    """Write model.engine and say in kit.json what it was built for. Returns the kit as written."""
    (folder / ENGINE).write_bytes(plan)
    entry = asdict(place) | {"sha256": hashlib.sha256(plan).hexdigest()}
    kit = kit | {"engine": entry, "needs_device": None}
    (folder / KIT).write_text(json.dumps(kit, indent=2) + "\n")
    return kit


def _check_sha256(path: Path, expected: str) -> None:
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != expected:
        raise KitError(f"{path.name} is not the kit's: sha256 {found}, expected {expected}")


# --- batches and states --------------------------------------------------------------------------------


def batch_axis(tensor: Mapping[str, Any]) -> int | None:
    """Where an input or output of the kit has its batch: the first axis if it does not say, None for nowhere."""
    axis: int | None = tensor.get("batch_axis", 0)
    return axis


def batched(tensors: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The first of the kit's inputs that has a batch."""
    return next(tensor for tensor in tensors if batch_axis(tensor) is not None)


def largest_batch(tensors: Sequence[Mapping[str, Any]]) -> int:
    """How many samples the profile of these inputs takes at once."""
    first = batched(tensors)
    return int(first["max"][batch_axis(first)])


def part(array: Any, axis: int | None, start: int, stop: int) -> Any:
    """Some of the samples in an array; what has no batch is the same for all."""
    if axis is None:
        return array
    return array[(slice(None),) * axis + (slice(start, stop),)]


def carried(feeds: Mapping[str, Any], outputs: Mapping[str, Any], kit: Mapping[str, Any]) -> dict[str, Any]:
    """What the next step takes: its states are those that this one gave."""
    states = {name: outputs[output] for name, output in kit.get("states", {}).items()}
    return {**feeds, **states}


def after_steps(run: Run, feeds: Mapping[str, Any], kit: Mapping[str, Any]) -> Mapping[str, Any]:
    """Outputs of the last of `STEPS` steps, the first of which takes `feeds`."""
    for _ in range(STEPS - 1):
        feeds = carried(feeds, run(feeds), kit)
    return run(feeds)


# --- building ------------------------------------------------------------------------------------------


def load_builder(name: str) -> Any:
    """The Python module of a builder. Raises KitError if it is not installed."""
    try:
        return importlib.import_module(MODULES[name])
    except ImportError as error:
        raise KitError(f"{name} cannot be imported: {error}. Install it with: pip install {name}") from None


def installed_builders() -> list[str]:
    """Installed builders, TensorRT before TensorRT-RTX."""
    found = []
    for name in MODULES:
        try:
            version(name)
            found.append(name)
        except PackageNotFoundError:
            pass
    return found


def nameable(trt: Any) -> list[str]:
    """Compute capabilities that this builder builds for without a GPU: none for TensorRT."""
    names = getattr(getattr(trt, "ComputeCapability", None), "__members__", {})
    numbers = [name.removeprefix("SM") for name in names if name.removeprefix("SM").isdigit()]
    return [f"{number[:-1]}.{number[-1]}" for number in sorted(numbers, key=int)]


def parse(trt: Any, onnx: bytes) -> tuple[Any, ...]:
    """Builder, network, parser and logger with the graph parsed; the caller keeps all alive while it uses one.

    The network is strongly typed where TensorRT has that: precision is what the graph says. Raises
    UnsupportedOperator or KitError.
    """
    logger = _logger(trt)
    try:
        builder = trt.Builder(logger)
    except TypeError:  # how TensorRT 8 says what later releases say with None
        builder = None
    if builder is None:
        raise KitError(f"{trt.__name__} could not start: {logger.text()}")
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx):
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        for error in errors:
            operator = getattr(error, "node_operator", str)()  # TensorRT 8 does not say
            if operator:
                raise UnsupportedOperator(operator, error.node_name(), error.desc().strip())
        raise KitError(f"the graph cannot be parsed: {errors[0].desc() if errors else logger.text()}")
    return builder, network, parser, logger


def build(trt: Any, onnx: bytes, kit: Kit, compute_capability: str | None = None) -> bytes:
    """The serialized engine with the kit's optimization profile and workspace limit.

    With a `compute_capability`, ahead of time for GPUs of that one, which TensorRT-RTX alone can; without, for the
    GPU of this machine. Raises UnsupportedOperator or KitError.
    """
    if kit["precision"] == "int8" and not _is_strongly_typed(trt):
        raise KitError(
            f"this kit's scales are in fp16, as ONNX has them from opset 19 on, and {trt.__name__} {trt.__version__} "
            "reads them in fp32 alone: build it with TensorRT 10 or later"
        )
    builder, network, _parser, logger = parse(trt, onnx)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, kit["workspace_bytes"])
    if hasattr(trt.BuilderFlag, "TF32"):  # on by default, and 3 dB short of what fp32 has to give
        config.clear_flag(trt.BuilderFlag.TF32)
    if kit["precision"] == "fp16" and not _is_strongly_typed(trt):
        _let_fp16(trt, config, network)
    if compute_capability is not None:
        if compute_capability not in nameable(trt):
            known = ", ".join(nameable(trt)) or "none"
            raise KitError(f"{trt.__name__} cannot build for {compute_capability} without the GPU; it can for: {known}")
        config.num_compute_capabilities = 1
        name = f"SM{compute_capability.replace('.', '')}"
        config.set_compute_capability(getattr(trt.ComputeCapability, name), 0)
    profile = builder.create_optimization_profile()
    for tensor in kit["inputs"]:
        profile.set_shape(tensor["name"], tensor["min"], tensor["opt"], tensor["max"])
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise KitError(f"{trt.__name__} could not build the engine: {logger.text()}")
    return bytes(plan)


def _is_strongly_typed(trt: Any) -> bool:
    """Whether networks have the precisions of their graph. Before TensorRT 9 the builder chooses them."""
    kinds = trt.NetworkDefinitionCreationFlag.__members__
    return "STRONGLY_TYPED" in kinds or "EXPLICIT_BATCH" not in kinds  # it is the only kind where it has no flag


def _network_flags(trt: Any) -> int:
    kinds = trt.NetworkDefinitionCreationFlag.__members__
    for name in ("STRONGLY_TYPED", "EXPLICIT_BATCH"):
        if name in kinds:
            return 1 << int(kinds[name])
    return 0


def _let_fp16(trt: Any, config: Any, network: Any) -> None:
    """Let a builder that chooses precisions choose fp16, but not for what the graph has in fp32."""
    config.set_flag(trt.BuilderFlag.FP16)
    config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        if all(layer.get_output_type(j) == trt.float32 for j in range(layer.num_outputs)):
            layer.precision = trt.float32


def _logger(trt: Any) -> Any:
    """A TensorRT logger that keeps errors, to be shown in one message."""

    class Errors(trt.ILogger):  # type: ignore[misc]  # the base class is known at run time only
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.lines.append(message)

        def text(self) -> str:
            return "; ".join(self.lines) or "it logged no error"

    return Errors()


# --- running -------------------------------------------------------------------------------------------


class Cuda:
    """The CUDA driver through ctypes: the first visible GPU, its memory and its clock."""

    def __init__(self) -> None:
        try:
            self.library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        except OSError:
            raise KitError("there is no NVIDIA driver here, so no GPU to build for or to run on") from None
        self("cuInit", ctypes.c_uint(0))
        self.device, context = ctypes.c_int(), ctypes.c_void_p()
        self("cuDeviceGet", ctypes.byref(self.device), ctypes.c_int(0))
        self("cuDevicePrimaryCtxRetain", ctypes.byref(context), self.device)
        self("cuCtxSetCurrent", context)

    def __call__(self, function: str, *arguments: Any) -> None:
        """Call a driver function. Raises KitError with its error code."""
        if code := getattr(self.library, function)(*arguments):
            raise KitError(f"the CUDA driver's {function} failed with error {code}")

    def gpu(self) -> tuple[str, str]:
        """Name and compute capability of the GPU."""
        name = ctypes.create_string_buffer(256)
        self("cuDeviceGetName", name, ctypes.c_int(256), self.device)
        numbers = []
        for attribute in (75, 76):  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
            number = ctypes.c_int()
            self("cuDeviceGetAttribute", ctypes.byref(number), ctypes.c_int(attribute), self.device)
            numbers.append(str(number.value))
        return name.value.decode(), ".".join(numbers)

    def free_bytes(self) -> int:
        """Free memory of the GPU."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value


def this_place(builder: str, cuda: Cuda) -> EnginePlatform:
    """What this machine is to an engine of that builder."""
    gpu, compute_capability = cuda.gpu()
    return EnginePlatform(builder, version(builder), compute_capability, this_system(), gpu)


def demand_loadable(trt: Any, plan: bytes) -> None:
    """Load an engine once on the GPU that it was built on. Raises KitError: TensorRT-RTX builds for GPUs it has not."""
    logger = _logger(trt)
    runtime = trt.Runtime(logger)
    if runtime.deserialize_cuda_engine(plan) is None:
        raise KitError(f"{trt.__name__} built an engine that this GPU cannot load: {logger.text()}")


class EngineRunner:
    """The kit's engine on this machine's GPU. Raises KitError, with the reason, where it may not run here."""

    def __init__(self, folder: Path) -> None:
        self.kit = read_kit(folder)
        plan, place = read_engine(folder, self.kit)
        self.cuda = Cuda()
        if place.builder not in installed_builders():
            raise KitError(f"the engine needs {place.builder} {place.version}, which is not installed")
        if reason := refusal(place, this_place(place.builder, self.cuda)):
            raise KitError(f"{reason}. Build one here with: python {SCRIPT}")
        self.free_before = self.cuda.free_bytes()
        trt = load_builder(place.builder)
        self.logger = _logger(trt)
        self.runtime = trt.Runtime(self.logger)
        self.engine = self.runtime.deserialize_cuda_engine(plan)
        if self.engine is None:
            raise KitError(f"{place.builder} cannot load the engine: {self.logger.text()}")
        self.context = self.engine.create_execution_context()
        self.stream = ctypes.c_void_p()
        self.cuda("cuStreamCreate", ctypes.byref(self.stream), ctypes.c_uint(0))
        self.buffers: dict[str, tuple[ctypes.c_uint64, int]] = {}

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Outputs by name for NumPy inputs by name; more samples than the profile allows run in several batches."""
        import numpy as np

        first = batched(self.kit["inputs"])
        most = largest_batch(self.kit["inputs"])
        count = np.shape(feeds[first["name"]])[batch_axis(first)]
        parts = []
        for start in range(0, count, most):
            some = {}
            for tensor in self.kit["inputs"]:
                some[tensor["name"]] = part(feeds[tensor["name"]], batch_axis(tensor), start, start + most)
            self.feed(some)
            self.execute()
            parts.append(self.fetch())
        joined = {}
        for tensor in self.kit["outputs"]:
            name, axis = tensor["name"], batch_axis(tensor)
            joined[name] = parts[0][name] if axis is None else np.concatenate([one[name] for one in parts], axis=axis)
        return joined

    def feed(self, feeds: Mapping[str, Any]) -> None:
        """Copy one batch to the GPU and bind inputs and outputs."""
        import numpy as np

        for tensor in self.kit["inputs"]:
            array = np.asarray(feeds[tensor["name"]], tensor["dtype"], order="C")  # which leaves a scalar one
            if not self.context.set_input_shape(tensor["name"], array.shape):
                raise KitError(f"input {tensor['name']} {array.shape} is outside of {tensor['min']} to {tensor['max']}")
            pointer = self._bind(tensor["name"], array.nbytes)
            self.cuda("cuMemcpyHtoD_v2", pointer, ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes))
        self.outputs = {}
        for tensor in self.kit["outputs"]:
            shape = tuple(self.context.get_tensor_shape(tensor["name"]))
            if -1 in shape:
                raise KitError(f"output {tensor['name']} {shape} has a size that depends on the input's values")
            self.outputs[tensor["name"]] = np.empty(shape, tensor["dtype"])
            self._bind(tensor["name"], self.outputs[tensor["name"]].nbytes)

    def execute(self) -> None:
        """Run the bound batch and wait for it."""
        if not self.context.execute_async_v3(self.stream.value):
            raise KitError(f"the engine did not run: {self.logger.text()}")
        self.cuda("cuStreamSynchronize", self.stream)

    def fetch(self) -> dict[str, Any]:
        """Copy the outputs to the host."""
        for name, array in self.outputs.items():
            pointer, size = ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes)
            self.cuda("cuMemcpyDtoH_v2", pointer, self.buffers[name][0], size)
        return self.outputs

    def memory_bytes(self) -> int:
        """GPU memory taken since before the engine was loaded, without the driver's own context."""
        return max(0, self.free_before - self.cuda.free_bytes())

    def close(self) -> None:
        """Give the GPU's memory back."""
        for pointer, _size in self.buffers.values():
            self.cuda("cuMemFree_v2", pointer)
        self.buffers.clear()

    def _bind(self, name: str, size: int) -> ctypes.c_uint64:
        """The tensor's buffer on the GPU, at least `size` bytes."""
        pointer, capacity = self.buffers.get(name, (ctypes.c_uint64(0), 0))
        if capacity < size:
            if capacity:
                self.cuda("cuMemFree_v2", pointer)
            pointer = ctypes.c_uint64(0)
            self.cuda("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(size))
            self.buffers[name] = (pointer, size)
        self.context.set_tensor_address(name, pointer.value)
        return pointer


def snr_db(reference: Any, output: Any) -> float:
    """Signal-to-noise ratio of an output against its reference in dB, at most 200."""
    import numpy as np

    reference, output = np.asarray(reference, np.float64), np.asarray(output, np.float64)
    noise, signal = float(np.square(reference - output).sum()), float(np.square(reference).sum())
    return 200.0 if noise == 0 else 10 * float(np.log10(signal / noise)) if signal else -200.0


def verify(folder: Path) -> dict[str, float]:
    """SNR in dB by output, of the engine against model.onnx in ONNX Runtime. Raises KitError below the kit's least.

    Of a model with states also after some steps, each with the states of the one before.
    """
    import numpy as np

    runner = EngineRunner(folder)
    with np.load(folder / SAMPLE, allow_pickle=False) as data:
        sample = {name: data[name] for name in data.files}
    feeds = {t["name"]: sample[f"input_{t['name']}"] for t in runner.kit["inputs"]}
    outputs = runner.run(feeds)
    found = {name: snr_db(sample[f"output_{name}"], array) for name, array in outputs.items()}
    if runner.kit.get("states"):
        for name, array in after_steps(runner.run, feeds, runner.kit).items():
            found[f"{name} after {STEPS} steps"] = snr_db(sample[f"last_{name}"], array)
    runner.close()
    least = runner.kit["least_snr_db"]
    if low := {name: value for name, value in found.items() if not value >= least}:
        raise KitError(f"the engine's outputs differ: SNR {low} dB, at least {least} dB needed")
    return found


def timed(folder: Path, queries: int) -> dict[str, Any]:
    """Milliseconds of single samples: of the engine alone, and with the copies from and to the host.

    Of a model with states a query is one step, with the states of the one before.
    """
    import numpy as np

    runner = EngineRunner(folder)
    with np.load(folder / SAMPLE, allow_pickle=False) as data:
        first = {t["name"]: part(data[f"input_{t['name']}"], batch_axis(t), 0, 1) for t in runner.kit["inputs"]}
    alone, whole = [], []
    feeds: Mapping[str, Any] = first
    for query in range(WARM_UP + queries):
        if query % STEPS == 0:
            feeds = first
        started = time.perf_counter()
        runner.feed(feeds)
        fed = time.perf_counter()
        runner.execute()
        done = time.perf_counter()
        outputs = runner.fetch()
        whole.append(1000 * (time.perf_counter() - started))
        alone.append(1000 * (done - fed))
        feeds = carried(feeds, outputs, runner.kit)
    memory = runner.memory_bytes()
    runner.close()
    summary = {name: _quantiles(times[WARM_UP:]) for name, times in (("engine_ms", alone), ("with_copies_ms", whole))}
    return summary | {"queries": queries, "gpu_memory_bytes": memory, "gpu": runner.cuda.gpu()[0]}


def _quantiles(times: Sequence[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {f"p{p}": ordered[min(len(ordered) - 1, len(ordered) * p // 100)] for p in (50, 90)}


# --- command line --------------------------------------------------------------------------------------


def rebuild(folder: Path, builder: str | None, compute_capability: str | None) -> str:
    """Build the kit's engine anew and write it. Returns what was done, in words."""
    kit = read_kit(folder)
    ahead = compute_capability is not None
    usable = ["tensorrt-rtx"] if ahead else installed_builders()
    if builder is None and not usable:
        raise KitError("neither tensorrt nor tensorrt-rtx is installed: pip install tensorrt")
    name = builder or usable[0]
    trt = load_builder(name)
    if compute_capability is not None:
        place = EnginePlatform(name, version(name), compute_capability, this_system())
    else:
        place = this_place(name, Cuda())
    started = time.perf_counter()
    plan = build(trt, (folder / MODEL).read_bytes(), kit, compute_capability)
    if not ahead:
        demand_loadable(trt, plan)
    write_engine(folder, kit, plan, place)
    where = "ahead of time for every GPU of compute capability" if ahead else f"on this {place.gpu}, compute capability"
    return (
        f"{ENGINE}: {len(plan):,} bytes, built {where} {place.compute_capability} by {name} {place.version} "
        f"for {place.system} in {time.perf_counter() - started:.1f} s"
    )


def main() -> None:
    """Do what the command line asks. Exit code 1, with the reason, where that cannot be done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compute-capability", help="build ahead of time for this one, such as 8.9")
    parser.add_argument("--builder", choices=list(MODULES), help="default: tensorrt if installed, else tensorrt-rtx")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--check", action="store_true", help="say whether the engine may run here")
    action.add_argument("--verify", action="store_true", help="run the engine, compare with the bundled sample")
    action.add_argument("--time", type=int, metavar="QUERIES", help="time the engine at batch 1")
    arguments = parser.parse_args()
    folder = Path(__file__).resolve().parent
    try:
        if arguments.check:
            EngineRunner(folder).close()
            print("the engine may run here, and loads")
        elif arguments.verify:
            print(json.dumps({"snr_db": verify(folder)}))
        elif arguments.time:
            print(json.dumps(timed(folder, arguments.time)))
        else:
            print(rebuild(folder, arguments.builder, arguments.compute_capability))
    except KitError as error:
        raise SystemExit(f"{SCRIPT}: {error}") from None


if __name__ == "__main__":
    main()
