"""The tables of one target as they are stored: what was asked, of what machine, and what it took."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from reprune.compress.tables.grid import Grid, with_stairs
from reprune.compress.tables.sites import Site
from reprune.core.artifacts import Fact
from reprune.core.documents import decode_json, digest_of
from reprune.core.store import write_bytes

TABLES_FILE = "tables.json"


class TableKey(Fact, kw_only=True):
    """What must be equal for times to hold: the kind of machine (Machine.timed_kind), the runtime and how it
    runs, the shapes of a call's inputs, and the digest of all questions, so of the architecture.
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
        """Equal ones were measured of the same question, and what was seen for one holds for the other."""
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


class TimedCut(Fact, kw_only=True):
    """A cut that was built and timed: its latency over the dense model's. Every layer's time at its lengths
    there is among the points.
    """

    widths: dict[str, int]
    whole: float


class OperatorTable(Fact, kw_only=True):
    """A target's times by layer and lengths, and what a whole call takes beside them.

    latency = `constant_us` + `factor` x the sum over the layers, fitted to whole calls of the same
    engines. A negative `constant_us` is what a profiler's own clock adds to every operator's time.
    `builds` engines were built and timed; `error` is the median of what the fit is off there, as a share.
    `steps`: a group's widths were timed at multiples of its step, and hold nowhere else. `widths` are
    all groups of the model and `blocks` all that can be removed, also those that no timed layer depends
    on: they cost nothing here. `notes` say what of the dependence on widths is not in the tables. `cuts`
    were built, and `knobs` is the digest of how (inherited.knobs_digest): "" in older tables, which no later
    generation uses again.
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
    cuts: tuple[TimedCut, ...] = ()
    knobs: str = ""

    def grids(self) -> dict[str, Grid]:
        """By question, the time at any lengths."""
        full = {site.question: site.full for site in self.sites}
        found = {
            one.question: Grid(
                full=full[one.question],
                points={(point.inputs, point.outputs): point.us for point in one.points},
            )
            for one in self.times
        }
        return with_stairs(found)


class Tables(Fact, kw_only=True):
    """The payload `tables.json` of a Profile."""

    schema: int = 1
    tables: tuple[OperatorTable, ...]


def questions_digest(sites: Sequence[Site]) -> str:
    """The digest of the architecture as far as time goes: every layer, its question and its groups."""
    return digest_of(msgspec.to_builtins(tuple(sites)))


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
