"""What a device says of itself while it is measured: temperature, clock, throttling, power.

All by the files in which Linux shows them (Documentation/ABI/testing: sysfs-class-thermal, sysfs-class-powercap,
sysfs-class-hwmon and sysfs-devices-system-cpu), by `vcgencmd` on a Raspberry Pi and by `nvidia-smi` for GPUs. What a
device does not say is None, never a guess.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

THROTTLED_NOW = 0b1111  # under-voltage, capped, throttled, soft limit (Raspberry Pi documentation, get_throttled)
PERIOD = 0.1  # seconds between readings of a power sensor
PATIENCE = 5  # seconds for a command
GLANCE = 0.3  # seconds over which it is seen whether the cores do something


class Sensors:
    """The sensors of this device; `root` is where its file system begins, `power` names a file in microwatts."""

    def __init__(self, root: Path = Path("/"), power: str | None = None) -> None:
        self.root = root
        self.power = power

    def now(self) -> dict[str, Any]:
        """Temperature of the hottest zone in Celsius, clock in MHz, busy cores, free memory, throttling."""
        return {
            "temperature_c": self.temperature(),
            "frequency_mhz": self._frequency(),
            "throttled": self.throttled(),
            "throttle_events": self._throttle_events(),
            "busy_cores": self._busy(),
            "free_memory_bytes": self._free_memory(),
        }

    def temperature(self) -> float | None:
        """Of the hottest thermal zone, or of the GPU where that is hotter."""
        found = []
        for zone in self._below("sys/class/thermal", "thermal_zone*/temp"):
            reading = _number(zone)
            if reading is not None:
                found.append(reading / 1000)
        gpu = _nvidia("temperature.gpu")
        if gpu is not None:
            found.append(gpu)
        return max(found, default=None)

    def throttled(self) -> bool | None:
        """Whether the device holds itself back now."""
        if self.root == Path("/") and shutil.which("vcgencmd"):
            said = _said(["vcgencmd", "get_throttled"])
            if said and said.startswith("throttled="):
                return bool(int(said.partition("=")[2], 16) & THROTTLED_NOW)
        states = []
        for device in self._below("sys/class/thermal", "cooling_device*"):
            kind = _text(device / "type") or ""
            if kind.lower().startswith(("processor", "cpufreq", "thermal-cpufreq")):
                states.append(_number(device / "cur_state"))
        known = [state for state in states if state is not None]
        return any(known) if known else None

    def energy_uj(self) -> float | None:
        """The counter of energy in microjoules where there is one (Intel and AMD's RAPL)."""
        found = []
        for package in self._below("sys/class/powercap", "intel-rapl:?/energy_uj"):
            reading = _number(package)
            if reading is not None:
                found.append(reading)
        return sum(found) if found else None

    def watts(self) -> float | None:
        """Power now: of the sensor that the device file names, of the board's own, or of the GPU."""
        if self.power is not None:
            reading = _number(self.root / self.power.lstrip("/"))
            return None if reading is None else reading / 1e6
        for sensor in self._below("sys/class/hwmon", "hwmon*/power1_input"):
            reading = _number(sensor)
            if reading is not None:
                return reading / 1e6
        return _nvidia("power.draw")

    def _frequency(self) -> float | None:
        found = []
        for core in self._below("sys/devices/system/cpu", "cpu[0-9]*/cpufreq/scaling_cur_freq"):
            reading = _number(core)
            if reading is not None:
                found.append(reading / 1000)
        return min(found, default=None)

    def _throttle_events(self) -> int | None:
        """How often the cores were throttled since the device started, where they count it."""
        found = []
        for core in self._below("sys/devices/system/cpu", "cpu[0-9]*/thermal_throttle/core_throttle_count"):
            reading = _number(core)
            if reading is not None:
                found.append(int(reading))
        return sum(found) if found else None

    def _busy(self) -> float | None:
        """Cores that do something now. Not the load average: that still counts what was measured a minute ago."""
        before = self._ticks()
        time.sleep(GLANCE)
        after = self._ticks()
        if before is None or after is None:
            return None
        return max(0.0, after - before) / os.sysconf("SC_CLK_TCK") / GLANCE

    def _ticks(self) -> int | None:
        """proc(5), /proc/stat: clock ticks of all cores in which they were not idle, nor taken by a host."""
        said = _text(self.root / "proc/stat")
        if said is None:
            return None
        user, nice, system, _idle, _waiting, interrupts, soft = said.split("\n", 1)[0].split()[1:8]
        return sum(int(ticks) for ticks in (user, nice, system, interrupts, soft))

    def _free_memory(self) -> int | None:
        said = _text(self.root / "proc/meminfo") or ""
        _, found, rest = said.partition("MemAvailable:")
        return 1024 * int(rest.split()[0]) if found else None

    def _below(self, folder: str, pattern: str) -> list[Path]:
        return sorted((self.root / folder).glob(pattern))


class Watch:
    """Energy between two moments: by a counter, else by readings of a power sensor in a thread, else unknown."""

    def __init__(self, sensors: Sensors) -> None:
        self.sensors = sensors
        self.began = time.perf_counter()
        self.counter = None if sensors.power else sensors.energy_uj()  # a sensor that is named is of the whole device
        self.readings: list[float] = []
        self.ended = threading.Event()
        self.thread: threading.Thread | None = None
        if self.counter is None and sensors.watts() is not None:
            self.thread = threading.Thread(target=self._read, daemon=True)
            self.thread.start()

    def joules(self) -> float | None:
        """Of the whole device since the beginning; ends the watch."""
        self.ended.set()
        if self.counter is not None:
            now = self.sensors.energy_uj()
            if now is None or now < self.counter:  # it began anew at its largest number
                return None
            return (now - self.counter) / 1e6
        if self.thread is None:
            return None
        self.thread.join(timeout=PATIENCE)
        if not self.readings:
            return None
        return sum(self.readings) / len(self.readings) * (time.perf_counter() - self.began)

    def _read(self) -> None:
        while not self.ended.wait(PERIOD):
            reading = self.sensors.watts()
            if reading is not None:
                self.readings.append(reading)


def _nvidia(field: str) -> float | None:
    """One number that `nvidia-smi` says of the first GPU."""
    if not shutil.which("nvidia-smi"):
        return None
    said = _said(["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits", "--id=0"])
    try:
        return float(said) if said else None
    except ValueError:  # "[N/A]"
        return None


def _said(command: list[str]) -> str | None:
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ran.stdout.strip() if ran.returncode == 0 else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return None
