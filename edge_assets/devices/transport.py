"""How a Python process is started on a device whose standard streams are ours: over SSH, here, or emulated.

SSH is the user's own: its configuration, agent and known hosts, strictly. Nothing is asked, so nothing hangs.
"""

import json
import shlex
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from edge_assets.devices import packing
from edge_assets.devices.inventory import Device
from edge_assets.errors import DeviceError, MissingTool, printable

OPTIONS = (
    "-T",
    "-oBatchMode=yes",
    "-oStrictHostKeyChecking=yes",
    "-oConnectTimeout=15",
    "-oServerAliveInterval=5",
    "-oServerAliveCountMax=4",
)
NEED, HAVE = b"edge-assets: need\n", b"edge-assets: have\n"
# what ssh, a shell, or the first lines of the agent write, and what that means for a person; the first that fits counts
MEANINGS = (
    (
        "HOST IDENTIFICATION HAS CHANGED",
        "its host key is not the one that SSH knows: if it was installed anew, {forget}",
    ),
    ("Host key verification failed", "SSH does not know its host key: log in once by hand, {by_hand}"),
    ("Permission denied", "SSH may not log in: try by hand, {by_hand}"),
    ("Connection refused", "nothing answers at that address and port: is it on, and does it run sshd?"),
    ("Could not resolve hostname", "its host name {host} is not known"),
    ("Can't open user config file", "its ssh_config cannot be read: {config}"),
    ("timed out", "it does not answer: is it on, and in this network?"),
    ("No route to host", "it does not answer: is it on, and in this network?"),
    ("edge-assets: Python", "its interpreter is older than Python 3.9, which the agent needs: set `interpreter`"),
    ("edge-assets: no NumPy", "its interpreter has no NumPy: {numpy}"),
    ("edge-assets: folder", "its folder {folder} cannot be written: set `folder`"),
    ("edge-assets: changed", "the agent arrived with other bytes than were sent: try again"),
    ("No space left", "its disk is full: {folder} could not be written"),
    ("not found", "there is no interpreter '{interpreter}' on it: set `interpreter`"),
    ("No such file", "there is no interpreter '{interpreter}' on it: set `interpreter`"),
    ("Connection closed", "the connection was cut"),
    ("closed by remote host", "the connection was cut"),
    ("Broken pipe", "the connection was cut"),
)
# Run by `python -c` on the device: takes the agent from the standard input where it is not there yet, and runs it.
BOOT = """
import hashlib, os, runpy, sys
folder, sha256, size, settings = sys.argv[1:]
if sys.version_info < (3, 9):
    sys.exit("edge-assets: Python %d.%d" % sys.version_info[:2])
try:
    import numpy
except ImportError:
    sys.exit("edge-assets: no NumPy")
sys.path[:] = [entry for entry in sys.path if entry]
folder = os.path.expanduser(folder)
try:
    os.makedirs(folder, 0o700, exist_ok=True)
    writable = os.access(folder, os.W_OK)
except OSError:
    writable = False
if not writable:
    sys.exit("edge-assets: folder")
path = os.path.join(folder, "agent-" + sha256 + ".pyz")
content = b""
if os.path.exists(path):
    with open(path, "rb") as file:
        content = file.read()
if hashlib.sha256(content).hexdigest() == sha256:
    answer = b"edge-assets: have\\n"
else:
    answer = b"edge-assets: need\\n"
sys.stdout.buffer.write(answer)
sys.stdout.buffer.flush()
if b"need" in answer:
    content = sys.stdin.buffer.read(int(size))
    if hashlib.sha256(content).hexdigest() != sha256:
        sys.exit("edge-assets: changed")
    for name in os.listdir(folder):
        if name.startswith("agent-"):
            os.unlink(os.path.join(folder, name))
    with open(path + ".part", "wb") as file:
        file.write(content)
    os.replace(path + ".part", path)
sys.argv = [path, settings]
runpy.run_path(path, run_name="__main__")
"""


