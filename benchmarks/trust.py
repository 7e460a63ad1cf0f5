"""What gets through that should not, and what does not that should: the gate attacked from outside.

Parts, each of which can be run alone and adds its figures to those in the file of `--json`:

    pack        the conformance pack (tests/conformance), every case
    monotonic   100,000 random mutations of receipts, policies and a verdict that are refused
    fields      every field of these, and of every part of a verdict, deleted, nulled, doubled, reordered
    swaps_files, swaps_champion, swaps_calls, swaps_stored
                files swapped at every look that promote takes, and around every call of the registry
                (tests/swap_plans.py)
    vectors     Project Wycheproof's signatures and JSONTestSuite's files (tests/vectors.py)
    racer       1,000 promotions beside a process that swaps files all the time
    crash       all crash states of the store (tests/core/crash_states.py)

`--quick` takes a part of each; `--verify` runs the pack alone, whole, and says whether each of its counts is
the committed one. What mutation testing counted is added from `mutation*.json` beside the results, where it
lies there. Nothing here has a margin: every `*_wrong`, `*_passed` and `*_promoted` must be 0, and the exit
code says whether they are.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.common import RESULTS, committed, options, result, table, write
from reprune.core import plugins
from reprune.registry.receipts import RECEIPT_FILE
from reprune.steps.promoter import read_promoter
from tests import monotonic, swap_plans, swaps, vectors
from tests.chain import Story
from tests.conformance.__main__ import results
from tests.conformance.table import attacks
from tests.registry.promotion import copy_repository, next_generation, promoted, ready

Figures = dict[str, float]
Part = Callable[[Path, bool], Figures]
MUST_BE_ZERO = (
    "must_refuse_wrong",
    "must_accept_wrong",
    "fields_passed",
    "mutations_passed",
    "swaps_promoted",
    "race_promoted",
    "crash_states_wrong",
    "crash_states_lost",
    "ed25519_valid_refused",
    "ed25519_invalid_taken",
    "p256_invalid_taken",
    "json_must_refuse_wrong",
    "surviving_mutants",
)


def main() -> int:
    given = options(__doc__, _extend)
    figures: Figures = {}
    rows: list[dict[str, Any]] = []
    if given.json and given.json.exists():
        held = json.loads(given.json.read_text())
        figures, rows = held["figures"], held["rows"]
    chosen = given.only.split(",") if given.only else list(PARTS)
    if (
        given.verify
    ):  # nothing of an earlier file: it would be compared with what it may have come from
        chosen, given.quick, figures, rows = ["pack"], False, {}, []
    with (
        tempfile.TemporaryDirectory(prefix="reprune-trust-") as folder,
        mock.patch.dict(os.environ, {"REPRUNE_WORK": str(Path(folder) / "work")}),
        # Nothing here pulls the plug; the crash states count every fsync by themselves.
        mock.patch.object(os, "fsync", return_value=None),
        # What is installed stays so; asking again each time would be half of what a promote takes.
        mock.patch.object(plugins, "entry_points", lru_cache(entry_points)),
    ):
        os.environ.pop("REPRUNE_PROMOTER", None)
        for name in chosen:
            began = time.monotonic()
            found = PARTS[name](Path(folder) / name, given.quick)
            figures |= found
            rows = [row for row in rows if row["part"] != name]
            rows += [{"part": name, "seconds": round(time.monotonic() - began, 1), **found}]
            rows[-1]["quick"] = given.quick
            print(table([rows[-1]], list(rows[-1])), flush=True)
    if given.verify:
        return _verified(figures)
    figures |= _summed(figures) | _mutants()
    if given.json:
        write(given.json, result(figures, rows))
    wrong = {name: figures[name] for name in MUST_BE_ZERO if figures.get(name)}
    print(f"wrong: {wrong or 'nothing'}")
    return 1 if wrong else 0


def _mutants(folder: Path = RESULTS) -> Figures:
    """Surviving, equivalent and all mutants of the committed runs; nothing without one."""
    found: Figures = {}
    for path in sorted(folder.glob("mutation*.json")):
        counted = json.loads(path.read_text())["figures"]
        for name in ("surviving_mutants", "mutants", "equivalent_mutants"):
            if name in counted:
                found[name] = found.get(name, 0) + counted[name]
    return found


def _extend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", metavar="PARTS", help=f"of {','.join(PARTS)}, with commas")


def _verified(figures: Figures) -> int:
    """The pack gives what the committed result says."""
    known = committed("trust")["figures"]
    other = {
        name: (found, known.get(name))
        for name, found in figures.items()
        if known.get(name) != found
    }
    print(f"other than committed: {other or 'nothing'}")
    return 1 if other else 0


def pack(folder: Path, quick: bool) -> Figures:
    folder.mkdir()
    here = Path.cwd()
    counts = dict.fromkeys(
        ("must_refuse", "must_refuse_wrong", "must_accept", "must_accept_wrong"), 0
    )
    for kind, name, words in results(folder, every=10 if quick else 1):
        counts[f"must_{kind}"] += 1
        counts[f"must_{kind}_wrong"] += bool(words)
        if words:
            print(f"{kind}: {name}: {words}")
    os.chdir(here)
    classes = attacks()
    return {**counts, "tuf_classes": len(classes), "tuf_cases": sum(classes.values())}


def mutate(folder: Path, quick: bool) -> Figures:
    """Mutations at random."""
    documents, _ = _refused(folder)
    tried, wrong = monotonic.at_random(documents, 2_000 if quick else 100_000, seed=1)
    return {"mutations": sum(tried.values()), "mutations_passed": len(wrong)}


def break_fields(folder: Path, quick: bool) -> Figures:
    """Every field, in every way."""
    documents, base = _refused(folder)
    fields, passed = 0, 0
    for each in documents:
        told = list(monotonic.every_field(each))
        if b'"payloadType"' in each.text:
            told += list(monotonic.every_field_signed(each))
        fields += len(told)
        passed += sum(passes for _, passes in told)
    for _, passes in monotonic.every_part(base, folder / "parts", every=100 if quick else 1):
        fields, passed = fields + 1, passed + passes
    return {"fields": fields, "fields_passed": passed}


def _refused(folder: Path) -> tuple[list[monotonic.Refused], monotonic.Blocked]:
    root = _made(folder / "receipts")
    raw = promoted(root).artifact.file(RECEIPT_FILE).read_bytes()
    base = monotonic.blocked(_made(folder / "blocked", candidate_wrong=70))
    documents = [*monotonic.receipts(raw, read_promoter(root)), *monotonic.policies()]
    return [*documents, base.manifest()], base


def _swapping(play: Callable[[Path, Path, Path, Path, int], swap_plans.Counted]) -> Part:
    """`play` gets a judged repository, another one, one with a champion, a place to play, and how many of
    the cases to take: every so many.
    """

    def part(folder: Path, quick: bool) -> Figures:
        template, other = _pair(folder)
        second = copy_repository(template, folder / "second")
        promoted(second)
        next_generation(second, dense_version="2")
        name = folder.name
        found = play(template, other, second, folder / "played", 20 if quick else 1)
        for words in found.wrong:
            print(f"{name}: {words}")
        return {
            name: found.tried,
            f"{name}_kinds": len(found.kinds),
            f"{name}_refused": found.refused,
            f"{name}_promoted": len(found.wrong),
        }

    return part


def _summed(figures: Figures) -> Figures:
    """All swaps together; nothing where none of their parts was run."""
    parts = [name for name in PARTS if name.startswith("swaps_") and name in figures]
    if not parts:
        return {}
    return {
        f"swaps{what}": sum(figures[f"{name}{what}"] for name in parts)
        for what in ("", "_refused", "_promoted")
    }


def answer_vectors(_: Path, __: bool) -> Figures:
    """All of them, always."""
    return vectors.count()


def race(folder: Path, quick: bool) -> Figures:
    """A process beside it that swaps files to and fro."""
    template, other = _pair(folder)
    rounds = 30 if quick else 1_000
    done, refused, wrong = swaps.raced(template, other, folder / "played", rounds)
    return {
        "race_rounds": done + refused,
        "race_refused": refused,
        "race_promoted": len(wrong),
    }


def crash_states(_: Path, __: bool) -> Figures:
    """What tests/core/crash_states.py counts, where that is there."""
    name = "tests.core.crash_states"
    if importlib.util.find_spec(name) is None:
        print("no crash states are enumerated in this checkout")
        return {}
    counts: Figures = importlib.import_module(name).enumerate_all()
    return dict(counts)


PARTS: dict[str, Part] = {
    "pack": pack,
    "monotonic": mutate,
    "fields": break_fields,
    "swaps_files": _swapping(
        lambda template, other, _, root, every: swap_plans.files(template, other, root, every=every)
    ),
    "swaps_champion": _swapping(
        lambda _, __, second, root, every: swap_plans.champion(second, root, every=every)
    ),
    "swaps_calls": _swapping(
        lambda template, other, second, root, every: swap_plans.calls(
            template, second, other, root, every=every
        )
    ),
    "swaps_stored": _swapping(
        lambda template, _, __, root, every: swap_plans.stored(template, root, every=every)
    ),
    "vectors": answer_vectors,
    "racer": race,
    "crash": crash_states,
}


def _made(root: Path, **story: Any) -> Path:
    root.mkdir(parents=True)
    ready(root, Story(**story))
    return root


def _pair(folder: Path) -> tuple[Path, Path]:
    """Two judged repositories of one model: the one to promote, and the one that is swapped in."""
    return _made(folder / "template"), _made(folder / "other", seed=7, dense_version="8")


if __name__ == "__main__":
    sys.exit(main())
