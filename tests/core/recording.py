"""What our code does to a disk, as the operations that a crash may take apart.

The code runs as it is. Before each of its system calls that could change something the tree is looked
at again (an audit hook, and `os.fsync` in our place), so that what lies between two looks is one
operation. Nothing is known of how the code does it: names, contents and fsyncs are all.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

EVENTS = {
    "open", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.link", "os.truncate", "os.symlink",
}  # fmt: skip


@dataclass(frozen=True)
class Names:
    """Names that change together: (folder, name) to the inode that it means then, or None for none."""

    changes: tuple[tuple[int, str, int | None], ...]
    folders: frozenset[int] = frozenset()
    made: tuple[tuple[int, bool], ...] = ()


@dataclass(frozen=True)
class Data:
    """Bytes of a file from `start` on; what was there before is cut off at `start`."""

    inode: int
    start: int
    content: bytes


@dataclass(frozen=True)
class Fsync:
    """All that happened to this inode so far is on disk."""

    inode: int


@dataclass(frozen=True)
class Ack:
    """A call of ours returned: what it did must not be lost from here on. `seen` is what a reader saw."""

    seen: str


Op = Names | Data | Fsync | Ack
ROOT = 0


@dataclass
class Tree:
    """Folders and files by inode; the root is 0."""

    folders: dict[int, dict[str, int]] = field(default_factory=lambda: {ROOT: {}})
    files: dict[int, bytes] = field(default_factory=dict)

    def copy(self) -> Tree:
        return Tree({key: dict(value) for key, value in self.folders.items()}, dict(self.files))

    def write_to(self, place: Path, inode: int = ROOT) -> None:
        """Makes the tree real below `place`, an empty folder."""
        for name, each in self.folders[inode].items():
            if each in self.folders:
                (place / name).mkdir()
                self.write_to(place / name, each)
            else:
                (place / name).write_bytes(self.files[each])

    def key(self, inode: int = ROOT) -> tuple[object, ...]:
        """Equal for trees that look the same."""
        return tuple(
            (name, self.key(each) if each in self.folders else self.files[each])
            for name, each in sorted(self.folders[inode].items())
        )


class Recorder:
    """The operations below `root` since it was started."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ops: list[Op] = []
        self._inodes: dict[int, int] = {root.stat().st_ino: ROOT}
        self._next = 1
        self.tree = Tree()
        self._busy = False
        self.look()
        self.before = self.tree.copy()
        self.ops.clear()

    def look(self) -> None:
        """Notes what has changed since the last look."""
        if self._busy:
            return
        self._busy = True
        try:
            found = Tree({}, {})
            made = self._walk(str(self.root), ROOT, found)
            self._names(found, made)
            for inode, content in found.files.items():
                self._data(inode, content)
            self.tree = found
        finally:
            self._busy = False

    def fsync(self, descriptor: int) -> None:
        self.look()
        inode = self._inodes.get(os.fstat(descriptor).st_ino)
        if inode is not None:
            self.ops.append(Fsync(inode))

    def ack(self, seen: str) -> None:
        self.look()
        self.ops.append(Ack(seen))

    def _walk(self, path: str, inode: int, found: Tree) -> list[tuple[int, bool]]:
        made: list[tuple[int, bool]] = []
        here = found.folders[inode] = {}
        with os.scandir(path) as entries:
            for entry in sorted(entries, key=lambda each: each.name):
                number, folder = entry.inode(), entry.is_dir(follow_symlinks=False)
                known = self._inodes.get(number)
                # A number may be given again once its file is gone.
                if known is None or not (known in self.tree.folders or known in self.tree.files):
                    known = self._inodes[number] = self._next
                    self._next += 1
                    made.append((known, folder))
                here[entry.name] = known
                if folder:
                    made += self._walk(entry.path, known, found)
                else:
                    found.files[known] = Path(entry.path).read_bytes()
        return made

    def _names(self, found: Tree, made: list[tuple[int, bool]]) -> None:
        changes = []
        for inode in {*self.tree.folders, *found.folders}:
            was, now = self.tree.folders.get(inode, {}), found.folders.get(inode, {})
            if inode not in found.folders:
                continue
            for name in {*was, *now}:
                if was.get(name) != now.get(name):
                    changes.append((inode, name, now.get(name)))
        if changes:
            folders = frozenset(each[0] for each in changes)
            self.ops.append(Names(tuple(sorted(changes, key=str)), folders, tuple(made)))

    def _data(self, inode: int, content: bytes) -> None:
        before = self.tree.files.get(inode, b"")
        if content == before:
            return
        start = len(before) if content.startswith(before) else 0
        self.ops.append(Data(inode, start, content[start:]))


_active: list[Recorder] = []
_hooked: list[bool] = []


def _hook(event: str, _: tuple[object, ...]) -> None:
    if _active and event in EVENTS:
        _active[0].look()


@contextmanager
def recording(root: Path) -> Iterator[Recorder]:
    """Notes every operation below `root` in the block. Nothing is really synced in it."""
    if not _hooked:
        sys.addaudithook(_hook)
        _hooked.append(True)
    recorder = Recorder(root)
    real = os.fsync
    os.fsync = recorder.fsync  # type: ignore[assignment]
    _active.append(recorder)
    try:
        yield recorder
        recorder.look()
    finally:
        _active.clear()
        os.fsync = real
