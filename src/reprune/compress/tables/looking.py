"""Builds the model at widths that tell most, times its layers there, and makes the target's table of it.

What was measured lies in the work folder, look by look: a run that was killed goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Protocol

import msgspec
from msgspec.structs import replace

from reprune.compress.structure.architecture import apply
from reprune.compress.structure.equality import architecture_of
from reprune.compress.structure.groups import MAKERS
from reprune.compress.tables.design import next_widths, observed_of
from reprune.compress.tables.fitting import fitted
from reprune.compress.tables.sites import Site, rungs_of, sites_of, timed_layers
from reprune.compress.tables.table import (
    OperatorTable,
    Point,
    QuestionTimes,
    TableKey,
    TimedCut,
    questions_digest,
)
from reprune.core import store
from reprune.core.artifacts import Fact
from reprune.core.documents import decode_json, digest_of
from reprune.core.errors import DocumentError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from reprune.compress.structure.blocks import Block
    from reprune.compress.structure.groups import Group
    from reprune.core.params import TableParams, Target
    from reprune.runtimes.base import LayerTime

# Groups that are cut to; groups not named are whole.
Widths = Mapping[str, int]


class Timer(Protocol):
    """Times one model after another against the dense one, on one target."""

    def look(self, module: nn.Module) -> Seen:
        """Builds and times it beside the dense model. Raises BuildError."""


class Seen(Fact, kw_only=True):
    """`shares` are the layers' times over the sum of the dense model's in the same minutes, `whole` a
    whole call over one of the dense model's; `dense_us` is that sum. Shares that come from a profile of the
    whole model add up to `whole` (see by_the_clock).
    """

    shares: dict[str, float]
    whole: float
    dense_us: float
    kinds: dict[str, tuple[str, ...]] = {}


class Look(Fact, kw_only=True):
    """What the model showed, cut to `widths`."""

    widths: dict[str, int]
    seen: Seen


class Progress(Fact, kw_only=True):
    """`key` is the digest of what was asked: looks of another question are not gone on with."""

    key: str
    looks: tuple[Look, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The dense model, what of it can be cut, and where it is timed; `steps` are its groups' alignments, and
    `instance` is the one machine that looks may be of.
    """

    name: str
    target: Target
    module: nn.Module
    example_inputs: Sequence[Tensor]
    groups: tuple[Group, ...]
    steps: Mapping[str, int]
    blocks: tuple[Block, ...] = ()
    instance: str = ""


def measure_operators(  # noqa: PLR0913  # what, by whom, for how long, and where it is kept
    subject: Subject,
    timer: Timer,
    key: Callable[[str], TableKey],
    params: TableParams,
    *,
    dense_us: float,
    work: Path,
    say: Callable[[str], None],
) -> OperatorTable:
    """The target's table, from at most `params.builds` builds beside the dense one.

    `key` gives the table's key for the digest of its questions; `dense_us` is what a whole call of the
    dense model takes. Raises BuildError.
    """
    return completed(begun(subject, timer, key, work, say), params.builds, dense_us)


def begun(
    subject: Subject,
    timer: Timer,
    key: Callable[[str], TableKey],
    work: Path,
    say: Callable[[str], None],
) -> Begun:
    """The dense model looked at, and so what is to be asked. Raises BuildError."""
    asked = digest_of([key(_asked(subject)).digest, subject.instance])
    book = Book(subject, timer, work, asked, say)
    dense = book.look({})
    sites = sites_of(
        subject.module, subject.groups, subject.example_inputs, dense.seen.kinds, subject.blocks
    )
    return Begun(book=book, sites=sites, key=key(questions_digest(sites)))


def completed(begun: Begun, builds: int, dense_us: float) -> OperatorTable:
    """The table from the looks there are and as many more as tell something, at most `builds` in all.
    Raises BuildError.
    """
    book, sites, subject = begun.book, begun.sites, begun.book.subject
    rungs = rungs_of(subject.groups, subject.steps)
    while len(book.looks) <= builds:
        observed = observed_of(sites, [(look.widths, look.seen.shares) for look in book.looks])
        widths = next_widths(sites, rungs, observed)
        if widths is None or book.known(widths) is not None:
            break
        book.look(widths, f" of at most {builds}")
    return _table(subject, sites, book.looks, begun.key, dense_us)


class Book:
    """The looks so far, each written down as it ends; begins with those of a run that was killed."""

    def __init__(
        self, subject: Subject, timer: Timer, work: Path, key: str, say: Callable[[str], None]
    ) -> None:
        self.subject = subject
        self.timer = timer
        self.path = work / f"tables-{subject.name}.json"
        self.key = key
        self.say = say
        self.looks = _read(self.path, key)

    def known(self, widths: Widths) -> Look | None:
        """The look at these widths, where there was one."""
        return next((look for look in self.looks if look.widths == widths), None)

    def look(self, widths: dict[str, int], told: str = "") -> Look:
        """The look at these widths, now unless there was one. Raises BuildError."""
        known = self.known(widths)
        if known is not None:
            return known
        seen = self.timer.look(cut_to(self.subject, widths))
        found = Look(widths=widths, seen=seen)
        self.looks = (*self.looks, found)
        store.write_bytes(self.path, msgspec.json.encode(Progress(key=self.key, looks=self.looks)))
        if widths:
            self.say(
                f"{self.subject.name}: build {len(self.looks) - 1}{told} for the tables: "
                f"{seen.whole:.3f} of the dense latency"
            )
        return found


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A table that is begun: the dense model was looked at, `sites` are its layers, `key` is the table's."""

    book: Book
    sites: tuple[Site, ...]
    key: TableKey


