"""The tables of one target as they are stored: what was asked, of what machine, and what it took."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from reprune.compress.tables.grid import Grid
from reprune.compress.tables.sites import Site
from reprune.core.artifacts import Fact
from reprune.core.documents import decode_json, digest_of
from reprune.core.errors import CompressionError
from reprune.core.machine import Machine
from reprune.core.store import write_bytes

TABLES_FILE = "tables.json"


class TableKey(Fact, kw_only=True):
    """What must be equal for times to hold: the kind of machine, the runtime and how it runs, the shapes of
    a call's inputs, and the digest of all questions, so of the architecture.
    """

    machine_kind: str
    runtime: str
    version: str
    precision: str
    device: str
    batch_size: int
    threads: int
    inputs: tuple[tuple[int, ...], ...]
    questions: str

    @property
    def digest(self) -> str:
        """Tables with equal ones answer the same question."""
        return digest_of(msgspec.to_builtins(self))


class Point(Fact, kw_only=True):
    """`us` of one layer with axes of these lengths, 0 for one that it does not have."""

    inputs: int
    outputs: int
    us: float


class QuestionTimes(Fact, kw_only=True):
    """What equal layers take. `points` hold the lengths of the dense model's."""

    question: str
    points: tuple[Point, ...]


class OperatorTable(Fact, kw_only=True):
    """A target's times by layer and lengths, and what a whole call takes beside them.

    latency = `constant_us` + `factor` x the sum over the layers, fitted to whole calls of the same
    engines. A negative `constant_us` is what a profiler's own clock adds to every operator's time.
    `builds` engines were built and timed; `error` is the median of what the fit is off there, as a share.
    `steps`: a group's widths were timed at multiples of its step, and hold nowhere else. `widths` are
    all groups of the model and `blocks` all that can be removed, also those that no timed layer depends
    on: they cost nothing here. `notes` say what of the dependence on widths is not in the tables.
    """

    target: str
    key: TableKey
    dense_us: float
    constant_us: float
    factor: float
    builds: int
    error: float
    steps: dict[str, int]
    sites: tuple[Site, ...]
    times: tuple[QuestionTimes, ...]
    widths: dict[str, int] = {}
    blocks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def grids(self) -> dict[str, Grid]:
        """By question, the time at any lengths."""
        full = {site.question: site.full for site in self.sites}
        return {
            one.question: Grid(
                full=full[one.question],
                points={(point.inputs, point.outputs): point.us for point in one.points},
            )
            for one in self.times
        }


class Tables(Fact, kw_only=True):
    """The payload `tables.json` of a Profile."""

    schema: int = 1
    tables: tuple[OperatorTable, ...]


def questions_digest(sites: Sequence[Site]) -> str:
    """The digest of the architecture as far as time goes: every layer, its question and its groups."""
    return digest_of(msgspec.to_builtins(tuple(sites)))


def same_question(a: TableKey, b: TableKey) -> bool:
    """Whether times measured for one of both hold for the other."""
    return a == b


def reusable(tables: Iterable[OperatorTable], key: TableKey) -> OperatorTable | None:
    """The first of `tables` (an earlier generation's) that answers the question `key`; None without one."""
    return next((table for table in tables if same_question(table.key, key)), None)


def anchored(table: OperatorTable, target: str, dense_us: float) -> OperatorTable:
    """The table under the target's present name, in proportion so that the dense model takes `dense_us`."""
    scale = dense_us / table.dense_us if table.dense_us else 1.0
    return msgspec.structs.replace(
        table,
        target=target,
        dense_us=round(dense_us, 3),
        constant_us=round(table.constant_us * scale, 4),
        factor=round(table.factor * scale, 6),
    )


def write_tables(path: Path, tables: Sequence[OperatorTable]) -> None:
    """Writes `tables.json`; equal tables have equal bytes."""
    raw = msgspec.json.encode(Tables(tables=tuple(tables)))
    write_bytes(path, msgspec.json.format(raw, indent=1) + b"\n")


def read_tables(path: Path) -> tuple[OperatorTable, ...]:
    """The tables at `path`; none where there is no such file. Raises DocumentError."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return ()
    return decode_json(raw, Tables, name=str(path)).tables


def refuse_other_machine(table: OperatorTable, machine: Machine) -> None:
    """Raises CompressionError where `table` was measured on another kind of machine than `machine`."""
    if table.key.machine_kind != machine.kind:
        raise CompressionError(
            f"the latency tables are of a machine of kind {_short(table.key.machine_kind)}, this one "
            f"is of kind {_short(machine.kind)} ({machine.cpu}, {machine.logical_cpus} CPUs)",
            where=f"tables of target '{table.target}'",
            fix="run `reprune profile` on the machine that the target is",
        )


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]
