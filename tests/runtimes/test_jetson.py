"""How a Jetson is set, read from texts as its tools print them."""

from __future__ import annotations

import pytest

from reprune.runtimes.jetson import is_jetson, jetson_details, jetson_setting, jetson_state

NVPMODEL = """NV Power Mode: MAXN
0
"""
CLOCKS = """SOC family:tegra234  Machine:NVIDIA Jetson AGX Orin Developer Kit
Online CPUs: 0-1
cpu0:  Online=1 Governor=schedutil MinFreq={least} MaxFreq=2201600 CurrentFreq=1728000 IdleStates: WFI=1 c7=1
cpu1:  Online=1 Governor=schedutil MinFreq={least} MaxFreq=2201600 CurrentFreq=1728000 IdleStates: WFI=1 c7=1
GPU MinFreq={gpu} MaxFreq=1300500000 CurrentFreq=306000000
EMC MinFreq=3199000000 MaxFreq=3199000000 CurrentFreq=3199000000 FreqOverride=0
FAN Dynamic Speed Control=nvfancontrol hwmon1_pwm1=0
NV Power Mode: MAXN
"""
TEGRASTATS = (
    "01-01-2026 10:00:00 RAM 4242/30536MB (lfb 4x4MB) SWAP 0/15268MB (cached 0MB) "
    "CPU [1%@1728,0%@1728] GR3D_FREQ 0% cpu@48.5C soc2@45.1C tj@49.2C gpu@44.9C VDD_GPU_SOC 2000mW/2000mW\n"
)


def board(clocks: str) -> dict[str, str]:
    return {"nvpmodel": NVPMODEL, "jetson_clocks": clocks, "timeout": TEGRASTATS}


def test_mode_clocks_and_heat_are_read() -> None:
    """Clocks that may move are free, whatever they are at the moment."""
    texts = board(CLOCKS.format(least=115200, gpu=306000000))
    state = jetson_state(lambda command: texts[command[0]])
    assert state == {
        "power_mode": "MAXN (0)",
        "clocks": "free",
        "cpu_khz": "1728000, 1728000",
        "gpu_hz": "306000000",
        "emc_hz": "3199000000",
        "fan": "nvfancontrol",
        "celsius": "cpu 48.5, gpu 44.9, tj 49.2",
        "ram_mb": "4242 of 30536",
    }
    assert jetson_details(state)["jetson clocks"] == "free"


@pytest.mark.parametrize(
    ("least", "gpu", "clocks"),
    [(2201600, 1300500000, "locked"), (2201600, 306000000, "free"), (115200, 1300500000, "free")],
)
def test_clocks_are_locked_only_if_all_of_them_are(least: int, gpu: int, clocks: str) -> None:
    """One unit that may change its clock is enough to change a latency."""
    texts = board(CLOCKS.format(least=least, gpu=gpu))
    assert jetson_state(lambda command: texts[command[0]])["clocks"] == clocks


def test_the_setting_is_what_the_build_tells_of_it() -> None:
    """The same words for mode and clocks, so that a benchmark's can be compared; nothing that moves."""
    texts = board(CLOCKS.format(least=115200, gpu=306000000))
    asked: list[str] = []

    def ask(command: list[str]) -> str:
        asked.append(command[0])
        return texts[command[0]]

    setting = jetson_setting(ask)
    assert setting == {"jetson power_mode": "MAXN (0)", "jetson clocks": "free"}
    assert setting.items() <= jetson_details(jetson_state(lambda one: texts[one[0]])).items()
    assert asked == ["nvpmodel", "jetson_clocks"]
    assert jetson_setting(lambda _: None) == {}


def test_what_cannot_be_asked_is_none() -> None:
    """Absent tools, no rights, and words that nobody knows."""
    for answer in (None, "", "Error: must be run as root\n"):
        state = jetson_state(lambda _, answer=answer: answer)
        assert set(state.values()) == {None}
        assert jetson_details(state) == {}


def test_this_machine_answers_whatever_it_is() -> None:
    """The real commands, which are mostly not there."""
    state = jetson_state()
    assert {"power_mode", "clocks"} <= set(state)
    if not is_jetson():
        assert state["power_mode"] is None