def cut_to(subject: Subject, widths: Widths) -> nn.Module:
    """A copy of the dense model with the first channels of each group left; which ones does not matter
    for time.
    """
    if not widths:
        return subject.module
    kept = {name: tuple(range(width)) for name, width in widths.items()}
    return apply(subject.module, architecture_of(subject.module, subject.groups, kept))


def layers_to_time(module: nn.Module) -> tuple[str, ...]:
    """The names that a Timer gives times to."""
    return timed_layers(module)


def seen_of(
    rounds: Sequence[tuple[Sequence[LayerTime], Sequence[LayerTime]]], whole: float
) -> Seen:
    """From rounds of (dense, cut) in the same moment: the median over rounds of each layer's share."""
    sums = [sum(one.us for one in dense) or 1.0 for dense, _ in rounds]
    found: dict[str, list[float]] = {}
    for total, (_, cut) in zip(sums, rounds, strict=True):
        for one in cut:
            found.setdefault(one.layer, []).append(one.us / total)
    return Seen(
        shares={layer: median(values) for layer, values in found.items()},
        whole=whole,
        dense_us=median(sums),
        kinds={one.layer: one.kinds for one in rounds[0][1]},
    )


def by_the_clock(seen: Seen) -> Seen:
    """The same with shares that add up to `whole`: a profiler tells where the time of a call goes, the clock
    how much that is.

    Between sessions of one engine the sum of its operators' times was seen to differ by 8 %, its calls by
    1 %; and the profiler's own clock costs each operator a little, which no narrower layer saves.
    """
    summed = sum(seen.shares.values())
    scale = seen.whole / summed if summed else 1.0
    shares = {layer: share * scale for layer, share in seen.shares.items()}
    return replace(seen, shares=shares)


def _table(
    subject: Subject, sites: tuple[Site, ...], looks: Sequence[Look], key: TableKey, dense_us: float
) -> OperatorTable:
    unit = median(look.seen.dense_us for look in looks)
    observed = observed_of(sites, [(look.widths, look.seen.shares) for look in looks])
    dense = sum(median(observed[site.question][site.full]) for site in sites)
    fit = fitted(
        [(sum(look.seen.shares.values()) / dense, look.seen.whole) for look in looks[1:]],
        dense * unit,
        dense_us,
    )
    return OperatorTable(
        target=subject.name,
        key=key,
        dense_us=round(dense_us, 3),
        constant_us=round(fit.constant, 4),
        factor=round(fit.factor, 6),
        builds=len(looks) - 1,
        error=round(fit.error, 6),
        steps=dict(subject.steps),
        sites=sites,
        times=tuple(
            QuestionTimes(
                question=question,
                points=tuple(
                    Point(inputs=point[0], outputs=point[1], us=round(median(found) * unit, 4))
                    for point, found in sorted(points.items())
                ),
            )
            for question, points in sorted(observed.items())
        ),
        widths={group.name: group.width for group in subject.groups},
        blocks=tuple(block.name for block in subject.blocks),
        notes=tuple(_notes(subject, sites)),
        cuts=tuple(TimedCut(widths=look.widths, whole=look.seen.whole) for look in looks[1:]),
    )


def _notes(subject: Subject, sites: Sequence[Site]) -> list[str]:
    """What the tables leave out, in words."""
    told = [f"{site.layer}: {site.note}" for site in sites if site.note]
    timed = {site.layer for site in sites}
    told += [
        f"{name}: none of the target's operators is known to be its own; its time is with its neighbours"
        for name, layer in subject.module.named_modules()
        if isinstance(layer, MAKERS) and name not in timed
    ]
    touched = {name for site in sites for name in site.groups} | {site.block for site in sites}
    told += [
        f"{name}: no layer with a time of its own depends on it; cutting it is predicted to save nothing"
        for name in (group.name for group in subject.groups)
        if name not in touched
    ]
    told += [
        f"{block.name}: no layer in it has a time of its own; removing it is predicted to save nothing"
        for block in subject.blocks
        if block.name not in touched
    ]
    for site in sites:
        if len(site.groups) > 2:
            told.append(
                f"{site.layer}: {len(site.groups)} groups meet in it ({', '.join(site.groups)}); its "
                "time is taken to depend on how many channels it reads and makes, not on whose they are"
            )
    return told


def _asked(subject: Subject) -> str:
    """The digest of the architecture before the first look: layers, shapes and groups."""
    layers = dict.fromkeys(timed_layers(subject.module), ())
    return questions_digest(
        sites_of(subject.module, subject.groups, subject.example_inputs, layers, subject.blocks)
    )


def _read(path: Path, key: str) -> tuple[Look, ...]:
    """What an earlier run saw; nothing if it cannot be read or asked otherwise: that costs only time."""
    try:
        found = decode_json(path.read_bytes(), Progress, name=str(path))
    except (FileNotFoundError, DocumentError):
        return ()
    return found.looks if found.key == key else ()
