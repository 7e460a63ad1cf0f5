"""What profile does for latency tables: the dense model opened, its target's engines built and timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from reprune.compress.structure.alignment import alignments
from reprune.compress.tables.inherited import Earlier, knobs_digest, taken_over
from reprune.compress.tables.looking import Begun, Subject, begun, completed
from reprune.compress.tables.table import OperatorTable, TableKey
from reprune.compress.tables.timers import Place, timer_for
from reprune.core.artifacts import ModelBundle, TableFact, TargetProfile, TimesReuse
from reprune.core.errors import CompressionError
from reprune.core.params import TableParams
from reprune.core.step import Context
from reprune.core.store import Artifact
from reprune.measure.calls import Shape, commonest
from reprune.measure.source import CALIBRATION_EXAMPLES, source_of
from reprune.steps.opening import Dense, open_dense

if TYPE_CHECKING:
    from torch import nn

    from reprune.measure.timing_place import TimingPlace
    from reprune.runtimes.base import Source


@dataclass(frozen=True, kw_only=True)
class Timed:
    """A target that was timed as it is, `where` it runs, and with what inputs. `earlier` are tables of it
    that may still hold, or why there are none; UNSET where nobody asked.
    """

    name: str
    where: TimingPlace
    shapes: Sequence[Shape]
    profile: TargetProfile
    earlier: Earlier | str | UnsetType = UNSET


@dataclass(frozen=True, kw_only=True)
class Tabled:
    """A target's table, and where it comes from, if that was asked."""

    table: OperatorTable
    reuse: TimesReuse | UnsetType

    @property
    def fact(self) -> TableFact:
        """What the manifest says of it."""
        table = self.table
        return TableFact(
            target=table.target,
            key=table.key.digest,
            builds=table.builds,
            error=table.error,
            reuse=self.reuse,
        )


def tables_of(  # the bundle, the target, the knobs and where it is told
    dense: Artifact[ModelBundle],
    timed: Timed,
    params: TableParams,
    *,
    seed: int,
    threads: int,
    ctx: Context,
) -> Tabled | None:
    """The target's latency tables, for the workload's commonest shape: the earlier ones where they still
    hold. None, and why is said, where there is nothing to cut. Raises BuildError, and what its place raises.
    """
    target = timed.where.target
    try:
        opened = open_dense(
            dense, seed=seed, threads=threads, head_dimensions=params.head_dimensions
        )
    except CompressionError as error:
        ctx.say(f"{timed.name}: no latency tables: {error.what}")
        return None
    inputs = commonest(timed.shapes).inputs

    def source(module: nn.Module) -> Source:
        return source_of(module, opened.task, target, examples=CALIBRATION_EXAMPLES)

    def key(questions: str) -> TableKey:
        return table_key(timed.where, [array.shape for array in inputs], questions)

    place = Place(
        where=timed.where,
        source=source,
        inputs=inputs,
        folder=ctx.work,
        rounds=params.rounds,
        dense_us=timed.profile.latency_us,
        seed=seed,
    )
    engine = place.built(f"{timed.name}-whole", source(opened.module))
    started = begun(
        _subject(opened, timed, params),
        timer_for(place, opened.module, engine),
        key,
        ctx.work,
        ctx.say,
    )
    found = _tabled(started, timed, params)
    if found.reuse is not UNSET:
        verb = "are used again" if found.reuse.how == "reused" else "were measured"
        ctx.say(f"{timed.name}: the latency tables {verb}: {found.reuse.why}")
    for note in found.table.notes:
        ctx.say(f"{timed.name}: {note}")
    return found


def _tabled(started: Begun, timed: Timed, params: TableParams) -> Tabled:
    knobs, dense_us = knobs_digest(timed.where.target, params), timed.profile.latency_us
    if timed.earlier is UNSET:
        table = completed(started, params.builds, dense_us)
        return Tabled(table=replace(table, knobs=knobs), reuse=UNSET)
    table, reuse = taken_over(started, timed.earlier, knobs, params.builds, dense_us)
    return Tabled(table=table, reuse=reuse)


def table_key(where: TimingPlace, shapes: Sequence[tuple[int, ...]], questions: str) -> TableKey:
    """The key of tables measured there now; `questions` is `table.questions_digest` of their sites."""
    target = where.target
    return TableKey(
        machine_kind=where.machine.timed_kind,
        runtime=target.runtime,
        version=where.version,
        precision=target.precision,
        device=target.device,
        batch_size=target.batch_size,
        threads=target.threads,
        inputs=tuple(tuple(shape) for shape in shapes),
        questions=questions,
    )


def _subject(opened: Dense, timed: Timed, params: TableParams) -> Subject:
    return Subject(
        name=timed.name,
        target=timed.where.target,
        module=opened.module,
        example_inputs=opened.task.example_inputs(2),
        groups=opened.groups,
        steps=alignments(opened.module, opened.groups, params.step),
        blocks=opened.blocks,
        instance=timed.where.machine.instance,
    )
