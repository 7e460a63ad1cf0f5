"""A benchmark's payload as evidence: every sample that its manifest names, and no other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
from msgspec import UNSET

from reprune.core.artifacts import Benchmark, TargetSamples
from reprune.core.errors import PayloadCorrupt
from reprune.core.params import Params
from reprune.core.policy import Policy
from reprune.judge.evidence import BatchUnits, Problem, TargetEvidence, Unit, decode_units
from reprune.steps.sampling import throughput_sizes

FOLDERS = ("latency/", "throughput/", "memory/")


def target_evidence(manifest: Benchmark, samples: TargetSamples, folder: Path) -> TargetEvidence:
    """The samples of one target, read from `folder`. Raises PayloadCorrupt for what cannot be read."""
    return TargetEvidence(
        target=samples.target,
        machine=manifest.machine,
        batch_size=samples.batch_size,
        units=_units(folder / samples.file),
        throughput=tuple(
            BatchUnits(batch_size=batch.batch_size, units=_units(folder / batch.file))
            for batch in samples.throughput or ()
        ),
        memory=_memory(folder / samples.memory) if samples.memory else {},
    )


def sample_problems(
    samples: TargetSamples,
    found: TargetEvidence,
    arms: Iterable[str],
    policy: Policy,
    params: Params,
) -> Iterator[Problem]:
    """What one target's samples lack, or hold too much of, given their manifest, policy and params."""
    counted = [(samples.units, found.units)]
    counted += [
        (batch.units, units.units)
        for batch, units in zip(samples.throughput or (), found.throughput, strict=True)
    ]
    if any(number != len(units) for number, units in counted):
        yield _problem(found, "hold another number of units than the benchmark took")
    target = params.targets.get(found.target)
    if target is None:
        return
    if found.batch_size != target.batch_size:
        yield _problem(found, "were taken at another batch size than params.yaml names")
    sizes = [batch.batch_size for batch in found.throughput]
    if sizes != list(throughput_sizes(target, policy)):
        yield _problem(found, "are of other batch sizes for throughput than params.yaml names")
    wanted = dict.fromkeys(arms if policy.memory else (), params.benchmark.memory_processes)
    if {arm: len(peaks) for arm, peaks in found.memory.items()} != wanted:
        yield _problem(found, "do not hold the memory of each arm's processes")


def unclaimed_problems(manifest: Benchmark) -> Iterator[Problem]:
    """Sample files that no target names, and files that two name."""
    claimed = [file for samples in manifest.targets for file in _files(samples)]
    there = {name for name in manifest.payload if name.startswith(FOLDERS)}
    if len(set(claimed)) != len(claimed) or set(claimed) != there:
        yield Problem(
            code="samples",
            words="The sample files of a benchmark are not those that it names: run `dvc repro`.",
        )


def _files(samples: TargetSamples) -> Iterator[str]:
    yield samples.file
    yield from (batch.file for batch in samples.throughput or ())
    if samples.memory is not UNSET:
        yield samples.memory


def _problem(found: TargetEvidence, what: str) -> Problem:
    return Problem(code="samples", words=f"The samples of {found.target} {what}: run `dvc repro`.")


def _units(path: Path) -> tuple[Unit, ...]:
    try:
        return decode_units(path.read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        raise _corrupt(path, error) from error


def _memory(path: Path) -> dict[str, tuple[int, ...]]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, tuple[int, ...]])
    except (OSError, msgspec.DecodeError) as error:
        raise _corrupt(path, error) from error


def _corrupt(path: Path, error: Exception) -> PayloadCorrupt:
    return PayloadCorrupt(
        f"is not there, or holds no samples: {error}",
        where=str(path),
        fix="run the benchmark again (dvc repro)",
    )
