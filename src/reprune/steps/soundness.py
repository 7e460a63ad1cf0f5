"""What the parts of a run say about each other: counts, names, versions and facts that must agree.

Digests show that a file was changed after it was named; these show that what was named together
does not belong together, even where every digest was corrected.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from reprune.core.artifacts import (
    WEIGHTS,
    Benchmark,
    DataReport,
    Engines,
    ModelBundle,
    Previous,
    Recorded,
    SplitFact,
    TargetSamples,
)
from reprune.core.documents import canonical
from reprune.judge.evidence import Problem, QualityEvidence, TargetEvidence
from reprune.steps.batch_sizes import other_batch_sizes
from reprune.steps.grounds import Grounds, Measured
from reprune.steps.samples import read_starts

SAMPLE_FOLDERS = ("latency/", "throughput/", "memory/", "starts/")


def soundness_problems(
    grounds: Grounds, quality: QualityEvidence, targets: Sequence[TargetEvidence]
) -> Iterator[Problem]:
    """Sentences about parts that contradict each other; none for what one run wrote."""
    yield from _identity(grounds)
    yield from _attempts(grounds)
    yield from _weights(grounds)
    yield from _engines(grounds)
    yield from _targets(grounds, targets)
    yield from _sample_files(grounds, targets)
    yield from _examples(grounds, quality)


def _identity(grounds: Grounds) -> Iterator[Problem]:
    """Every part is of the locked model and dense version, and made from one state of the task."""
    named: dict[str, ModelBundle | Previous] = {
        "dense": grounds.dense,
        "pruned": grounds.pruned,
        "candidate": grounds.candidate,
        "previous": grounds.previous,
    }
    for what, manifest in named.items():
        if manifest.name != grounds.lock.name:
            yield Problem(code="name", words=f"The {what} is of '{manifest.name}', another model.")
    versions = {what: manifest.dense_version for what, manifest in named.items()}
    for place, measured in enumerate(grounds.benchmarks):
        versions[f"benchmark {place}"] = measured.manifest.dense_version
    for what, version in versions.items():
        if version != grounds.lock.dense.version:
            yield Problem(
                code="dense_version",
                words=f"The {what} belongs to dense version {version}, "
                f"the lock pins {grounds.lock.dense.version}.",
            )
    tasks: dict[str, ModelBundle | DataReport] = {
        "pruned": grounds.pruned,
        "candidate": grounds.candidate,
        "data report": grounds.data,
    }
    for what, of_task in tasks.items():
        if of_task.task != grounds.dense.task:
            yield Problem(code="task", words=f"The {what} was made with another state of the task.")


def _attempts(grounds: Grounds) -> Iterator[Problem]:
    """A look counts at least one more than the registry had seen before it."""
    before = grounds.previous.attempts
    if before < 0:
        yield Problem(code="attempt", words=f"The registry cannot have seen {before} attempts.")
    for measured in grounds.benchmarks:
        if measured.manifest.attempt <= before:
            yield Problem(
                code="attempt",
                words=f"A benchmark counts as attempt {measured.manifest.attempt}, "
                f"and {before} were on record before it.",
            )


def _weights(grounds: Grounds) -> Iterator[Problem]:
    for what in ("dense", "pruned", "candidate"):
        if WEIGHTS not in getattr(grounds, what).payload:
            yield Problem(code="weights", words=f"The {what} model holds no weights.")


def _engines(grounds: Grounds) -> Iterator[Problem]:
    """What was measured is, fact by fact, what was built, from the weights that lie beside it."""
    built = {canonical(fact) for engines in grounds.engines for fact in engines.engines}
    weights = {
        arm: bundle.payload.get(WEIGHTS)
        for arm, bundle in (("candidate", grounds.candidate), ("dense", grounds.dense))
    }
    for measured in grounds.benchmarks:
        for fact in measured.manifest.engines:
            if canonical(fact) not in built:
                yield Problem(
                    code="engine",
                    words=f"The {fact.arm}'s engine for {fact.target} was not built as it was measured.",
                )
            if weights.get(fact.arm, fact.weights) != fact.weights:
                yield Problem(
                    code="engine",
                    words=f"The {fact.arm}'s engine for {fact.target} holds other weights than its bundle.",
                )
    for engines in grounds.engines:
        yield from _builds(grounds, engines)
        if len({(fact.arm, fact.target) for fact in engines.engines}) != len(engines.engines):
            yield Problem(code="engine", words="An engine was built twice.")
        for fact in engines.engines:
            if fact.file not in engines.payload:
                yield Problem(code="engine", words=f"No engine file is called '{fact.file}'.")
            wanted = grounds.params.targets.get(fact.target)
            if wanted is None or (wanted.runtime, wanted.precision) != (
                fact.runtime,
                fact.precision,
            ):
                yield Problem(
                    code="engine",
                    words=f"The {fact.arm}'s engine for {fact.target} was not built as params.yaml "
                    "describes that target.",
                )


def _builds(grounds: Grounds, engines: Engines) -> Iterator[Problem]:
    """A target that its device rebuilds has as many builds of each arm as params.yaml asks for, each a
    file of its own; any other target has one.
    """
    for fact in engines.engines:
        target = grounds.params.targets.get(fact.target)
        wanted = grounds.params.build.builds if target is not None and target.rebuilt else 1
        copies = fact.copies or ()
        if 1 + len(copies) != wanted:
            yield Problem(
                code="builds",
                words=f"The {fact.arm}'s engine for {fact.target} was built {1 + len(copies)} times, and "
                f"params.yaml asks for {wanted}.",
            )
        if len({fact.file, *copies}) != 1 + len(copies) or set(copies) - set(engines.payload):
            yield Problem(
                code="builds",
                words=f"The builds of the {fact.arm}'s engine for {fact.target} are not files of their own.",
            )


def _targets(grounds: Grounds, targets: Sequence[TargetEvidence]) -> Iterator[Problem]:
    """Each target was timed as params.yaml says, and its file holds as many units as were taken."""
    listed = [samples for measured in grounds.benchmarks for samples in measured.manifest.targets]
    for samples, held in zip(listed, targets, strict=True):
        wanted = grounds.params.targets.get(samples.target)
        if wanted is None or wanted.batch_size != samples.batch_size:
            yield Problem(
                code="target",
                words=f"Target {samples.target} was not measured as params.yaml describes it.",
            )
        elif [one.batch_size for one in held.throughput] != list(
            other_batch_sizes(wanted, grounds.policy)
        ):
            yield Problem(
                code="target",
                words=f"Target {samples.target} was not measured at the batch sizes that params.yaml "
                "asks for.",
            )
        for told, taken in zip(samples.throughput or (), held.throughput, strict=True):
            if told.units != len(taken.units):
                yield Problem(
                    code="units",
                    words=f"The samples of {samples.target} at batch {taken.batch_size} are "
                    f"{len(taken.units)} units, and {told.units} were taken.",
                )
        if len(held.units) != samples.units:
            yield Problem(
                code="units",
                words=f"The latency samples of {samples.target} are {len(held.units)} units, and "
                f"{samples.units} were taken.",
            )


def _sample_files(grounds: Grounds, targets: Sequence[TargetEvidence]) -> Iterator[Problem]:
    """Every sample file is named by one target, and memory is that of each arm's processes."""
    for measured in grounds.benchmarks:
        named = [file for s in measured.manifest.targets for file in _files(s)]
        there = [file for file in measured.manifest.payload if file.startswith(SAMPLE_FOLDERS)]
        if sorted(named) != sorted(there):
            yield Problem(
                code="samples",
                words="The sample files of a benchmark are not those that its targets name.",
            )
        yield from _starts(measured, grounds.params.benchmark.memory_processes)
    processes = grounds.params.benchmark.memory_processes if grounds.policy.memory else 0
    arms = {arm for measured in grounds.benchmarks for arm in measured.manifest.arms}
    for held in targets:
        wanted = dict.fromkeys(arms, processes) if processes else {}
        if {arm: len(peaks) for arm, peaks in held.memory.items()} != wanted:
            yield Problem(
                code="memory",
                words=f"The memory of {held.target} is not that of {processes} processes for each arm.",
            )


