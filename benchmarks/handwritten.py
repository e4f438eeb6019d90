"""The script that one would write instead: the digits checkpoint converted, verified and measured, nothing else.

    python -m benchmarks.handwritten CHECKPOINT OUTPUT [MODE]

It makes the nine distinct files that the four CPU targets need, compares each with PyTorch eager on the whole
test set, times what this machine runs and takes the peak memory of what the others run. No orchestrator, no
tracking, no store: a second call does everything again.

The same file is the child process that holds one model while it is measured, so heavy libraries are imported
where they are used: a child has only its model's runtime in memory.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

MEAN, STD = 0.3, 0.3
OPSET = 20
CALIBRATION_BATCH, TEST_BATCH = 32, 64
# activations, reduced range
ONNX_INT8 = {"u8s8": ("uint8", False), "u8s8_reduced": ("uint8", True), "s8s8": ("int8", False)}
# engine, reduced range
TORCH_INT8 = {"x86": ("x86", False), "x86_reduced": ("x86", True), "qnnpack": ("qnnpack", False)}
WARM_UP, ROUNDS = 32, 12
MODES = {"rapid": (64, 6.0), "quick": (128, 10.0), "release": (1024, 60.0)}  # least queries and seconds at batch 1
BATCHES = {1: 1.0, 8: 1 / 12, 32: 1 / 12}  # share of the mode's seconds, by batch size
SAMPLES = 256  # test images that queries cycle through

Run = Callable[[np.ndarray], np.ndarray]  # float32 [n, 1, 32, 32] to logits [n, 10]


# --- models and data -----------------------------------------------------------------------------------


def preprocess(images: np.ndarray) -> np.ndarray:
    """uint8 [n, 32, 32, 1] to float32 [n, 1, 32, 32], normalised."""
    scaled = images.astype(np.float32) * np.float32(1 / 255)
    return np.ascontiguousarray(((scaled - np.float32(MEAN)) / np.float32(STD)).transpose(0, 3, 1, 2))


def load_eager(checkpoint: Path) -> "torch.nn.Module":
    """The network with the checkpoint's weights."""
    from safetensors.torch import load_file

    from examples.digits.network import DigitsNet

    model = DigitsNet()
    model.load_state_dict(load_file(checkpoint))
    return model.eval()


def import_runtime(path: Path) -> None:
    """Import what runs a file of this kind."""
    if path.suffix == ".onnx":
        import onnxruntime  # noqa: F401
    else:
        import torch  # noqa: F401


def open_model(path: Path, threads: int) -> Run:
    """A function that runs an ONNX file, a TorchScript file or the checkpoint."""
    if path.suffix == ".onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda images: session.run(["logits"], {"image": images})[0]
    import torch

    torch.set_num_threads(threads)
    if path.suffix == ".pt":
        torch.backends.quantized.engine = "qnnpack" if "qnnpack" in path.name else "x86"
        model: torch.nn.Module = torch.jit.load(path).eval()
    else:
        model = load_eager(path)

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.from_numpy(images)).numpy()

    return run


# --- conversions ---------------------------------------------------------------------------------------


def export_onnx(checkpoint: Path, path: Path) -> None:
    """The checkpoint as ONNX with a dynamic batch."""
    import onnx
    import torch

    program = torch.onnx.export(
        load_eager(checkpoint),
        (torch.rand(2, 1, 32, 32),),
        input_names=["image"],
        output_names=["logits"],
        opset_version=OPSET,
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        external_data=False,
        verbose=False,
    )
    assert program is not None
    onnx.checker.check_model(program.model_proto, full_check=True)
    onnx.save(program.model_proto, path)


def optimize_onnx(source: Path, path: Path) -> None:
    """Operators fused ahead of time, at the highest level that is portable."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def halve_onnx(source: Path, path: Path) -> None:
    """fp16 inside, fp32 at the inputs and outputs."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    model = OnnxModel(convert_float_to_float16(onnx.load(source), keep_io_types=True))
    model.topological_sort()  # the converter appends its Casts at the end
    onnx.checker.check_model(model.model, full_check=True)
    onnx.save(model.model, path)


class CalibrationReader:
    """What quantize_static iterates over."""

    def __init__(self, images: np.ndarray) -> None:
        self.batches: Iterator[np.ndarray] = batches(images, CALIBRATION_BATCH)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch, or None at the end."""
        batch = next(self.batches, None)
        return None if batch is None else {"image": batch}


def batches(images: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """`images` in batches of at most `size`."""
    return (images[start : start + size] for start in range(0, len(images), size))


def quantize_onnx(prepared: Path, path: Path, images: np.ndarray, activations: str, reduce_range: bool) -> None:
    """Static int8 in QDQ form, per channel, with ranges from the calibration images' extremes."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    quantize_static(
        prepared,
        path,
        CalibrationReader(images),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=reduce_range,
        activation_type=QuantType.QUInt8 if activations == "uint8" else QuantType.QInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
    )


