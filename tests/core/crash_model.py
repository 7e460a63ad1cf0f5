"""Every state that a disk may be in after a crash, and what a reader makes of it.

The model is ALICE's. What was fsynced before the crash is there: of a file its bytes, of a folder its
names. Of everything else any part may be there and any part not, in any order; bytes may be torn, or
be zeros where only the length came through. A rename is whole or not at all.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.core.recording import ROOT, Ack, Data, Fsync, Names, Op, Recorder, Tree

MOST_AT_ONE_POINT = 200_000
# Names that no reader looks at, and that are swept.
HIDDEN = (".draft", ".tmp")


@dataclass(frozen=True)
class Counts:
    """`states` as enumerated, `distinct` as different disks, each of which a reader was let loose on."""

    states: int
    distinct: int
    wrong: int
    lost: int
    examples: tuple[str, ...] = ()

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.states + other.states,
            self.distinct + other.distinct,
            self.wrong + other.wrong,
            self.lost + other.lost,
            (self.examples + other.examples)[:5],
        )


def judge(
    recorder: Recorder, seen: Sequence[str], observe: Callable[[Path], str], scratch: Path
) -> Counts:
    """What `observe` says of every state. `seen[i]` is what it said after acknowledgement i, the first
    before anything was done. Between two it must say one or the other, and nothing else.
    """
    states, wrong, lost, examples = 0, 0, 0, []
    said: dict[tuple[object, ...], str] = {}
    for point, acked, tree in crashes(recorder):
        states += 1
        key = tree.key()
        if key not in said:
            said[key] = _observed(tree, observe, scratch)
        allowed = seen[acked : acked + 2]
        if said[key] in allowed:
            continue
        gone = said[key] in seen[:acked]
        lost, wrong = lost + gone, wrong + (not gone)
        if len(examples) < 5:
            what = "lost" if gone else "wrong"
            examples.append(f"{what} after operation {point}: {said[key]} is none of {allowed}")
    return Counts(states, len(said), wrong, lost, tuple(examples))


def crashes(recorder: Recorder) -> Iterator[tuple[int, int, Tree]]:
    """Each point at which it may crash, the acknowledgements before it, and each tree that may be left."""
    for point in range(len(recorder.ops) + 1):
        done = recorder.ops[:point]
        # Between an acknowledgement and an fsync nothing is new that a crash could take apart.
        if point and isinstance(done[-1], Names | Data) and not _matters(recorder, point):
            continue
        acked = sum(isinstance(op, Ack) for op in done)
        for tree in _trees(recorder.before, done):
            yield point, acked, tree


def _matters(recorder: Recorder, point: int) -> bool:
    """Whether a crash here leaves what one a step later, with that step undone, would not: it never does,
    but where an acknowledgement or an fsync comes next, or nothing."""
    return point == len(recorder.ops) or isinstance(recorder.ops[point], Ack | Fsync)


def _trees(before: Tree, done: Sequence[Op]) -> Iterator[Tree]:
    forced = _forced(done)
    changes = [index for index, op in enumerate(done) if isinstance(op, Names | Data)]
    visible = _visible(before, done, forced)
    free = [index for index in changes if index not in forced and _shows(done[index], visible)]
    choices = [_choices(done[index]) for index in free]
    many = 1
    for each in choices:
        many *= len(each)
    if many > MOST_AT_ONE_POINT:
        raise AssertionError(f"{many} states at one point: {[done[index] for index in free][:20]}")
    for chosen in itertools.product(*choices):
        picked = dict(zip(free, chosen, strict=True))
        tree = before.copy()
        for index in changes:
            op = picked.get(index, done[index] if index in forced else None)
            if op is not None:
                apply(tree, op)
        yield whole(tree, done)


def _forced(done: Sequence[Op]) -> set[int]:
    """What is on disk for certain."""
    found: set[int] = set()
    for place, op in enumerate(done):
        if not isinstance(op, Fsync):
            continue
        for index, earlier in enumerate(done[:place]):
            data = isinstance(earlier, Data) and earlier.inode == op.inode
            if data or (isinstance(earlier, Names) and op.inode in earlier.folders):
                found.add(index)
    return found


def _choices(op: Op) -> list[Op | None]:
    """What may be left of an operation that was not synced."""
    if not isinstance(op, Data):
        return [None, op]
    half = op.content[: len(op.content) // 2]
    zeros = bytes(len(op.content))
    parts = dict.fromkeys((op.content, half, zeros))
    return [None, *(Data(op.inode, op.start, each) for each in parts)]


def _visible(before: Tree, done: Sequence[Op], forced: set[int]) -> set[int]:
    """The inodes that a reader could come upon, whatever is left of what was not synced."""
    names: dict[tuple[int, str], set[int | None]] = {
        (folder, name): {inode}
        for folder, each in before.folders.items()
        for name, inode in each.items()
    }
    for index, op in enumerate(done):
        if isinstance(op, Names):
            for folder, name, inode in op.changes:
                kept = set() if index in forced else names.get((folder, name), set())
                names[folder, name] = {*kept, inode}
    found, pending = {ROOT}, [ROOT]
    while pending:
        here = pending.pop()
        for (folder, name), meant in names.items():
            if folder == here and not name.endswith(HIDDEN):
                new = {each for each in meant if each is not None} - found
                found |= new
                pending += new
    return found


def _shows(op: Op, visible: set[int]) -> bool:
    if isinstance(op, Data):
        return op.inode in visible
    assert isinstance(op, Names)
    # A name that is hidden in a folder that is not changes nothing for a reader.
    return any(folder in visible and not name.endswith(HIDDEN) for folder, name, _ in op.changes)


def apply(tree: Tree, op: Op) -> None:
    if isinstance(op, Data):
        old = tree.files.get(op.inode, b"")[: op.start]
        tree.files[op.inode] = old.ljust(op.start, b"\0") + op.content
    elif isinstance(op, Names):
        for folder, name, inode in op.changes:
            here = tree.folders.setdefault(folder, {})
            if inode is None:
                here.pop(name, None)
            else:
                here[name] = inode


def whole(tree: Tree, done: Sequence[Op]) -> Tree:
    """The same with what its names lead to: an inode of which nothing came through is empty."""
    kinds = {inode: folder for op in done if isinstance(op, Names) for inode, folder in op.made}
    for inode, folder in kinds.items():
        if folder:
            tree.folders.setdefault(inode, {})
        else:
            tree.files.setdefault(inode, b"")
    return tree


def _observed(tree: Tree, observe: Callable[[Path], str], scratch: Path) -> str:
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    tree.write_to(scratch)
    return observe(scratch)