def _starts(measured: Measured, processes: int) -> Iterator[Problem]:
    """How engines began is told of every arm, where it is told at all (older benchmarks do not)."""
    wanted = dict.fromkeys(measured.manifest.arms, processes)
    for samples in measured.manifest.targets:
        if not samples.starts:
            continue
        held = read_starts(measured.file(samples.starts))
        if {arm: len(starts) for arm, starts in held.items()} != wanted:
            yield Problem(
                code="starts",
                words=f"The starts of {samples.target} are not those of {processes} processes for each "
                "arm.",
            )


def _files(samples: TargetSamples) -> Iterator[str]:
    yield samples.file
    yield from (one.file for one in samples.throughput or ())
    if samples.memory:
        yield samples.memory
    if samples.starts:
        yield samples.starts


def _examples(grounds: Grounds, quality: QualityEvidence) -> Iterator[Problem]:
    """As many examples were recorded as the split holds, in the columns that the manifest names."""
    split = grounds.data.splits.get("eval")
    for measured in grounds.benchmarks:
        recorded = measured.manifest.recorded
        whole = 0 if split is None else split.examples
        least, most = _dropped(recorded)
        if least < 0 or set(recorded.dropped or {}) - set(measured.manifest.arms):
            yield Problem(code="dropped", words="Examples cannot have been left out like that.")
        if recorded.examples != len(quality.ids) or not (
            whole - most <= recorded.examples <= whole - least
        ):
            yield Problem(
                code="examples",
                words=f"{recorded.examples} examples were recorded, {len(quality.ids)} are there, and the "
                f"eval split holds {whole}, of which {most} may be left out.",
            )
        for key in sorted(_recorded_keys(measured.manifest) & set(quality.arms)):
            if sorted(quality.arms[key].columns) != sorted(recorded.columns):
                yield Problem(code="columns", words=f"The records of {key} are of other columns.")
    if split is not None:
        whole = not any(_dropped(each.manifest.recorded)[1] for each in grounds.benchmarks)
        yield from _census(quality, split, whole=whole)


