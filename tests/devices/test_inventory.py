"""The file of devices: what is wrong with an entry is said by field and reason, and takes no other entry with it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_assets.devices.inventory import Device, Inventory, load_devices
from edge_assets.devices.transport import install_command
from edge_assets.errors import InvalidSpec, UnknownName

GOOD = {"target": "raspberry-pi-5", "address": "ssh://pi@kitchen.local:2222"}


def load(tmp_path: Path, text: str) -> Inventory:
    path = tmp_path / "devices.yaml"
    path.write_text(text)
    return load_devices(path)


def entry(fields: dict[str, Any]) -> str:
    return "\n".join(["kitchen-pi:", *(f"  {name}: {value}" for name, value in fields.items())])


def test_a_device_has_what_its_entry_says_and_defaults_for_the_rest(tmp_path: Path) -> None:
    limits = "{temperature: 70, load: 1, free_memory: 256 MiB, free_disk: 1 GiB}"
    found = load(tmp_path, entry(GOOD | {"interpreter": "~/venv/bin/python", "limits": limits}))
    device = found.device("kitchen-pi")
    assert (device.kind, device.interpreter, device.samples) == ("ssh", "~/venv/bin/python", None)
    assert (device.limits.temperature_c, device.limits.free_disk_bytes) == (70, 2**30)
    assert [one.name for one in found.of("raspberry-pi-5")] == ["kitchen-pi"]
    with pytest.raises(UnknownName, match=r"unknown device 'kitchenpi'\. Did you mean kitchen-pi\?"):
        found.device("kitchenpi")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"target": "raspbery-pi-5"}, r"kitchen-pi\.target: unknown target 'raspbery-pi-5'\. Did you mean raspberry"),
        (
            {"address": "http://kitchen"},
            r"kitchen-pi\.address: 'http://kitchen' is none of ssh://user@host:port, local",
        ),
        ({"address": "ssh://pi:raspberry@kitchen"}, r"address: has a password in it: let SSH log in with a key"),
        ({"address": "ssh://-oProxyCommand=x"}, r"address: 'ssh://-oProxyCommand=x' is not of the form"),
        ({"address": "ssh://pi@kitchen:99999"}, r"address: is no address: Port out of range"),
        ({"address": "ssh://pi@kitchen/etc"}, r"is not of the form ssh://user@host:port"),
        ({"address": "emulated"}, r"kitchen-pi\.emulator: names the emulated CPU"),
        (
            {"address": "emulated", "emulator": "cortex-a67"},
            r"kitchen-pi\.emulator: unknown emulated CPU 'cortex-a67'\. Did you mean cortex-a76",
        ),
        (
            {"address": "emulated", "emulator": "haswell"},
            r"emulator: haswell is a CPU of x86_64, raspberry-pi-5 of aarch64",
        ),
        (
            {"address": "emulated", "emulator": "cortex-m4"},
            r"emulator: cortex-m4 runs no Python, so it is no device",
        ),
        ({"password": "x"}, r"kitchen-pi\.password: no secret belongs into this file"),
        ({"private_key": "x"}, r"no secret belongs into this file"),
        ({"limits": "{temperature: hot}"}, r"kitchen-pi\.limits\.temperature"),
        ({"limits": "{free_disk: much}"}, r"'much' is not a size such as '512 MiB'"),
        ({"adress": "local"}, r"kitchen-pi\.adress: is no field that there is. Did you mean address"),
        ({"samples": 3}, r"kitchen-pi\.samples"),
    ],
)
def test_a_wrong_entry_names_the_field_and_the_reason(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    found = load(tmp_path, entry(GOOD | fields) + "\nother:\n  target: raspberry-pi-5\n  address: local\n")
    with pytest.raises(InvalidSpec, match=message):
        found.device("kitchen-pi")
    assert found.device("other").kind == "local"


def test_the_command_that_installs_can_be_pasted() -> None:
    pi = Device("kitchen-pi", "raspberry-pi-5", "ssh://pi@kitchen.local:2222", interpreter="~/venv/bin/python")
    in_home = "ssh -p 2222 pi@kitchen.local '~/venv/bin/python -m pip install numpy'"
    assert install_command(pi, ["numpy"]) == in_home, "its shell expands the ~, which no quotes are around"
    configured = replace(pi, ssh_config="my config")
    assert install_command(configured, ["numpy"]).startswith("ssh -F 'my config' -p 2222 pi@kitchen.local ")
    emulated = Device("pi", "raspberry-pi-5", "emulated", emulator="cortex-a76")
    assert install_command(emulated, ["numpy"]) == "edge-assets emulator install cortex-a76", "never into this Python"


def test_two_devices_of_one_name_and_a_file_that_is_no_yaml(tmp_path: Path) -> None:
    twice = load(tmp_path, entry(GOOD) + "\n" + entry(GOOD))
    assert "already defined" in str(twice.broken["kitchen-pi"])
    with pytest.raises(InvalidSpec, match=r"devices .*cannot be read: .*line 2"):
        load_devices(broken(tmp_path))
    with pytest.raises(InvalidSpec, match=r"nowhere.yaml: cannot be read: No such file or directory$"):
        load_devices(tmp_path / "nowhere.yaml")


def broken(tmp_path: Path) -> Path:
    path = tmp_path / "broken.yaml"
    path.write_text("pi: {\n  - ]")
    return path