def quantize_torch(checkpoint: Path, path: Path, images: np.ndarray, engine: str, reduce_range: bool) -> None:
    """Static int8 by FX graph mode quantization, traced to TorchScript."""
    import torch
    from torch.ao.quantization import QConfig, get_default_qconfig_mapping, observer
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    torch.backends.quantized.engine = engine
    activation = observer.MinMaxObserver.with_args(dtype=torch.quint8, reduce_range=reduce_range)
    weight = observer.PerChannelMinMaxObserver.with_args(dtype=torch.qint8, qscheme=torch.per_channel_symmetric)
    mapping = get_default_qconfig_mapping(engine).set_global(QConfig(activation, weight))
    example = (torch.rand(2, 1, 32, 32),)
    with torch.inference_mode():
        prepared = prepare_fx(load_eager(checkpoint), mapping, example)
        for batch in batches(images, CALIBRATION_BATCH):
            prepared(torch.from_numpy(batch))
        traced = torch.jit.trace(convert_fx(prepared), example, check_trace=False)
        torch.jit.save(torch.jit.freeze(traced.eval()), path)


def convert(checkpoint: Path, output: Path, images: np.ndarray) -> dict[str, Path]:
    """Every distinct file, by name. `images` are the preprocessed calibration images."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    onnx_names = ("onnx_model", "onnx_optimized", "onnx_fp16", *(f"onnx_int8_{flavour}" for flavour in ONNX_INT8))
    files = {name: output / f"{name}.onnx" for name in onnx_names}
    files |= {f"torch_int8_{flavour}": output / f"torch_int8_{flavour}.pt" for flavour in TORCH_INT8}
    source, prepared = files["onnx_model"], output / "prepared.onnx"
    export_onnx(checkpoint, source)
    optimize_onnx(source, files["onnx_optimized"])
    halve_onnx(source, files["onnx_fp16"])
    quant_pre_process(source, prepared)
    for flavour, (activations, reduce_range) in ONNX_INT8.items():
        quantize_onnx(prepared, files[f"onnx_int8_{flavour}"], images, activations, reduce_range)
    for flavour, (engine, reduce_range) in TORCH_INT8.items():
        quantize_torch(checkpoint, files[f"torch_int8_{flavour}"], images, engine, reduce_range)
    return files


# --- verification --------------------------------------------------------------------------------------


def evaluate(run: Run, images: np.ndarray) -> np.ndarray:
    """Logits of the whole test set."""
    return np.concatenate([run(batch) for batch in batches(images, TEST_BATCH)])


def snr_db(reference: np.ndarray, output: np.ndarray) -> float:
    """Signal-to-noise ratio of `output`, in dB."""
    noise = np.square(reference.astype(np.float64) - output).sum()
    return float(10 * np.log10(np.square(reference.astype(np.float64)).sum() / max(noise, 1e-30)))


def parity(run: Run, images: np.ndarray, reference: np.ndarray) -> float:
    """The worst SNR in batches of 1, 2 and 5."""
    parts = (slice(0, 1), slice(1, 3), slice(3, 8))
    return min(snr_db(reference[part], run(images[part])) for part in parts)


def verify(files: dict[str, Path], checkpoint: Path, images: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Accuracy, its drop against PyTorch eager in fp32, and parity, by name."""
    cores = len(os.sched_getaffinity(0))
    reference = evaluate(open_model(checkpoint, cores), images)
    hits = reference.argmax(1) == labels
    results: dict[str, Any] = {"eager": {"accuracy": float(hits.mean())}}
    for name, path in files.items():
        run = open_model(path, cores)
        accuracy = float((evaluate(run, images).argmax(1) == labels).mean())
        results[name] = {
            "accuracy": accuracy,
            "drop_points": 100 * (float(hits.mean()) - accuracy),
            "snr_db": parity(run, images, reference),
            "size_bytes": path.stat().st_size,
        }
    return results


# --- measurement ---------------------------------------------------------------------------------------


@dataclass
class Child:
    """A process that holds one model; one JSON line in, one out."""

    process: "subprocess.Popen[str]"

    def ask(self, *request: Any) -> Any:
        """Send one request and wait for its answer."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        """Let it end."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def start_child(path: Path, inputs: Path) -> Child:
    """A child for one file."""
    command = [sys.executable, "-m", "benchmarks.handwritten", "--child", str(path), str(inputs)]
    return Child(
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    )


def measure(files: dict[str, Path], inputs: Path, threads: int, mode: str | None) -> dict[str, Any]:
    """Load time and peak memory of each file and, with a `mode`, latencies by batch size, interleaved."""
    children = {name: start_child(path, inputs) for name, path in files.items()}
    results = {name: child.ask("load", threads) for name, child in children.items()}
    for batch in BATCHES if mode else ():
        for name, milliseconds in interleave(children, batch, *MODES[mode or ""]).items():
            results[name][f"batch_{batch}"] = summarize(milliseconds)
    for child in children.values():
        child.close()
    return results


