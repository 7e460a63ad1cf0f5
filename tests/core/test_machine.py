"""What a machine's CPU is called, by what Linux and macOS say of it; the kit's own copy says the same."""

from __future__ import annotations

import pytest

from reprune.core.machine import cpu_name
from reprune.measure import kit_runner

CORE = """processor\t: {number}
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: {variant}
CPU part\t: {part}
CPU revision\t: {revision}

"""


def arm(*cores: tuple[str, str, str]) -> str:
    """/proc/cpuinfo of 64-bit ARM: (part, variant, revision) of each core."""
    return "".join(
        CORE.format(number=number, part=part, variant=variant, revision=revision)
        for number, (part, variant, revision) in enumerate(cores)
    )


PI_4 = arm(*[("0xd08", "0x0", "3")] * 4) + (
    "Hardware\t: BCM2835\nRevision\t: c03114\nModel\t\t: Raspberry Pi 4 Model B Rev 1.4\n"
)
PI_4_OF_32_BITS = CORE.format(number=0, part="0xd08", variant="0x0", revision="3").replace(
    "BogoMIPS", "model name\t: ARMv7 Processor rev 3 (v7l)\nBogoMIPS"
)
PI_5 = arm(*[("0xd0b", "0x4", "1")] * 4) + (
    "Revision\t: c04170\nModel\t\t: Raspberry Pi 5 Model B Rev 1.0\n"
)
BIG_LITTLE = arm(("0xd05", "0x2", "0"), ("0xd05", "0x2", "0"), ("0xd0b", "0x4", "0"))
X86 = """processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 167
model name\t: Intel(R) Xeon(R) Processor @ 2.60GHz
power management:

processor\t: 1
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Processor @ 2.60GHz
"""


@pytest.mark.parametrize("name", [cpu_name, kit_runner.cpu_name])
@pytest.mark.parametrize(
    ("cpuinfo", "board", "brand", "expected"),
    [
        (
            PI_4,
            "Raspberry Pi 4 Model B Rev 1.4\0",
            "",
            "Raspberry Pi 4 Model B Rev 1.4, ARM 0x41:0xd08 0x0 r3",
        ),
        (
            PI_4_OF_32_BITS,
            "Raspberry Pi 4 Model B Rev 1.4\0",
            "",
            "Raspberry Pi 4 Model B Rev 1.4, ARM 0x41:0xd08 0x0 r3",
        ),
        (
            PI_5,
            "Raspberry Pi 5 Model B Rev 1.0\0",
            "",
            "Raspberry Pi 5 Model B Rev 1.0, ARM 0x41:0xd0b 0x4 r1",
        ),
        (BIG_LITTLE, "", "", "ARM 0x41:0xd05 0x2 r0, ARM 0x41:0xd0b 0x4 r0"),
        (X86, "", "", "Intel(R) Xeon(R) Processor @ 2.60GHz"),
        (X86, "An x86 board with a device tree\0", "", "Intel(R) Xeon(R) Processor @ 2.60GHz"),
        ("", "", "Apple M2 Pro\n", "Apple M2 Pro"),
        ("", "", "", ""),
    ],
)
def test_a_cpu_is_named(name: object, cpuinfo: str, board: str, brand: str, expected: str) -> None:
    """Two boards of different speed have two names; that of x86 is what it always was."""
    assert callable(name)
    assert name(cpuinfo, board, brand) == expected
