"""What every renderer reads: one verdict directory, decoded. Nothing is looked up anywhere else."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from reprune.core.artifacts import (
    MAPS_FILE,
    PAST_PLAN,
    SHOWN_FILE,
    Benchmark,
    Cost,
    DataReport,
    Engines,
    Judgement,
    Manifest,
    ModelBundle,
    OperatorShares,
    Plan,
    Previous,
    Profile,
    Recovery,
    Sensitivity,
    ShownExample,
    ShownMaps,
    Surgery,
    Verdict,
)
from reprune.core.documents import MAX_SAMPLES_BYTES, decode_json, read_bounded
from reprune.core.errors import ArtifactError
from reprune.core.lock import Lock
from reprune.core.params import Params
from reprune.core.policy import Policy
from reprune.core.store import Artifact, decode_any
from reprune.judge.evidence import Evidence, Start, decode_evidence

T = TypeVar("T")
M = TypeVar("M", bound=Manifest)


@dataclass(frozen=True, kw_only=True)
class ReportFacts:
    """A verdict and what it carries. None, or empty, is what the directory does not hold.

    `past_plan` is the champion's. `starts` holds, by target and arm, how engines began in fresh processes;
    `operators`, by target, where their time goes.
    """

    verdict: Verdict
    digest: str
    evidence: Evidence | None = None
    policy: Policy | None = None
    lock: Lock | None = None
    params: Params | None = None
    candidate: ModelBundle | None = None
    pruned: ModelBundle | None = None
    dense: ModelBundle | None = None
    previous: Previous | None = None
    data: DataReport | None = None
    plan: Plan | None = None
    past_plan: Plan | None = None
    table: Sensitivity | None = None
    profiles: tuple[Profile, ...] = ()
    engines: tuple[Engines, ...] = ()
    benchmarks: tuple[Benchmark, ...] = ()
    shown: tuple[ShownExample, ...] = ()
    maps: ShownMaps | None = None
    operators: Mapping[str, OperatorShares] = field(default_factory=dict)
    starts: Mapping[str, Mapping[str, tuple[Start, ...]]] = field(default_factory=dict)

    @property
    def judgement(self) -> Judgement:
        return self.verdict.judgement

    @property
    def surgery(self) -> Surgery | None:
        """What was cut: of the candidate, else of the pruned model that it recovered from."""
        bundles = (self.candidate, self.pruned)
        return next((b.surgery for b in bundles if b is not None and b.surgery is not None), None)

    @property
    def recovery(self) -> Recovery | None:
        return self.candidate.recovery if self.candidate is not None else None

    @property
    def costs(self) -> tuple[Cost, Cost] | None:
        """Dense and candidate, for one example: as built for the first target, else as cut."""
        built = {fact.arm: fact.cost for engines in self.engines for fact in engines.engines[::-1]}
        if "dense" in built and "candidate" in built:
            return built["dense"], built["candidate"]
        return (self.surgery.before, self.surgery.after) if self.surgery is not None else None


def read_facts(verdict: Artifact[Verdict]) -> ReportFacts:
    """The facts in a verdict directory; parts that it does not hold are None.

    Raises ArtifactError or DocumentError for a part that is there and does not decode.
    """
    held = _ancestors(verdict)
    return ReportFacts(
        verdict=verdict.manifest,
        digest=verdict.digest,
        evidence=_evidence(verdict),
        policy=_document(verdict, "policy.json", Policy),
        lock=_document(verdict, "lock.json", Lock),
        params=_document(verdict, "params.json", Params),
        candidate=_one(held, "candidate", ModelBundle),
        pruned=_one(held, "pruned", ModelBundle),
        dense=_one(held, "dense", ModelBundle),
        previous=_one(held, "previous", Previous),
        data=_one(held, "data", DataReport),
        plan=_one(held, "chosen", Plan),
        past_plan=_past_plan(verdict),
        table=_one(held, "table", Sensitivity),
        profiles=_many(held, "profiles", Profile),
        engines=_many(held, "engines", Engines),
        benchmarks=_many(held, "benchmarks", Benchmark),
        shown=_shown(verdict, held),
        maps=_maps(verdict, held),
        operators=_operators(verdict, _many(held, "benchmarks", Benchmark)),
        starts=_starts(verdict, _many(held, "benchmarks", Benchmark)),
    )


def _shown(verdict: Artifact[Verdict], held: Mapping[str, Manifest]) -> tuple[ShownExample, ...]:
    """The examples that were stored to be looked at, each once."""
    found: dict[str, ShownExample] = {}
    for index in range(sum(name.startswith("benchmarks.") for name in held)):
        name = f"samples/{index}/{SHOWN_FILE}"
        for one in _document(verdict, name, tuple[ShownExample, ...]) or ():
            found.setdefault(one.id, one)
    return tuple(found.values())


def _maps(verdict: Artifact[Verdict], held: Mapping[str, Manifest]) -> ShownMaps | None:
    """The feature maps that were stored; every machine's are of the same models, so the first will do."""
    for index in range(sum(name.startswith("benchmarks.") for name in held)):
        if found := _document(verdict, f"samples/{index}/{MAPS_FILE}", ShownMaps):
            return found
    return None


