"""Which swaps are tried when, and what may come of each (see tests.swaps for how one is done).

`files`     artefacts, policy, params, task and lock, at each moment at which promote looks at the repository
`champion`  the champion that serves, at each moment at which promote looks at it, or lists where it lies
`calls`     champion, anchor, policy and lock, before and after each call of the registry
`stored`    each registered file, at each moment at which promote reads it back

A run of moments at which promote works on its own copies, or in another place, is tried once, at its first:
nobody looks at what is swapped until the run ends, so that a swap within it is the one at its first moment.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from reprune.registry.receipts import RECEIPT_FILE
from tests import swap_kinds, swaps
from tests.swaps import Came, Swap

OWN = (".reprune/work/", "registry/")
STORED = f"registry/{swaps.COMPRESSED}/1/files/"
Case: TypeAlias = tuple[str, int, Swap]


@dataclass(kw_only=True)
class Counted:
    """`wrong` says what was promoted that should not have been; `moments` there were in all."""

    tried: int = 0
    refused: int = 0
    wrong: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    moments: int = 0

    def add(self, kind: str, at: str, *, refused: bool, wrong: bool) -> None:
        self.tried, self.refused = self.tried + 1, self.refused + refused
        self.kinds[kind] += 1
        if wrong:
            self.wrong.append(f"{kind} at {at}")

    def __add__(self, other: Counted) -> Counted:
        return Counted(
            tried=self.tried + other.tried,
            refused=self.refused + other.refused,
            wrong=[*self.wrong, *other.wrong],
            kinds=self.kinds + other.kinds,
            moments=self.moments + other.moments,
        )


def files(template: Path, other: Path, root: Path, *, every: int = 1) -> Counted:
    """Refused, or it came too late and what serves is what was judged."""
    whole = swaps.promoted_with(template, root, at=0, swap=None)
    assert whole.served, whole.refused
    looks = _looking(whole, lambda name: not name.startswith(OWN))
    cases = [(kind, at, swap) for kind, swap in swap_kinds.kinds(other).items() for at in looks]
    singles = [
        (f"a byte of {path}", at, swap_kinds.flipped(path))
        for path in swap_kinds.at_rest(template)
        for at, name in enumerate(whole.moments, start=1)
        if name == path
    ]
    found = Counted(moments=len(whole.moments))
    for kind, at, swap in [*_some(cases, every), *_some(singles, every)]:
        came = swaps.promoted_with(template, root, at=at, swap=swap)
        wrong = came.served is not None and came.served != whole.served
        found.add(kind, whole.moments[at - 1], refused=bool(came.refused), wrong=wrong)
    return found


def champion(second: Path, root: Path, *, every: int = 1) -> Counted:
    """Moved, marked or taken away by somebody else before promote's last look at it: refused, every time."""
    whole = swaps.promoted_with(second, root, at=0, swap=None)
    found = Counted(moments=len(whole.moments))
    cases = []
    for kind, swap in swap_kinds.champion_kinds().items():
        touched = f"registry/{swaps.COMPRESSED}/{swap_kinds.TOUCHED[kind]}"
        folder = touched.rpartition("/files/")[0] or str(Path(touched).parent)
        shows = (touched, folder, f"registry/{swaps.COMPRESSED}")
        last = swaps.last_read(whole, touched)
        looks = _looking(whole, lambda name, shows=shows: name in shows)  # type: ignore[misc]
        cases += [(kind, at, swap) for at in looks if at <= last]
    for kind, at, swap in _some(cases, every):
        came = swaps.promoted_with(second, root, at=at, swap=swap)
        found.add(
            kind,
            whole.moments[at - 1],
            refused=bool(came.refused),
            wrong=not came.refused or came.served == whole.served,
        )
    return found


def calls(template: Path, second: Path, other: Path, root: Path, *, every: int = 1) -> Counted:
    """Around each call of the registry, of a first promotion and of one over a champion.

    A champion that moved before the last look at it is refused; whatever else is swapped, what serves then
    is what served before, or what was judged.
    """
    found = Counted()
    for repository in (template, second):
        before = swaps.served(repository)
        whole = swaps.promoted_with(repository, root, at=0, swap=None, at_calls=True)
        found.moments += len(whole.moments)
        cases = [
            (kind, at, swap)
            for kind, swap in swap_kinds.call_kinds(other).items()
            for at in range(1, len(whole.moments) + 1)
            if kind not in swap_kinds.MOVED or at <= swaps.last_look(whole, swap_kinds.MOVED[kind])
        ]
        for kind, at, swap in _some(cases, every):
            came = swaps.promoted_with(repository, root, at=at, swap=swap, at_calls=True)
            if kind in swap_kinds.MOVED:
                wrong = not came.refused or came.served == whole.served
            else:
                # An alias that names no version serves nothing.
                wrong = came.served not in (before, whole.served, {})
            found.add(kind, whole.moments[at - 1], refused=bool(came.refused), wrong=wrong)
    return found


def stored(template: Path, root: Path, *, every: int = 1) -> Counted:
    """A byte of a registered file, turned before it is read back: the champion does not become it.

    But for the receipt at promote's very last look, which is at other versions' receipts: then what serves
    is what was judged, under a receipt that the next promote, rollback and fetch refuse.
    """
    whole = swaps.promoted_with(template, root, at=0, swap=None)
    cases = [
        (f"a registered byte of {_part(name)}", at, swap_kinds.flipped(name))
        for at, name in enumerate(whole.moments[: whole.before_alias], start=1)
        if name.startswith(STORED)
    ]
    found = Counted(moments=len(whole.moments))
    for kind, at, swap in _some(cases, every):
        came = swaps.promoted_with(template, root, at=at, swap=swap)
        late = at == whole.before_alias and whole.moments[at - 1] == STORED + RECEIPT_FILE
        wrong = came.served != whole.served if late else not came.refused or came.served is not None
        found.add(kind, whole.moments[at - 1], refused=bool(came.refused), wrong=wrong)
    return found


def _part(name: str) -> str:
    """The artefact that a registered file is of; the file itself where it lies beside them."""
    return name.removeprefix(STORED).partition("/")[0]


def _looking(whole: Came, looks: Callable[[str], bool]) -> list[int]:
    """The moments with such a look, and the first of each run of others."""
    picked, before = [], True
    for at, moment in enumerate(whole.moments, start=1):
        now = looks(moment.rpartition(" ")[2])
        if now or before:
            picked.append(at)
        before = now
    return picked


def _some(cases: list[Case], every: int) -> Iterator[Case]:
    """Every so many of them, and the first of each kind."""
    seen: set[str] = set()
    for number, case in enumerate(cases):
        if number % every == 0 or case[0] not in seen:
            seen.add(case[0])
            yield case
