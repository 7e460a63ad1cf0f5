"""How a Jetson board is set: power mode, clocks, temperatures. What cannot be asked is None."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

Ask: TypeAlias = Callable[[list[str]], str | None]

MODEL_FILE = Path("/proc/device-tree/model")
SECONDS = 10.0

_MODE = re.compile(r"NV Power Mode:\s*(?P<name>\S.*)\n\s*(?P<number>\d+)")
_CPU = re.compile(r"^cpu(\d+):.*?MinFreq=(\d+) MaxFreq=(\d+) CurrentFreq=(\d+)", re.MULTILINE)
_UNIT = re.compile(r"^(GPU|EMC)\s.*?MinFreq=(\d+) MaxFreq=(\d+) CurrentFreq=(\d+)", re.MULTILINE)
_FAN = re.compile(r"^\s*FAN Dynamic Speed Control=(\S+)", re.MULTILINE)
_TEMPERATURE = re.compile(r"\b(cpu|gpu|tj|GPU|CPU)@([\d.]+)C")
_RAM = re.compile(r"\bRAM (\d+)/(\d+)MB")


def is_jetson() -> bool:
    """Whether this is a Jetson board."""
    try:
        return "jetson" in MODEL_FILE.read_text(encoding="utf-8", errors="replace").lower()
    except OSError:
        return False


def jetson_state(ask: Ask | None = None) -> dict[str, str | None]:
    """Power mode (`nvpmodel -q`), clocks (`jetson_clocks --show`) and load and heat (one line of
    `tegrastats`), in words for a report.

    `clocks` is "locked" where every unit's least clock is its largest, else "free". Each value is None
    where its command is absent, asks for more rights or answers in words that are not known. `ask`
    runs a command and gives its output, None where that failed.
    """
    ask = ask or _run
    mode, shown, stats = (
        ask(["nvpmodel", "-q"]),
        ask(["jetson_clocks", "--show"]),
        ask(["timeout", "3", "tegrastats", "--interval", "1000"]),
    )
    return {
        "power_mode": None if mode is None else _mode(mode),
        **dict(_clocks(shown or "")),
        **dict(_stats(stats or "")),
    }


def jetson_setting(ask: Ask | None = None) -> dict[str, str]:
    """Power mode and clocks alone, which stay as they were set, named as `jetson_details` names them: what
    must be as it was when an engine was built. Asks neither for heat nor for load, which takes seconds.
    """
    ask = ask or _run
    mode, shown = ask(["nvpmodel", "-q"]), ask(["jetson_clocks", "--show"])
    return jetson_details(
        {
            "power_mode": None if mode is None else _mode(mode),
            "clocks": dict(_clocks(shown or ""))["clocks"],
        }
    )


def jetson_details(state: dict[str, str | None]) -> dict[str, str]:
    """What is known of `state`, as BuildFact.details hold it."""
    return {f"jetson {name}": value for name, value in state.items() if value is not None}


def _mode(text: str) -> str | None:
    found = _MODE.search(text)
    return None if found is None else f"{found['name'].strip()} ({found['number']})"


def _clocks(text: str) -> Iterator[tuple[str, str | None]]:
    cores = [tuple(map(int, found[1:])) for found in _CPU.findall(text)]
    units = {name: tuple(map(int, rest)) for name, *rest in _UNIT.findall(text)}
    every = [*cores, *units.values()]
    locked = all(least == most for least, most, _ in every)
    yield "clocks", None if not every else "locked" if locked else "free"
    yield "cpu_khz", ", ".join(str(core[2]) for core in cores) or None
    for name in ("GPU", "EMC"):
        yield f"{name.lower()}_hz", str(units[name][2]) if name in units else None
    fan = _FAN.search(text)
    yield "fan", None if fan is None else fan[1]


def _stats(text: str) -> Iterator[tuple[str, str | None]]:
    last = next((line for line in reversed(text.splitlines()) if line.strip()), "")
    heat = {name.lower(): value for name, value in _TEMPERATURE.findall(last)}
    yield "celsius", ", ".join(f"{name} {heat[name]}" for name in sorted(heat)) or None
    memory = _RAM.search(last)
    yield "ram_mb", None if memory is None else f"{memory[1]} of {memory[2]}"


def _run(command: list[str]) -> str | None:
    """Output of a command, None where it is absent or fails. `timeout` ends tegrastats, which never does."""
    wanted = command[2] if command[0] == "timeout" else command[0]
    if shutil.which(wanted) is None:
        return None
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    ended_as_told = command[0] == "timeout" and done.returncode == 124
    return done.stdout if done.returncode == 0 or ended_as_told else None