def _operators(
    verdict: Artifact[Verdict], benchmarks: Sequence[Benchmark]
) -> dict[str, OperatorShares]:
    found = {}
    for index, measured in enumerate(benchmarks):
        for samples in measured.targets:
            name = f"samples/{index}/operators/{samples.target}.json"
            if held := _document(verdict, name, OperatorShares):
                found[samples.target] = held
    return found


def _past_plan(verdict: Artifact[Verdict]) -> Plan | None:
    """The champion's plan. Raises ArtifactError where the copy is no plan."""
    if PAST_PLAN not in verdict.manifest.payload:
        return None
    path = verdict.file(PAST_PLAN)
    found = decode_any(read_bounded(path), name=str(path))
    if not isinstance(found, Plan):
        raise ArtifactError("is no Plan", where=str(path), fix="run `dvc repro` again")
    return found


def _starts(
    verdict: Artifact[Verdict], benchmarks: Sequence[Benchmark]
) -> dict[str, dict[str, tuple[Start, ...]]]:
    found = {}
    for index, measured in enumerate(benchmarks):
        for samples in measured.targets:
            name = f"samples/{index}/{samples.starts}"
            if held := _document(verdict, name, dict[str, tuple[Start, ...]]):
                found[samples.target] = held
    return found


def _ancestors(verdict: Artifact[Verdict]) -> dict[str, Manifest]:
    """The gate's inputs by name, as far as a copy of their manifest is here."""
    found: dict[str, Manifest] = {}
    for name, digest in verdict.manifest.parents.items():
        file = f"ancestors/{digest.removeprefix('sha256:')}.json"
        if file in verdict.manifest.payload:
            path = verdict.file(file)
            found[name] = decode_any(read_bounded(path), name=str(path))
    return found


def _evidence(verdict: Artifact[Verdict]) -> Evidence | None:
    if "evidence.json" not in verdict.manifest.payload:
        return None
    path = verdict.file("evidence.json")
    return decode_evidence(read_bounded(path, max_bytes=MAX_SAMPLES_BYTES), name=str(path))


def _document(verdict: Artifact[Verdict], name: str, kind: type[T]) -> T | None:
    if name not in verdict.manifest.payload:
        return None
    path = verdict.file(name)
    return decode_json(read_bounded(path), kind, name=str(path))


def _one(held: dict[str, Manifest], name: str, kind: type[M]) -> M | None:
    found = held.get(name)
    return found if isinstance(found, kind) else None


def _many(held: dict[str, Manifest], name: str, kind: type[M]) -> tuple[M, ...]:
    """The manifests of a list input, in the order in which the gate was given them."""
    numbered = [key for key in held if re.fullmatch(rf"{name}\.[0-9]{{1,6}}", key)]
    ordered = sorted(numbered, key=lambda key: int(key.rpartition(".")[2]))
    return tuple(found for key in ordered if isinstance(found := held[key], kind))
