"""Every part of the evidence, every fault: nothing bad gets a pass, and nothing bad ends in a traceback.

A cell of the matrix is a place (a field of a part, or a file) and what is wrong with it. `signed`
cells correct the digests that the verdict directory itself holds; `rebuilt` cells correct all, down to
evidence and judgement, so that only the gate's own doubts are left to see the fault. CI takes one fault
of every field, and every fault somewhere (told by a test); `make test-deep` takes every fault of every field.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from reprune.core import store
from reprune.core.artifacts import KINDS, Benchmark, EngineFact, Verdict
from reprune.core.documents import canonical, digest_of
from reprune.core.errors import RepruneError
from reprune.core.lock import Lock
from reprune.core.params import Params, Registry
from reprune.core.policy import Policy
from reprune.doors.cli import main
from reprune.judge.evidence import Evidence, Unit
from reprune.judge.verdict import judge
from reprune.steps.acceptance import check_integrity
from reprune.steps.assemble import assemble
from reprune.steps.gate import confirm, read_grounds
from reprune.steps.samples import ExamplesFile
from tests.fault_fields import fields_of, places
from tests.fault_tables import (
    DEFAULTED,
    EMPTY_HERE,
    HARMLESS,
    PARTS,
    TOLD,
    cells,
    may_be_judged,
    may_pass,
)
from tests.faults import (
    CHAMPION,
    EXAMPLES,
    LINEAGE,
    RECORDS,
    UNITS,
    Forged,
    dumped,
    handed,
    opened,
    rebuilt,
    signed,
    write_base,
)

# As the chains of tests name it in their locks.
GIVEN = Params(
    name="digits", task="task.digits:DigitsTask", registry=Registry(uri="files:registry")
)
PASSED = 0
BROKEN = 1


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Forged:
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPRUNE_WORK", str(tmp_path / "work"))


def outcome_of(forged: Forged, folder: Path) -> str:
    """The gate's outcome; "refused" for a clear error of ours. Anything else is raised."""
    try:
        return rebuilt(forged, folder)
    except RepruneError:
        return "refused"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def passing(base: Forged, part: str, folder: Path, *, every: bool) -> tuple[list[str], int]:
    """The cells of a part that pass although they must not; and how many there were."""
    wrong, count = [], 0
    for place, fault, broken in cells(PARTS[part], base.value(part), every=every):
        forged = base.copy()
        _put_part(forged, part, broken)
        outcome = outcome_of(forged, folder / "cell")
        count += 1
        if outcome == "pass" and not may_pass(part, place, fault):
            wrong.append(f"{place.field}: {fault}")
    return wrong, count


def _put_part(forged: Forged, part: str, value: Any) -> None:
    forged.edit(part, lambda _: value)


# --- the matrix is whole -------------------------------------------------------------------------


def held_fields(base: Forged) -> set[str]:
    found: set[str] = set()
    for part, kind in PARTS.items():
        found |= {place.owner for place in places(kind, base.value(part))}
    found |= {place.owner for place in places(Evidence, json.loads(base.files["evidence.json"]))}
    return found


DECIDING = (Evidence, Benchmark, KINDS["Engines"], ExamplesFile, tuple[Unit, ...], Lock)


def test_every_field_of_the_evidence_is_in_the_matrix(base: Forged) -> None:
    """A field that is new and not among the cells fails here: give the base run one, or say why not."""
    demanded = {field for kind in DECIDING for field in fields_of(kind)}
    missing = {
        f"{field.partition('.')[0]}.*" if f"{field.partition('.')[0]}.*" in EMPTY_HERE else field
        for field in demanded - held_fields(base)
    }
    assert missing == set(EMPTY_HERE)


def test_what_decides_nothing_is_named_field_by_field(base: Forged) -> None:
    """No exception stands for a field that does not exist any more."""
    known = {field for kind in (*PARTS.values(), Evidence) for field in fields_of(kind)}
    structs = {field.partition(".")[0] for field in known}
    for name in TOLD:
        assert name in known or (name.endswith(".*") and name[:-2] in structs), name
    for field, _ in HARMLESS:
        assert field.rstrip("[]{}") in known | {""}, field


# --- parts that fit together ---------------------------------------------------------------------


def test_the_run_that_the_matrix_breaks_passes(base: Forged, tmp_path: Path) -> None:
    """Rebuilt without a fault it passes, by the command line too: so a refusal is due to the fault."""
    assert rebuilt(base.copy(), tmp_path / "v") == "pass"
    assert main(["check", str(tmp_path / "v"), "--recompute"]) == PASSED
    assert check_integrity(handed(tmp_path / "v"), GIVEN).judgement.outcome == "pass"


