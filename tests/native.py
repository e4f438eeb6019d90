"""Compiles and runs what a release gives an app developer in C and C++, where a compiler and the headers are here."""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

INCLUDE = Path("usr/include/onnxruntime")
STRICT = ("-Wall", "-Wextra", "-Wpedantic", "-Werror", "-ffp-contract=off")


def compiler(name: str) -> str:
    """The compiler's path; without it the test is skipped."""
    if path := shutil.which(name):
        return path
    pytest.skip(f"{name} is not installed")


def run_c(source: Path, *arguments: str) -> bytes:
    """What a program of one C file prints: compiled as C99 with every warning an error."""
    program = source.with_suffix("")
    command = [compiler("gcc"), "-std=c99", *STRICT, str(source), "-o", str(program), "-lm"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return subprocess.run([str(program), *arguments], check=True, capture_output=True, timeout=60).stdout


def onnxruntime(folder: Path) -> Path:
    """ONNX Runtime as its release for C and C++ has it: `include/` from Debian's package, `lib/` from the wheel's."""
    here = [place for place in (ROOT / ".headers" / INCLUDE, Path("/") / INCLUDE) if place.is_dir()]
    if not here:
        pytest.skip("ONNX Runtime's C++ headers are not here: run tests/onnxruntime_headers.sh .headers")
    found = importlib.util.find_spec("onnxruntime")
    assert found is not None
    assert found.origin is not None
    libraries = list((Path(found.origin).parent / "capi").glob("libonnxruntime.so.*"))
    if not libraries:
        pytest.skip("this ONNX Runtime has no libonnxruntime.so")
    (folder / "lib").mkdir(parents=True)
    (folder / "include").symlink_to(here[0])
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / "lib" / name).symlink_to(libraries[0])
    return folder


def run_onnx_sample(released: Path, ort: Path) -> str:
    """What the C++ sample of a released folder prints, built and run by the line of its model card."""
    compiler("c++")
    (line,) = re.findall(r"\*\*Build and run\*\*: `(.*?)`", (released / "MODEL_CARD.md").read_text())
    environment = os.environ | {"ORT": str(ort), "LD_LIBRARY_PATH": str(ort / "lib")}
    result = subprocess.run(
        ["sh", "-c", line], cwd=released, env=environment, capture_output=True, text=True, timeout=240
    )
    assert result.returncode == 0, f"{shlex.quote(line)}\n{result.stderr}"
    return result.stdout


def largest_differences(printed: str) -> dict[str, float]:
    """By output, what a sample said of how far it is from the outputs recorded at release."""
    lines = re.findall(
        r"^(\w+): largest difference from the outputs recorded at release: (\S+)$", printed, re.MULTILINE
    )
    return {name: float(difference) for name, difference in lines}