def command(device: Device) -> list[str]:
    """What starts the agent on the device. Raises DeviceError or MissingTool."""
    if device.kind == "browser":
        raise DeviceError(f"{device.name} is a browser, which comes by itself: edge-assets devices browser")
    agent = packing.packed()
    settings = {"home": device.folder, "version": agent.sha256, "power": device.power, "root": device.sensors}
    arguments = ["-c", BOOT, device.folder, agent.sha256, str(len(agent.content)), json.dumps(settings)]
    if device.kind == "ssh":
        return [*ssh(device), remote([device.interpreter, *arguments])]
    if device.kind == "local":
        return [_interpreter_here(device), *arguments]
    from edge_assets.devices.emulators import installed

    assert device.emulator is not None
    return installed(device.emulator).command(*arguments)


def ssh(device: Device) -> list[str]:
    """SSH's command line up to the remote command. Raises MissingTool."""
    program = shutil.which("ssh")
    if program is None:
        raise MissingTool("ssh", None, "apt-get install openssh-client")
    parts = urlsplit(device.address)
    found = [program, *OPTIONS]
    if device.ssh_config:
        found += ["-F", str(Path(device.ssh_config).expanduser())]
    if parts.port:
        found += ["-p", str(parts.port)]
    if parts.username:
        found += ["-l", parts.username]
    assert parts.hostname
    return [*found, "--", parts.hostname]


def remote(arguments: Sequence[str]) -> str:
    """A command line for the device's shell, whatever characters are in it. A leading ~ is the device's home."""
    return f"exec {_line(arguments)}"


def _line(arguments: Sequence[str]) -> str:
    """Arguments as a shell takes them; the ~ of the first stays its to expand."""
    first, *rest = arguments
    program = shlex.quote(first)
    if first.startswith("~/"):
        program = f"~/{shlex.quote(first[2:])}"
    return " ".join([program, *(shlex.quote(argument) for argument in rest)])


def install_command(device: Device, packages: Iterable[str]) -> str:
    """The one command that installs packages on the device."""
    if device.emulator is not None:  # what it has are this environment's runtimes, in their versions
        return f"edge-assets emulator install {device.emulator}"
    pip = _line([device.interpreter, "-m", "pip", "install", *packages])
    if device.kind != "ssh":
        return pip
    return " ".join(["ssh", *by_hand_arguments(device), shlex.quote(pip)])


def _interpreter_here(device: Device) -> str:
    if device.interpreter == "python3":
        return sys.executable
    found = shutil.which(str(Path(device.interpreter).expanduser()))
    if found is None:
        raise DeviceError(f"{device.name}: there is no interpreter '{printable(device.interpreter)}' here")
    return found


def why_not(device: Device, said: str) -> str:
    """Why an agent did not start, or stopped, in one sentence, by what was written to its standard error."""
    parts = urlsplit(device.address)
    host = parts.hostname or device.name
    known = f"[{host}]:{parts.port}" if parts.port else host
    by_hand = " ".join(["ssh", *by_hand_arguments(device)])
    lines = said.strip().splitlines()
    for text, meaning in MEANINGS:
        if _is_said(text, lines):
            return meaning.format(
                by_hand=by_hand,
                forget=f"ssh-keygen -R '{known}' and then {by_hand}",
                interpreter=printable(device.interpreter),
                numpy=install_command(device, ["numpy"]),
                folder=device.folder,
                host=host,
                config=printable(device.ssh_config),
            )
    if not lines:
        return "its agent ended without a word"
    return f"its agent ended: {printable(lines[-1], 300).rstrip('.')}"


def _is_said(text: str, lines: Sequence[str]) -> bool:
    """Whether it is in a line. What the agent says begins one: what is no Python may print the program that it got."""
    if text.startswith("edge-assets:"):
        return any(line.startswith(text) for line in lines)
    return any(text in line for line in lines)


def by_hand_arguments(device: Device) -> list[str]:
    """What a person gives to `ssh` to log in."""
    parts = urlsplit(device.address)
    found = ["-F", shlex.quote(device.ssh_config)] if device.ssh_config else []
    found += ["-p", str(parts.port)] if parts.port else []
    host = parts.hostname or device.name
    return [*found, f"{parts.username}@{host}" if parts.username else host]