def test_every_fault_is_tried_somewhere(base: Forged) -> None:
    """One fault of each field leaves out no kind of fault."""
    tried, known = (
        {
            fault
            for part, kind in PARTS.items()
            for _, fault, _ in cells(kind, base.value(part), every=every)
        }
        for every in (False, True)
    )
    assert tried == known


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_no_faulty_part_passes(base: Forged, tmp_path: Path, part: str) -> None:
    """One fault of each field, every digest corrected: refused, or judged and not passed."""
    wrong, count = passing(base, part, tmp_path, every=False)
    assert wrong == []
    assert count >= 2


@pytest.mark.deep
@pytest.mark.parametrize("part", PARTS)
def test_no_fault_of_any_part_passes(base: Forged, tmp_path: Path, part: str) -> None:
    """Every fault of each field, every digest corrected: refused, or judged and not passed."""
    wrong, count = passing(base, part, tmp_path, every=True)
    assert wrong == []
    assert count >= 10


@pytest.mark.slow
def test_no_engine_fact_that_was_forged_in_both_places_passes(base: Forged, tmp_path: Path) -> None:
    """Where build and benchmark agree on a faulty fact, the gate still doubts it."""
    engines = base.value("engines.0")["engines"]
    wrong = []
    for place, fault, broken in cells(EngineFact, engines[0], every=True):
        forged = base.copy()
        for part in ("engines.0", "benchmarks.0"):
            forged.ancestors[part]["engines"] = [broken, *engines[1:]]
        if outcome_of(forged, tmp_path / "cell") == "pass" and not may_pass("", place, fault):
            wrong.append(f"{place.field}: {fault}")
    assert wrong == []


def _set(place: int, value: int) -> Callable[[np.ndarray], np.ndarray]:
    def change(column: np.ndarray) -> np.ndarray:
        found = column.copy()
        found[place] = value
        return found

    return change


CANDIDATE = "candidate@ort-cpu/correct"
RECORD_FAULTS: dict[str, Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]] = {
    "no candidate": lambda t: {k: v for k, v in t.items() if k != CANDIDATE},
    "no dense model": lambda t: {k: v for k, v in t.items() if k != "dense/correct"},
    "nothing": lambda t: {},
    "short": lambda t: {**t, CANDIDATE: t[CANDIDATE][:-1]},
    "all short": lambda t: {k: v[:-1] for k, v in t.items()},
    "doubled": lambda t: {k: np.concatenate([v, v]) for k, v in t.items()},
    "empty": lambda t: {k: v[:0] for k, v in t.items()},
    "negative": lambda t: {**t, CANDIDATE: _set(9, -1)(t[CANDIDATE])},
    "huge": lambda t: {**t, CANDIDATE: _set(9, 2**62)(t[CANDIDATE])},
    "neither right nor wrong": lambda t: {**t, CANDIDATE: _set(9, 2)(t[CANDIDATE])},
    "floats": lambda t: {**t, CANDIDATE: t[CANDIDATE].astype(np.float64)},
    "NaN": lambda t: {**t, CANDIDATE: np.full(len(t[CANDIDATE]), math.nan)},
    "unsigned": lambda t: {**t, CANDIDATE: t[CANDIDATE].astype(np.uint64)},
    "truths": lambda t: {**t, CANDIDATE: t[CANDIDATE].astype(np.bool_)},
    "a table": lambda t: {**t, CANDIDATE: t[CANDIDATE].reshape(-1, 1)},
    "one number": lambda t: {**t, CANDIDATE: t[CANDIDATE][:1].reshape(())},
    "no arm": lambda t: {**t, "correct": t[CANDIDATE]},
    "another column": lambda t: {**t, "candidate@ort-cpu/right": t[CANDIDATE]},
    "another name": lambda t: {k.replace("correct", "right"): v for k, v in t.items()},
}


@pytest.mark.parametrize("fault", RECORD_FAULTS)
def test_no_faulty_records_pass(base: Forged, tmp_path: Path, fault: str) -> None:
    """Records that are not one integer an example, in range, of every arm, decide nothing."""
    forged = base.copy()
    forged.edit(RECORDS, RECORD_FAULTS[fault])
    assert outcome_of(forged, tmp_path / "cell") in ("refused", "error")


