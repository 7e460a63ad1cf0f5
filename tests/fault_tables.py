"""The cells of the fault matrix, and which of them may pass, each with its reason.

A new field of the evidence fails test_fault_matrix until the base run (tests.faults.write_base) holds
it, or EMPTY_HERE says why not; and until every fault of it is refused, or a table here says why not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from reprune.core.artifacts import KINDS, Verdict
from reprune.core.lock import Lock
from reprune.core.params import Params
from reprune.core.policy import Policy
from reprune.judge.evidence import Evidence, Unit
from reprune.steps.samples import ExamplesFile
from tests.fault_fields import Place, at, drop, faults, places, put
from tests.faults import EXAMPLES, MEMORY, RATES, UNITS

KINDS_OF_LINEAGE = {
    "dense": "ModelBundle",
    "previous": "Previous",
    "data": "DataReport",
    "profiles.0": "Profile",
    "table": "Sensitivity",
    "chosen": "Plan",
    "pruned": "ModelBundle",
    "candidate": "ModelBundle",
    "engines.0": "Engines",
    "benchmarks.0": "Benchmark",
}
PARTS: dict[str, Any] = {
    **{name: KINDS[kind] for name, kind in KINDS_OF_LINEAGE.items()},
    "lock.json": Lock,
    "policy.json": Policy,
    "params.json": Params,
    UNITS: tuple[Unit, ...],
    RATES: tuple[Unit, ...],
    MEMORY: dict[str, tuple[int, ...]],
    EXAMPLES: ExamplesFile,
}

# Fields that tell people something and decide nothing: any value that decodes may pass, because
# whoever can correct every digest can write any number there. "*" stands for all fields of a struct.
TOLD = {
    "Surgery.*": "what the cut did, as the report tells it; what it made is measured",
    "GroupCut.*": "as Surgery",
    "BlockCut.*": "as Surgery",
    "TensorSparsity.*": "as Surgery",
    "PruneStage.*": "as Surgery",
    "ModelBundle.surgery": "as Surgery",
    "Recovery.*": "how the candidate was trained; what came of it is measured",
    "RecoveryEpoch.*": "as Recovery",
    "RateChoice.*": "as Recovery",
    "TriedRate.*": "as Recovery",
    "ModelBundle.recovery": "as Recovery",
    "Cost.*": "counted, for the report; no rule is about it",
    "Plan.*": "what was to be cut; what came of it is measured",
    "GroupPlan.*": "as Plan",
    "Prediction.*": "as Plan",
    "LatencyPrediction.*": "as Plan",
    "Additivity.*": "as Plan",
    "Tried.*": "as Plan",
    "Sensitivity.*": "what the plan was made from",
    "GroupSensitivity.*": "as Sensitivity",
    "TableReuse.*": "as Sensitivity",
    "RowCheck.*": "as Sensitivity",
    "JointTrial.*": "as Plan",
    "KnownRecovery.*": "as Recovery",
    "ChampionStart.*": "as Recovery",
    "CutPoint.*": "as Sensitivity",
    "Profile.*": "what the plan was made from; latency is measured again by the benchmark",
    "LayerProfile.*": "as Profile",
    "TargetProfile.*": "as Profile",
    "OperatorTime.*": "as Profile",
    "TableFact.*": "as Profile",
    "TimesReuse.*": "as Profile",
    "CutCheck.*": "as Profile",
    "PowerFact.*": "how likely a pass was, computed before; notes only",
    "DataReport.power": "as PowerFact",
    "Expectation.name": "words",
    "Expectation.split": "words",
    "Expectation.observed": "words",
    "SplitFact.classes": "words; the examples are named by the split's digest",
    "Machine.kind": "keys tables; samples are bound by `instance`",
    "Machine.cpu": "words; `instance` is a digest of it",
    "Machine.logical_cpus": "as cpu",
    "Machine.os": "as cpu",
    "Machine.accelerator": "as cpu",
    "EngineFact.runtime_version": "words; engines of one run are built by one toolchain",
    "EngineFact.inputs": "names of the engine's inputs",
    "Unit.clock": "words",
    "Previous.payload": "the champion's files; what was measured is named by its bundle's digest",
    "ModelBundle.payload": "bytes of the model: named by digest, and measured",
    "Engines.payload": "bytes of the engines: named by digest, and measured",
    "Benchmark.payload": "made again from the samples by whoever rebuilds",
    "Lock.registry": "which registry; promote compares the lock with the repository's",
    "Lock.workspace": "as registry",
    "Unit.seed": "any number is a seed",
}
# Single faults that leave evidence as good as it was.
HARMLESS = {
    ("ArmTimes.blocks_ns", "reordered"): "the mean over blocks has no order",
    ("ArmTimes.blocks_ns[]", "reordered"): "a median has no order",
    ("ArmTimes.blocks_ns[]", "doubled"): "the median of each call twice is that of each once",
    ("ArmTimes.blocks_ns[]", "shortened"): "one call fewer is a measurement too",
    ("ArmTimes.blocks_ns[][]", "left out"): "as shortened",
    ("ArmTimes.conditions", "emptied"): "not recorded: what the guards then say is theirs to test",
    ("ArmTimes.conditions", "reordered"): "whichever block was disturbed, the unit was",
    ("Conditions.waited_ns", "null"): "what a machine does not tell is null",
    ("Conditions.stolen", "null"): "what a machine does not tell is null",
    ("Conditions.device", "null"): "what a machine does not tell is null",
    ("{}", "doubled"): "the median process of each twice is that of each once",
    ("{}", "shortened"): "one process fewer is a measurement too",
    ("{}[]", "left out"): "as shortened",
    ("Recorded.dropped", "emptied"): "nothing was left out, and nothing says so",
    ("Recorded.dropped{}", "null"): "what is not known of a champion is null",
    ("Benchmark.engines", "reordered"): "engines are found by arm and target",
    ("Engines.engines", "reordered"): "engines are found by arm and target",
    ("DataReport.expectations", "emptied"): "`passed` says what came of them",
    ("DataReport.expectations", "doubled"): "`passed` says what came of them",
    ("DataReport.expectations", "shortened"): "`passed` says what came of them",
    ("DataReport.expectations[]", "left out"): "`passed` says what came of them",
    ("ExamplesFile.ids", "reordered"): "names only; arms stay paired example by example",
    ("ExamplesFile.ids[]", "another"): "names only; that they are of the split its digest says",
    ("ExamplesFile.slices", "reordered"): "another slice of the same sizes: only the task knows",
    ("ExamplesFile.sources", "reordered"): "other groups of the same sizes: only the task knows",
    ("ExamplesFile.times", "null"): "the task may have no times",
    ("ExamplesFile.times", "reordered"): "other times: only the task knows",
    ("ExamplesFile.times[]", "another"): "other times: only the task knows",
}
# Documents that people write: another valid one, locked as such, is another demand and not a fault.
# What keeps a weak policy from promoting is the promoter's minimum policy.
DEMANDS = ("policy.json", "params.json")
# Fields that are checked in every manifest, told-only or not.
CHECKED = ("parents", "producer", "schema")
# What the base run cannot hold, with the reason; a name that it does hold fails the test below.
EMPTY_HERE = {
    "Problem.*": "a run that passes has no problem",
    "Waiver.*": "of earlier promotions by a named person",
    "BuildFact.*": "an engine of the plain runtime has nothing to tell; shown, and judged nowhere",
    "LayerError.*": "shown where an engine differs from its bundle",
    "EngineFact.built": "as BuildFact",
    "EngineFact.worst_layers": "as LayerError",
    "EngineFact.copies": "only of targets that are rebuilt on their device (tests/steps/test_builds.py)",
    "ArmTimes.build": "as EngineFact.copies",
    "Unit.board": "only of boards whose mode can be set (tests/judge/test_boards.py)",
    "Engines.storage": "only of masked models; shown, and judged nowhere",
    "StorageFact.*": "as Engines.storage",
    "EngineFact.machine": "only of targets on another device",
    "TargetSamples.machine": "only of targets on another device",
    "TargetSamples.starts": "shown only",
    "Lock.look": "only of a second look; it changes the lock's digest and nothing that is judged",
    "Benchmark.uses": "the ledger's count, for a note only; a run without it is told from the registry",
}
# What `assemble` fills in, and compares before the judge sees it.
ASSEMBLED = {
    "Evidence.name": "of the lock",
    "Evidence.dense_version": "of the lock",
    "Evidence.champion_version": "of the lock",
    "Evidence.seed": "of lock and split",
    "Evidence.attempt": "of the benchmark and the registry",
    "Evidence.power": "notes only",
    "Evidence.uses": "notes only",
    "Evidence.champion_newest": "notes only",
    "Evidence.contract": "for the report",
    "Expectation.success": "a failed one is a problem that assemble finds",
    "Evidence.waivers": "for the report",
    "Evidence.problems": "compared by bytes",
    "Machine.instance": "compared by assemble",
    "TargetEvidence.batch_size": "compared by assemble",
    "TargetEvidence.units": "counted by assemble",
    "TargetEvidence.memory": "as many processes as were asked for, each a figure of its own",
    "TargetEvidence.throughput": "compared with params by assemble",
    "BatchUnits.batch_size": "compared with params by assemble",
    "BatchUnits.units": "counted by assemble",
    "Evidence.engines": "found by arm and target, in any order",
    "QualityEvidence.eval_digest": "compared by assemble",
    "QualityEvidence.ids": "counted by assemble",
    "QualityEvidence.dropped": "counted by assemble",
    "QualityEvidence.slices": "counted by assemble",
    "QualityEvidence.sources": "counted by assemble",
    "QualityEvidence.times": "only the task knows",
    "EngineFact.*": "compared with what was built by assemble",
    "Parity.*": "compared with what was built by assemble",
    "ArmRecords.columns": "0 and 1 are both records",
}


def cells(kind: Any, document: Any, *, every: bool) -> Iterator[tuple[Place, str, Any]]:
    """A place, a fault's name, and the document with that fault; one for each place unless `every`."""
    for number, place in enumerate(places(kind, document)):
        named = [(name, put(document, place.path, new)) for name, new in _faults(document, place)]
        if isinstance(place.path[-1], int):
            named.append(("left out", drop(document, place.path)))
        elif not place.field.endswith("}"):
            named.append(("left out", drop(document, place.path)))
            extra = put(document, place.path[:-1], _with_surprise(document, place))
            named.append(("an unknown neighbour", extra))
        for name, broken in named if every else [named[number % len(named)]]:
            yield place, name, broken


