"""What a look at the sealed split is of, and what is timed beside it: the same for a benchmark and a kit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from reprune.core.artifacts import (
    WEIGHTS,
    DataReport,
    EngineFact,
    Engines,
    ModelBundle,
    Previous,
)
from reprune.core.documents import digest_of
from reprune.core.errors import ChainBroken, InputError, nearest
from reprune.core.machine import Machine
from reprune.core.params import BenchmarkParams, Target
from reprune.core.policy import Policy
from reprune.core.store import Artifact
from reprune.runtimes.base import EQUAL_DETAILS
from reprune.steps.refusals import refuse_strangers

if TYPE_CHECKING:
    from reprune.measure.attempts import Look
    from reprune.measure.latency import LatencyJob
    from reprune.task.protocol import Task


def check_reach(targets: Mapping[str, Target]) -> None:
    """Raises InputError for a target that is reached in two ways, or by a command that is none."""
    from reprune.measure.device_call import command_line

    for name, target in targets.items():
        if target.run and target.kit:
            raise InputError(
                f"the target '{name}' has both `run` and `kit`",
                where="params.yaml (targets)",
                fix="keep the one by which its device is reached",
            )
        if target.rebuilt and (target.run or target.kit):
            raise InputError(
                f"the target '{name}' is `rebuilt`, and its builds are timed in turn on this machine only",
                where="params.yaml (targets)",
                fix="run build and benchmark on the device itself, without `run` and `kit`",
            )
        if target.run:
            command_line(target.run)


def refuse_unfit(
    engines: Artifact[Engines],
    dense: Artifact[ModelBundle],
    previous: Artifact[Previous],
    machine: Machine,
) -> None:
    """Raises ChainBroken for engines of other models, of another registry state or, where they are to
    run on this machine, of another one.
    """
    refuse_strangers(dense, {"engines": engines})
    if engines.manifest.parents.get("previous") != previous.digest:
        raise ChainBroken(
            "the engines were built beside another champion",
            where=str(engines.path),
            fix="run build again (dvc repro)",
        )
    built = engines.manifest.machine
    local = [fact for fact in engines.manifest.engines if not fact.machine]
    if local and built.instance != machine.instance:
        raise ChainBroken(
            f"the engines were built on another machine ({built.cpu}, "
            f"{built.logical_cpus} cores) than this one ({machine.cpu}, "
            f"{machine.logical_cpus} cores)",
            where=str(engines.path),
            fix="run build and benchmark on one machine, with the same `threads`",
        )
    refuse_unequal(engines)


def refuse_unequal(engines: Artifact[Engines]) -> None:
    """Raises ChainBroken where the arms of a target were built with another TF32 state or profile."""
    for name, facts in facts_by_target(engines).items():
        for key in EQUAL_DETAILS:
            told = {
                one.arm: one.built.details[key]
                for one in facts
                if one.built and key in one.built.details
            }
            if len(set(told.values())) > 1:
                raise ChainBroken(
                    f"the engines for '{name}' differ in what must be the same for all arms: {key} is "
                    + ", ".join(f"{value} ({arm})" for arm, value in sorted(told.items())),
                    where=str(engines.path),
                    fix="empty the engine cache (.reprune/work/engines) and run build again",
                )


def required_here(targets: Mapping[str, Target], policy: Policy) -> list[tuple[str, Target]]:
    """The policy's required targets that run on this machine."""
    return [
        (name, target)
        for name, target in sorted(targets.items())
        if policy.targets.get(name) == "required" and not target.run and not target.kit
    ]


def facts_by_target(engines: Artifact[Engines]) -> dict[str, list[EngineFact]]:
    """The engines of each target, targets in the order of their names."""
    found: dict[str, list[EngineFact]] = {}
    for fact in sorted(engines.manifest.engines, key=lambda fact: fact.target):
        found.setdefault(fact.target, []).append(fact)
    return found


def device_of(engines: Artifact[Engines], name: str) -> Machine:
    """The device that all engines of the target were built for.

    Raises ChainBroken where they were built for none, or for several.
    """
    found = {
        fact.machine.instance: fact.machine
        for fact in engines.manifest.engines
        if fact.target == name and fact.machine
    }
    if len(found) != 1:
        raise ChainBroken(
            f"the engines for '{name}' were not built for one device",
            where=str(engines.path),
            fix="run build again (dvc repro), with `run` in params.yaml as it is now",
        )
    return next(iter(found.values()))


def look_at(
    engines: Artifact[Engines], dense: Artifact[ModelBundle], data: Artifact[DataReport]
) -> Look:
    """What is about to be judged, and on what. Raises ChainBroken where there is nothing to judge."""
    from reprune.measure.attempts import Look

    candidates = [fact.bundle for fact in engines.manifest.engines if fact.arm == "candidate"]
    if not candidates or "eval" not in data.manifest.splits:
        raise ChainBroken(
            "there is nothing to judge: no candidate among the engines, or no eval split",
            where=str(engines.path),
            fix="run the steps again from fetch on (dvc repro)",
        )
    return Look(
        name=dense.manifest.name,
        dense_version=dense.manifest.dense_version,
        weights=dense.manifest.payload[WEIGHTS],
        eval_digest=data.manifest.splits["eval"].digest,
        candidate=candidates[0],
    )


def timed_jobs(
    engines: Artifact[Engines],
    task: Task,
    targets: Mapping[str, Target],
    params: BenchmarkParams,
    policy: Policy,
    look: Look,
) -> dict[str, LatencyJob]:
    """What is to be timed, for each target that engines were built for.

    The seeds come from the dense version and the eval digest alone: a candidate cannot be re-rolled.
    """
    from reprune.measure.latency import LatencyJob, timed_shapes

    run_seed = digest_of([look.dense_version, look.weights, look.eval_digest])
    jobs: dict[str, LatencyJob] = {}
    for name, facts in facts_by_target(engines).items():
        if name not in targets:
            raise ChainBroken(
                f"engines were built for '{name}', which params.yaml no longer has; "
                f"{nearest(name, targets)}",
                where=str(engines.path),
                fix="run build again (dvc repro)",
            )
        files: dict[str, Path] = {fact.arm: engines.file(fact.file) for fact in facts}
        copies: dict[str, tuple[Path, ...]] = {
            fact.arm: tuple(engines.file(file) for file in fact.copies)
            for fact in facts
            if fact.copies
        }
        jobs[name] = LatencyJob(
            target=targets[name],
            engines=files,
            shapes=timed_shapes(task, targets[name].batch_size),
            params=params,
            seed=f"{run_seed}/{name}",
            control=policy.guards.control,
            copies=copies,
        )
    return jobs