UNIT_FAULTS: dict[str, Callable[[list[Any]], list[Any]]] = {
    "one left out": lambda units: units[:7] + units[8:],
    "the last left out": lambda units: units[:-1],
    "one twice": lambda units: [*units, units[-1]],
    "all twice": lambda units: [*units, *units],
    "reordered": lambda units: units[::-1],
    "two swapped": lambda units: [units[1], units[0], *units[2:]],
    "none": lambda units: [],
    "the best only, numbered again": lambda units: [
        {**unit, "index": place} for place, unit in enumerate(units[:8])
    ],
}


@pytest.mark.parametrize("fault", UNIT_FAULTS)
def test_no_faulty_list_of_units_passes(base: Forged, tmp_path: Path, fault: str) -> None:
    """Units left out, doubled or put in another order are seen, whoever corrected the digests."""
    forged = base.copy()
    forged.edit(UNITS, UNIT_FAULTS[fault])
    assert outcome_of(forged, tmp_path / "cell") in ("refused", "error")


def without_examples(base: Forged, count: int) -> Forged:
    """The run without its last `count` examples, as if the champion had been made with them."""
    forged = base.copy()
    kept = slice(0, 450 - count)
    forged.edit(RECORDS, lambda tensors: {name: column[kept] for name, column in tensors.items()})
    forged.edit(
        EXAMPLES,
        lambda old: {
            **{name: old[name][kept] for name in ("ids", "sources", "times")},
            "slices": {family: values[kept] for family, values in old["slices"].items()},
        },
    )
    recorded = forged.ancestors["benchmarks.0"]["recorded"]
    recorded |= {"examples": 450 - count, "dropped": {"champion": count, "anchor": 0}}
    return forged


def test_examples_that_were_left_out_are_counted(base: Forged, tmp_path: Path) -> None:
    """Left out and said so is judged; left out and not said, or not as many as said, is an error."""
    assert rebuilt(without_examples(base, 40), tmp_path / "v") == "pass"
    for dropped in (None, {"champion": 39}, {"champion": 41}, {"champion": -40}, {"other": 40}):
        forged = without_examples(base, 40)
        forged.ancestors["benchmarks.0"]["recorded"]["dropped"] = dropped or {}
        assert outcome_of(forged, tmp_path / "v") == "error", dropped
    assert outcome_of(without_examples(base, -5), tmp_path / "v") == "error"


@pytest.mark.parametrize("part", ["table", "candidate"])
def test_the_champion_that_a_part_took_over_from_is_the_one_it_is_judged_with(
    base: Forged, tmp_path: Path, part: str
) -> None:
    """Made with another `previous` is an error; with none, as before anything was taken over, is judged."""
    other = base.copy()
    other.ancestors[part]["parents"]["previous"] = "sha256:" + "6" * 64
    assert outcome_of(other, tmp_path / "v") == "error"
    old = base.copy()
    del old.ancestors[part]["parents"]["previous"]
    assert outcome_of(old, tmp_path / "v") == "pass"
    old.edit(part, TOOK_OVER[part])
    assert outcome_of(old, tmp_path / "v") == "error"


TOOK_OVER: dict[str, Callable[[Any], Any]] = {
    "table": lambda table: {**table, "reuse": {"how": "reused", "why": "it held"}},
    "candidate": lambda bundle: {
        **bundle,
        "recovery": {
            **bundle["recovery"],
            "known": {"champion": CHAMPION.bundle, "asked": 2, "epochs": 1, "needed": 1},
        },
    },
}


# --- another run's parts -------------------------------------------------------------------------


def _with_text(base: Forged, old: str, new: str, parts: tuple[str, ...]) -> Forged:
    other = base.copy()
    for name in parts:
        held = other.ancestors if name in other.ancestors else other.files
        raw = dumped(held[name]) if name in other.ancestors else held[name]
        changed = raw.replace(old.encode(), new.encode())
        held[name] = json.loads(changed) if name in other.ancestors else changed
    return other


def another_machine(base: Forged) -> Forged:
    return _with_text(base, '"box-a"', '"box-b"', LINEAGE)


def another_version(base: Forged) -> Forged:
    other = _with_text(base, '"lanes=1"', '"lanes=2"', (*LINEAGE, "lock.json"))
    other = _with_text(
        other, '"version":"1","weights"', '"version":"2","weights"', (*LINEAGE, "lock.json")
    )
    other.manifest["dense_version"] = "lanes=2"
    return other


def another_model(base: Forged) -> Forged:
    weights = base.value("lock.json")["dense"]["weights"]
    return _with_text(base, weights, "sha256:" + "7" * 64, (*LINEAGE, "lock.json"))