def _dropped(recorded: Recorded) -> tuple[int, int]:
    """How many examples were left out at the least and at the most: arms may share some of them."""
    counts = [count or 0 for count in (recorded.dropped or {}).values()] or [0]
    return (min(counts) if min(counts) < 0 else max(counts)), sum(counts)


def _census(quality: QualityEvidence, split: SplitFact, *, whole: bool) -> Iterator[Problem]:
    """Sources and slices are those of the split, or of a part of it where examples were left out."""
    found = None if quality.sources is None else len(set(quality.sources))
    missing = (split.sources or 0) - (found or 0)
    if (found is None) != (split.sources is None) or missing < 0 or (whole and missing):
        yield Problem(
            code="sources",
            words=f"The examples are of {_count(found)} sources, "
            f"the eval split holds {_count(split.sources)}.",
        )
    counted = {family: Counter(values) for family, values in quality.slices.items()}
    if set(counted) != set(split.slices) or any(
        not values <= Counter(split.slices[family])
        or (whole and values != Counter(split.slices[family]))
        for family, values in counted.items()
    ):
        yield Problem(code="slices", words="The examples' slices are not those of the eval split.")


def _count(sources: int | None) -> str:
    return "no" if sources is None else str(sources)


def _recorded_keys(benchmark: Benchmark) -> set[str]:
    return {
        "dense",
        *(f"{arm}@{samples.target}" for arm in benchmark.arms for samples in benchmark.targets),
    }
