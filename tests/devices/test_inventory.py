"""The file of devices: what is wrong with an entry is said by field and reason, and takes no other entry with it."""

from pathlib import Path
from typing import Any

import pytest

from edge_assets.devices.inventory import Inventory, load_devices
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