def another_policy(base: Forged) -> Forged:
    other = base.copy()
    other.edit("policy.json", lambda policy: {**policy, "alpha": 0.06})
    return other


def another_task(base: Forged) -> Forged:
    digest = base.value("lock.json")["task"]
    return _with_text(base, digest, "sha256:" + "8" * 64, (*LINEAGE, "lock.json"))


@pytest.mark.parametrize("part", ["dense", "pruned", "candidate", "lock.json"])
@pytest.mark.parametrize("field", ["name", "version", "weights"])
def test_a_set_is_judged_with_the_members_of_its_lock(
    base: Forged, tmp_path: Path, part: str, field: str
) -> None:
    """Every bundle names them, and so does the lock: none of another name, version or weights."""
    forged = base.copy()
    value = forged.value(part)
    member = (value["dense"] if part == "lock.json" else value)["members"]["lanes"]
    member[field] = "sha256:" + "3" * 64 if field == "weights" else f"{member[field]}0"
    _put_part(forged, part, value)
    assert outcome_of(forged, tmp_path / "v") in ("error", "refused")


OTHERS = {
    "machine": another_machine,
    "dense version": another_version,
    "model": another_model,
    "policy": another_policy,
    "task": another_task,
}


@pytest.mark.slow
@pytest.mark.parametrize("what", OTHERS)
def test_parts_of_another_run_are_an_error(base: Forged, tmp_path: Path, what: str) -> None:
    """Each artefact and document exchanged for that of a run that passes too, but is another one."""
    other = OTHERS[what](base)
    assert rebuilt(other, tmp_path / "other") == "pass"
    donor = opened(tmp_path / "other")
    tried = 0
    for part in (*LINEAGE, "lock.json", "policy.json", UNITS, EXAMPLES, RECORDS):
        mixed = base.copy()
        if part in LINEAGE:
            if donor.manifest["parents"][part] == base.manifest["parents"][part]:
                continue
            outcome = linked(mixed, donor, part, tmp_path / "cell")
        else:
            if donor.files[part] == base.files[part]:
                continue
            mixed.files[part] = donor.files[part]
            outcome = sealed(mixed, tmp_path / "cell")
        tried += 1
        assert outcome in ("refused", "error"), part
    assert tried >= 2


def linked(mixed: Forged, donor: Forged, part: str, folder: Path) -> str:
    """The other run's artefact as it is, digest and samples included, judged with the rest of ours."""
    mixed.ancestors[part] = donor.ancestors[part]
    mixed.manifest["parents"][part] = donor.manifest["parents"][part]
    if part == "benchmarks.0":
        mixed.files |= {name: raw for name, raw in donor.files.items() if "samples" in name}
    return sealed(mixed, folder)


def sealed(mixed: Forged, folder: Path) -> str:
    """Judged as it stands: no digest of any artefact is corrected, evidence and judgement are."""
    try:
        grounds = read_grounds(store.read(signed(mixed, folder), Verdict))
        mixed.files["evidence.json"] = canonical(assemble(grounds))
        found = judge(assemble(grounds), grounds.policy)
        mixed.manifest["judgement"] = json.loads(canonical(found))
        assert exit_code(signed(mixed, folder)) not in (PASSED, BROKEN)
        return found.outcome
    except RepruneError:
        return "refused"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# --- files of a verdict directory ----------------------------------------------------------------


def exit_code(verdict: Path) -> int:
    return main(["check", str(verdict), "--recompute"])


