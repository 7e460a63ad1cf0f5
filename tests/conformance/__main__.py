"""Plays the whole table against a build: `python -m tests.conformance --cli "path/to/reprune"`."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.conformance.table import ACCEPT, REFUSE, attacks
from tests.conformance.world import Worlds, play, wrong


def results(folder: Path, *, cli: str = "", every: int = 1) -> Iterator[tuple[str, str, str]]:
    """Each case that was played: its kind ("refuse", "accept"), its name, and what is wrong with it."""
    worlds = Worlds(folder)
    for kind, cases in (("refuse", REFUSE), ("accept", ACCEPT)):
        for case in cases[::every]:
            seen = play(case, worlds, folder / "played", cli=cli)
            yield kind, case.name, wrong(case, seen, moves=kind == "accept")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--cli", default="", help="the executable (default: this checkout, in process)"
    )
    parser.add_argument("--every", type=int, default=1, help="every n-th case alone")
    given = parser.parse_args()
    began, count, bad = time.monotonic(), {"refuse": 0, "accept": 0}, 0
    with tempfile.TemporaryDirectory(prefix="reprune-conformance-") as folder:
        for kind, _, words in results(Path(folder), cli=given.cli, every=given.every):
            count[kind] += 1
            if words:
                bad += 1
                print(words)
    print(f"by class: {dict(attacks())}")
    print(
        f"{count['refuse']} must-refuse, {count['accept']} must-accept, {bad} wrong, "
        f"{time.monotonic() - began:.0f} s"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