def interleave(children: dict[str, Child], batch: int, least: int, seconds: float) -> dict[str, list[float]]:
    """Latencies in ms: twelve turns in rotation, then more of those that have too few."""
    if batch > 1:
        for child in children.values():
            child.ask("warm_up", batch)
    turn = seconds * BATCHES[batch] / ROUNDS
    times: dict[str, list[float]] = {name: [] for name in children}
    rounds, waiting = 0, list(children)
    while waiting:
        for name in waiting:
            times[name] += children[name].ask("time", batch, turn)
        rounds += 1
        waiting = [name for name in waiting if rounds < ROUNDS or len(times[name]) < least]
    return times


def summarize(milliseconds: list[float]) -> dict[str, float]:
    """Mean, spread and percentiles."""
    percentiles = {f"p{p}": float(np.percentile(milliseconds, p)) for p in (50, 90, 95, 99)}
    spread = {"mean": float(np.mean(milliseconds)), "std": float(np.std(milliseconds, ddof=1))}
    return {"queries": len(milliseconds), **spread, **percentiles}


def child_main(path: Path, inputs: Path) -> None:
    """Serve `load`, `warm_up` and `time` until standard input closes."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a runtime that prints must not break the protocol
    images = np.load(inputs)
    import_runtime(path)
    run: Run | None = None
    for line in sys.stdin:
        command, *arguments = json.loads(line)
        answer: Any = None
        if command == "load":
            started = time.perf_counter()
            run = open_model(path, arguments[0])
            loaded = 1000 * (time.perf_counter() - started)
            query(run, images, 1, count=WARM_UP)
            answer = {"load_ms": loaded, "peak_bytes": peak_bytes()}
        elif run and command == "warm_up":
            query(run, images, arguments[0], count=WARM_UP)
        elif run and command == "time":
            answer = query(run, images, arguments[0], seconds=arguments[1])
        print(json.dumps(answer), file=answers, flush=True)


def query(run: Run, images: np.ndarray, batch: int, count: int = 10**6, seconds: float = 60.0) -> list[float]:
    """Latencies in ms of `count` queries or `seconds`, whichever ends first."""
    times: list[float] = []
    deadline = time.perf_counter() + seconds
    for i in range(count):
        start = i * batch % (len(images) - batch + 1)
        started = time.perf_counter()
        run(images[start : start + batch])
        ended = time.perf_counter()
        times.append(1000 * (ended - started))
        if ended > deadline:
            break
    return times


def peak_bytes() -> int:
    """This process's peak resident memory (Linux)."""
    return 1024 * int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])


# --- all of it -----------------------------------------------------------------------------------------


def measure_targets(files: dict[str, Path], checkpoint: Path, inputs: Path, mode: str) -> dict[str, Any]:
    """Timings on this machine's target, and memory for the three targets that are not at hand."""
    local, other = ("u8s8", "u8s8_reduced") if has_vnni() else ("u8s8_reduced", "u8s8")
    portable = {"eager": checkpoint} | {name: files[name] for name in ("onnx_model", "onnx_optimized", "onnx_fp16")}

    def contestants(flavour: str, engine: str) -> dict[str, Path]:
        names = (f"onnx_int8_{flavour}", f"torch_int8_{engine}")
        return portable | {name: files[name] for name in names}

    arm = contestants("s8s8", "qnnpack")
    two = min(4, len(os.sched_getaffinity(0)))
    return {
        "local": measure(contestants(local, local.replace("u8s8", "x86")), inputs, threads=1, mode=mode),
        "other_x86": measure(contestants(other, other.replace("u8s8", "x86")), inputs, threads=1, mode=None),
        "raspberry_pi": measure(arm, inputs, threads=two, mode=None),
        "graviton": measure(arm, inputs, threads=1, mode=None),
    }


def has_vnni() -> bool:
    """Whether this x86-64 machine has VNNI, which decides the flavour of int8."""
    flags = Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split()
    return "avx512_vnni" in flags or "avx_vnni" in flags


def main(checkpoint: Path, output: Path, mode: str = "rapid") -> None:
    """Convert, verify, measure, and write report.json with the results and the CPU seconds of each phase."""
    from examples.digits.data import calibration, evaluation

    marks = {"start": cpu_seconds()}
    calibration_images = preprocess(calibration()["image"])
    test = evaluation()
    test_images, labels = preprocess(test["image"]), test["label"]
    inputs = output / "inputs.npy"
    np.save(inputs, test_images[:SAMPLES])
    marks["data"] = cpu_seconds()
    files = convert(checkpoint, output, calibration_images)
    marks["conversion"] = cpu_seconds()
    verified = verify(files, checkpoint, test_images, labels)
    marks["verification"] = cpu_seconds()
    measured = measure_targets(files, checkpoint, inputs, mode)
    marks["measurement"] = cpu_seconds()
    phases = {name: marks[name] - before for name, before in zip(list(marks)[1:], marks.values(), strict=False)}
    report = {"verified": verified, "measured": measured, "cpu_seconds": phases}
    (output / "report.json").write_text(json.dumps(report, indent=1))


def cpu_seconds() -> float:
    """User and system time of this process and of the children that ended."""
    return sum(os.times()[:4])


if __name__ == "__main__":
    if sys.argv[1] == "--child":
        child_main(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
