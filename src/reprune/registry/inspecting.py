"""`python -m reprune.registry.inspecting BOUNDS FILE`: whether weights are sound, in a confined process."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from reprune.core.confined import Bounds, ask_confined, serve
from reprune.core.errors import CheckpointError
from reprune.registry.weights import check_weights

# What reading takes beyond the file itself, which is mapped whole.
_MEMORY_BYTES = 2**29
_SECONDS, _BYTES_A_SECOND = 30, 20 * 2**20


def check_apart(path: Path) -> None:
    """As `weights.check_weights`, but in a process that can do nothing else and that may die of it."""
    size = path.stat().st_size
    bounds = Bounds(memory_bytes=_MEMORY_BYTES + size, seconds=_SECONDS + size // _BYTES_A_SECOND)
    ask_confined(
        "reprune.registry.inspecting",
        [str(path)],
        bounds,
        doing=f"reading {path.name}",
        refusal=CheckpointError,
    )


def _check(arguments: Sequence[str]) -> bytes:
    check_weights(Path(arguments[0]))
    return b"{}"


if __name__ == "__main__":
    # Loaded before the memory is counted.
    import safetensors.numpy  # noqa: F401

    sys.exit(serve(sys.argv[1:], _check))