BYTE_FAULTS: dict[str, Callable[[bytes], bytes | None]] = {
    "missing": lambda raw: None,
    "truncated": lambda raw: raw[: len(raw) // 2],
    "one byte short": lambda raw: raw[:-2],
    "empty": lambda raw: b"",
    "a byte turned": lambda raw: raw[:-9] + bytes([raw[-9] ^ 1]) + raw[-8:],
    "doubled": lambda raw: raw + raw,
    "reordered": lambda raw: raw[::-1],
    "of no encoding": lambda raw: b"\xff\xfe" + raw,
    "not a number": lambda raw: b'{"a": NaN}',
}


def refused_everywhere(folder: Path) -> None:
    """The command line ends in a clear error, and promote does not take it."""
    assert exit_code(folder) == 2
    with pytest.raises(RepruneError):
        check_integrity(handed(folder), GIVEN)


@pytest.mark.slow
@pytest.mark.parametrize("fault", BYTE_FAULTS)
def test_no_faulty_file_survives(base: Forged, tmp_path: Path, fault: str) -> None:
    """Every file of the directory, as it is and with the directory's own digests corrected."""
    whole = signed(base, tmp_path / "whole")
    names = sorted(str(p.relative_to(whole)) for p in whole.rglob("*") if p.is_file())
    assert len(names) == 2 + len(base.files) + len(LINEAGE)
    for name in names:
        raw = BYTE_FAULTS[fault]((whole / name).read_bytes())
        for correct in (False, True):
            folder = tmp_path / "cell"
            shutil.copytree(whole, folder)
            if raw is None:
                (folder / name).unlink()
            else:
                (folder / name).write_bytes(raw)
            if correct and name not in (store.MANIFEST, store.DIGEST):
                correct_digests(folder)
            refused_everywhere(folder)
            shutil.rmtree(folder)


def correct_digests(folder: Path) -> None:
    manifest = json.loads((folder / store.MANIFEST).read_bytes())
    for name in list(manifest["payload"]):
        if (folder / name).exists():
            manifest["payload"][name] = store.file_digest(folder / name)
        else:
            del manifest["payload"][name]
    (folder / store.MANIFEST).write_bytes(dumped(manifest))
    (folder / store.DIGEST).write_text(digest_of(msgspec.convert(manifest, Verdict)))


@pytest.mark.slow
def test_no_faulty_field_of_the_verdict_survives(base: Forged, tmp_path: Path) -> None:
    """What the verdict says of itself and of its judgement, changed with its digest corrected."""
    wrong = []
    for place, fault, broken in cells(Verdict, base.manifest, every=False):
        if place.owner == "Verdict.payload" or (fault == "left out" and place.owner in DEFAULTED):
            continue
        forged = base.copy()
        if not isinstance(broken, dict) or not isinstance(broken.get("parents"), dict):
            continue
        parents = broken["parents"]
        forged.manifest = broken
        forged.ancestors = {n: v for n, v in forged.ancestors.items() if n in parents}
        folder = tmp_path / "cell"
        try:
            signed(forged, folder)
        except (KeyError, TypeError, AttributeError, OSError, ValueError):
            continue  # a parent that no file can be named by
        if exit_code(folder) != 2:
            wrong.append(f"{place.field}: {fault}")
        shutil.rmtree(folder, ignore_errors=True)
    assert wrong == []


def surviving(base: Forged, tmp_path: Path, *, each: int) -> list[str]:
    """The cells, one in `each`, that are judged again without a complaint."""
    wrong = []
    for part, kind in {**PARTS, "evidence.json": Evidence}.items():
        whole = msgspec.json.decode(dumped(base.value(part)), type=kind)
        for place, fault, broken in list(cells(kind, base.value(part), every=False))[::each]:
            forged = base.copy()
            _put_part(forged, part, broken)
            folder = signed(forged, tmp_path / "cell")
            try:
                confirm(store.read(folder, Verdict))
            except RepruneError:
                continue
            finally:
                shutil.rmtree(folder)
            if msgspec.json.decode(dumped(broken), type=kind) != whole:
                wrong.append(f"{part} {place.field}: {fault}")
    return wrong


@pytest.mark.slow
def test_no_faulty_field_survives_the_verdicts_own_digests(base: Forged, tmp_path: Path) -> None:
    """Fields of every part, told-only ones too, changed with the verdict's own digests corrected."""
    assert surviving(base, tmp_path, each=6) == []


@pytest.mark.deep
def test_no_faulty_field_at_all_survives_the_verdicts_own_digests(
    base: Forged, tmp_path: Path
) -> None:
    """As above, every field."""
    assert surviving(base, tmp_path, each=1) == []


# --- evidence as a value -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("each", [5, pytest.param(1, marks=pytest.mark.deep)])
def test_no_fault_in_evidence_is_an_exception(base: Forged, each: int) -> None:
    """Fields of the evidence, one fault in `each`: it does not decode, or it is judged and not passed."""
    evidence = json.loads(base.files["evidence.json"])
    policy = msgspec.json.decode(base.files["policy.json"], type=Policy)
    wrong = []
    for place, fault, broken in list(cells(Evidence, evidence, every=True))[::each]:
        try:
            value = msgspec.json.decode(dumped(broken), type=Evidence)
        except (msgspec.MsgspecError, ValueError):
            continue
        found = judge(value, policy)
        if found.outcome == "pass" and not may_be_judged(place, fault):
            wrong.append(f"{place.field}: {fault}")
    assert wrong == []
