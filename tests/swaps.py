"""Somebody who swaps files under promote's hands: at each moment that it looks at one, or all the time.

An audit hook sees every file that this process opens and every folder that it lists, makes, renames or
removes. The n-th of these below the repository (where promote's private copies lie as well) is the moment
of the swap, just before it; so each step's boundary, and each read of the step, is one of the moments.
What may be promoted is what was judged, byte by byte, and nothing else.

Every kind of swap is tried at every moment. Of a single file's bytes only the moments are tried at which
that file is opened: nothing but an opening shows what is in a file (its size stays), so that a swap at any
other moment is the one at the next opening of it, or is never seen.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

from reprune.core import store
from reprune.core.errors import RepruneError
from reprune.registry.files import FilesRegistry
from reprune.steps.promote import promote
from tests.registry.promotion import COMPRESSED, NOW_S, copy_repository, evidence

Swap = Callable[[Path], None]
# What shows or changes what lies in a folder; each gives the path first.
LOOKS = (
    "open",
    "os.listdir",
    "os.scandir",
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.link",
)
CALLS = ("versions", "fetch", "register", "alias", "set_alias", "set_tags")


@dataclass
class _Watch:
    """Counts the moments below `root` while it is set, and calls `act` at the one numbered `at`."""

    root: str = ""
    at: int = 0
    act: Swap | None = None
    seen: int = 0
    names: list[str] = field(default_factory=list)
    at_calls: bool = False

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.root or self.at_calls or event not in LOOKS:
            return
        if not isinstance(arguments[0], str | Path):
            return
        name = str(arguments[0])
        if name.startswith(self.root + "/"):
            opened = name.removeprefix(self.root + "/")
            self.moment(opened if event == "open" else f"{event} {opened}")

    def moment(self, name: str) -> None:
        self.seen += 1
        self.names.append(name)
        if self.seen == self.at and self.act is not None:
            root, self.root = self.root, ""
            self.act(Path(root))
            self.root = root


_WATCH = _Watch()
_HOOKED: list[bool] = []


def _watched() -> _Watch:
    # A hook stays for as long as the process: there is one, and it looks on only while a root is set.
    if not _HOOKED:
        sys.addaudithook(_WATCH.hook)
        _HOOKED.append(True)
    return _WATCH


@dataclass(frozen=True, kw_only=True)
class Came:
    """What came of a promote: `served` are the digests of what the alias names, if it names anything."""

    refused: str
    served: dict[str, str] | None
    moments: tuple[str, ...]
    before_alias: int


def promoted_with(
    template: Path, root: Path, *, at: int, swap: Swap | None, at_calls: bool = False
) -> Came:
    """Promotes a copy of the template at `root`, with the swap at the moment numbered `at`.

    With `at_calls` the moments are those before and after each call of the registry.
    """
    _clear(root)
    copy_repository(template, root)
    watch, refused = _watched(), ""
    watch.at, watch.act, watch.seen, watch.names, watch.at_calls = at, swap, 0, [], at_calls
    with _work_inside(root), _calls(watch) as moved:
        watch.root = str(root)
        try:
            promote(root, evidence(root), now=NOW_S, say=lambda _: None)
        except RepruneError as error:
            refused = str(getattr(error, "reason", "") or error.code)
        finally:
            watch.root = ""
    return Came(
        refused=refused,
        served=served(root),
        moments=tuple(watch.names),
        before_alias=moved[0],
    )


@contextmanager
def _work_inside(root: Path) -> Iterator[None]:
    """Promote's private folder lies below the root that is watched."""
    before = os.environ.get("REPRUNE_WORK")
    os.environ["REPRUNE_WORK"] = str(root / ".reprune" / "work")
    try:
        yield
    finally:
        del os.environ["REPRUNE_WORK"]
        if before is not None:
            os.environ["REPRUNE_WORK"] = before