def _faults(document: Any, place: Place) -> list[tuple[str, Any]]:
    return list(faults(at(document, place.path)).items())


def _with_surprise(document: Any, place: Place) -> Any:
    return {**at(document, place.path[:-1]), "surprise": 1}


def may_pass(part: str, place: Place, fault: str) -> bool:
    """Whether a whole run with this fault, every digest corrected, may pass."""
    struct = place.owner.partition(".")[0]
    field = place.owner.partition(".")[2]
    if part in DEMANDS or (fault == "left out" and place.owner in DEFAULTED):
        return True
    if (place.field, fault) in HARMLESS or (place.owner, fault) in HARMLESS:
        return True
    if place.field == "Benchmark.payload{}":
        return True  # whoever rebuilds makes these digests again
    if part == "profiles.0" and place.owner == "Machine.instance":
        return True  # tables of one kind of machine may be used on another
    told = place.owner in TOLD or f"{struct}.*" in TOLD
    return told and field not in CHECKED and fault not in NEVER


# Not even a field that decides nothing may hold these: they do not decode.
NEVER = ("NaN", "infinity", "another type", "an unknown neighbour", "fraction", "half a surrogate")


def _defaulted() -> set[str]:
    found: set[str] = set()

    def visit(info: msgspec.inspect.Type) -> None:
        if isinstance(info, msgspec.inspect.StructType):
            name = info.cls.__name__
            if f"{name}." in seen:
                return
            seen.add(f"{name}.")
            found.update(f"{name}.{f.encode_name}" for f in info.fields if not f.required)
            for each in info.fields:
                visit(each.type)
        for inner in (*getattr(info, "types", ()), *_inside(info)):
            visit(inner)

    seen: set[str] = set()
    for kind in (*PARTS.values(), Verdict, Evidence):
        visit(msgspec.inspect.type_info(kind))
    return found


def _inside(info: msgspec.inspect.Type) -> tuple[msgspec.inspect.Type, ...]:
    return tuple(
        each for name in ("item_type", "value_type") if (each := getattr(info, name, None))
    )


DEFAULTED = _defaulted()


def may_be_judged(place: Place, fault: str) -> bool:
    struct = place.owner.partition(".")[0]
    return (
        place.owner in ASSEMBLED or f"{struct}.*" in ASSEMBLED or may_pass("evidence", place, fault)
    )
