"""What profile does for latency tables: the dense model opened, its target's engines built and timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reprune.compress.structure.alignment import alignments
from reprune.compress.tables.looking import Subject, measure_operators
from reprune.compress.tables.table import OperatorTable, TableKey
from reprune.compress.tables.timers import Place, timer_for
from reprune.core.artifacts import ModelBundle, TableFact, TargetProfile
from reprune.core.errors import CompressionError
from reprune.core.machine import this_machine
from reprune.core.params import TableParams, Target
from reprune.core.step import Context
from reprune.core.store import Artifact
from reprune.measure.calls import Shape
from reprune.measure.source import CALIBRATION_EXAMPLES, source_of
from reprune.runtimes.base import Runtime, get_runtime
from reprune.steps.opening import Dense, open_dense

if TYPE_CHECKING:
    from torch import nn

    from reprune.runtimes.base import Source


@dataclass(frozen=True, kw_only=True)
class Timed:
    """A target that was timed here as it is, and with what inputs."""

    name: str
    target: Target
    shapes: Sequence[Shape]
    profile: TargetProfile


def tables_of(  # the bundle, the target, the knobs and where it is told
    dense: Artifact[ModelBundle],
    timed: Timed,
    params: TableParams,
    *,
    seed: int,
    threads: int,
    ctx: Context,
) -> OperatorTable | None:
    """The target's latency tables, for the workload's commonest shape; None, and why is said, where there
    is nothing to cut or the runtime may end the process that times it. Raises BuildError.
    """
    runtime = get_runtime(timed.target.runtime)
    if runtime.capabilities.may_crash:
        ctx.say(
            f"{timed.name}: no latency tables, {timed.target.runtime} runs in a process of its own"
        )
        return None
    try:
        opened = open_dense(
            dense, seed=seed, threads=threads, head_dimensions=params.head_dimensions
        )
    except CompressionError as error:
        ctx.say(f"{timed.name}: no latency tables: {error.what}")
        return None
    inputs = max(timed.shapes, key=lambda shape: shape.weight).inputs

    def source(module: nn.Module) -> Source:
        return source_of(module, opened.task, timed.target, examples=CALIBRATION_EXAMPLES)

    def key(questions: str) -> TableKey:
        return table_key(
            runtime, timed.target, [array.shape for array in inputs], threads, questions
        )

    place = Place(
        runtime=runtime,
        target=timed.target,
        source=source,
        inputs=inputs,
        folder=ctx.work,
        rounds=params.rounds,
        dense_us=timed.profile.latency_us,
        seed=seed,
    )
    engine = place.built(f"{timed.name}-whole", source(opened.module))
    table = measure_operators(
        _subject(opened, timed, params),
        timer_for(place, opened.module, engine),
        key,
        params,
        dense_us=timed.profile.latency_us,
        work=ctx.work,
        say=ctx.say,
    )
    for note in table.notes:
        ctx.say(f"{timed.name}: {note}")
    return table


def table_key(
    runtime: Runtime,
    target: Target,
    shapes: Sequence[tuple[int, ...]],
    threads: int,
    questions: str,
) -> TableKey:
    """The key of tables measured here and now; `questions` is `table.questions_digest` of their sites."""
    return TableKey(
        machine_kind=this_machine(threads).kind,
        runtime=target.runtime,
        version=runtime.version(),
        precision=target.precision,
        device=target.device,
        batch_size=target.batch_size,
        threads=target.threads,
        inputs=tuple(tuple(shape) for shape in shapes),
        questions=questions,
    )


def facts(tables: Sequence[OperatorTable]) -> tuple[TableFact, ...]:
    """What the manifest says of them."""
    return tuple(
        TableFact(target=table.target, key=table.key.digest, builds=table.builds, error=table.error)
        for table in tables
    )


def _subject(opened: Dense, timed: Timed, params: TableParams) -> Subject:
    return Subject(
        name=timed.name,
        target=timed.target,
        module=opened.module,
        example_inputs=opened.task.example_inputs(2),
        groups=opened.groups,
        steps=alignments(opened.module, opened.groups, params.step),
        blocks=opened.blocks,
    )