@contextmanager
def _calls(watch: _Watch) -> Iterator[list[int]]:
    """Each call of a registry in a folder is two moments, where `watch` asks for those; how many moments
    there were before the alias was set.
    """
    moved = [0]
    real = {name: getattr(FilesRegistry, name) for name in CALLS}

    def told(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(work)
        def call(self: FilesRegistry, *words: Any, **more: Any) -> Any:
            if name == "set_alias":
                moved[0] = watch.seen
            if not (watch.at_calls and watch.root):
                return work(self, *words, **more)
            said = " ".join([name, *(word for word in words if isinstance(word, str))])
            watch.moment(f"before {said}")
            came = work(self, *words, **more)
            watch.moment(f"after {said}")
            return came

        return call

    for name, work in real.items():
        setattr(FilesRegistry, name, told(name, work))
    try:
        yield moved
    finally:
        for name, work in real.items():
            setattr(FilesRegistry, name, work)


def _clear(root: Path) -> None:
    """Removes what lies at `root`, also while a racer writes there: first it is nowhere that it looks."""
    if root.exists():
        away = root.with_name(f"{root.name}.old")
        root.rename(away)
        shutil.rmtree(away)


def served(root: Path) -> dict[str, str] | None:
    """Path to digest of the model and the engines that the champion's alias names."""
    model = root / "registry" / COMPRESSED
    try:
        version = json.loads((model / "aliases.json").read_bytes())["champion"]
    except (OSError, KeyError):
        return None
    files = model / version / "files"
    return {
        path.relative_to(files).as_posix(): store.file_digest(path)
        for part in ("bundle", "engines", "verdict")
        for path in sorted((files / part).rglob("*"))
        if path.is_file()
    }


def last_look(came: Came, alias: str = "champion") -> int:
    """The moment with which promote looked at the alias for the last time before it moved the champion's."""
    call = f"before alias {COMPRESSED} {alias}"
    looked = [
        number
        for number, name in enumerate(came.moments[: came.before_alias], start=1)
        if name.endswith("aliases.json") or name == call
    ]
    return looked[-1]


def last_read(came: Came, path: str) -> int:
    """The moment at which promote opened the file for the last time before it moved the alias."""
    read = [n for n, name in enumerate(came.moments[: came.before_alias], start=1) if name == path]
    return read[-1]


# --- all the time ---------------------------------------------------------------------------------

RACER = textwrap.dedent(
    """
    import os, shutil, sys, time
    root, good, evil = sys.argv[1:4]
    files = ["candidate/weights.safetensors", "engines/ort-cpu/candidate.onnx", "verdict/evidence.json",
             "candidate/manifest.json", "candidate/manifest.digest"]
    turn = 0
    while True:
        turn += 1
        for name in files:
            source = os.path.join((good, evil)[turn % 2], "artifacts", name)
            target = os.path.join(root, "artifacts", name)
            try:
                shutil.copyfile(source, root + ".racer")
                os.replace(root + ".racer", target)
            except OSError:
                pass
        time.sleep(0.0005 * (turn % 7))
    """
)


def raced(template: Path, evil: Path, root: Path, rounds: int) -> tuple[int, int, list[int]]:
    """Promotes `rounds` times beside a process that swaps files to and fro: how often it was promoted, how
    often refused, and in which rounds what is served is not what was judged.
    """
    judged, promoted, refused, wrong = judged_files(template, root), 0, 0, []
    racer = subprocess.Popen([sys.executable, "-c", RACER, str(root), str(template), str(evil)])
    try:
        for number in range(rounds):
            came = promoted_with(template, root, at=0, swap=None)
            promoted, refused = promoted + (not came.refused), refused + bool(came.refused)
            if came.served is not None and came.served != judged:
                wrong.append(number)
            if racer.poll() is not None:
                raise AssertionError("the racer has ended")
    finally:
        racer.kill()
        racer.wait()
        shutil.rmtree(root, ignore_errors=True)
    return promoted, refused, wrong


def judged_files(template: Path, root: Path) -> dict[str, str]:
    """What is served where nobody swaps anything."""
    came = promoted_with(template, root, at=0, swap=None)
    assert came.served is not None, came.refused
    return came.served
