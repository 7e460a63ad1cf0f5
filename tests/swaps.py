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
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

from reprune.core import store
from reprune.core.documents import canonical, digest_of
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


# --- what is swapped ------------------------------------------------------------------------------


def replaced(name: str, other: Path) -> Swap:
    """The artefact, for one that is whole and sound and was never judged here."""

    def swap(root: Path) -> None:
        target = root / "artifacts" / name
        with suppress(FileNotFoundError):
            shutil.rmtree(target)
        shutil.copytree(other, target)

    return swap


def flipped(path: str) -> Swap:
    """One byte of one file, its size as it was."""

    def swap(root: Path) -> None:
        content = bytearray((root / path).read_bytes())
        content[len(content) // 2] ^= 1
        (root / path).write_bytes(bytes(content))

    return swap


def texted(path: str, text: str) -> Swap:
    """A file with another text at its end."""
    return lambda root: (root / path).write_text((root / path).read_text() + text) and None


def aliased(version: str, alias: str = "champion") -> Swap:
    """The alias, set by somebody else; to nothing where `version` is empty."""

    def swap(root: Path) -> None:
        path = root / "registry" / COMPRESSED / "aliases.json"
        known = {}
        with suppress(OSError):
            known = json.loads(path.read_bytes())
        aliases = {name: each for name, each in known.items() if name not in (alias, "#check")}
        aliases |= {alias: version} if version else {}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(canonical({**aliases, "#check": digest_of(aliases)}) + b"\n")

    return swap


def kinds(other: Path) -> dict[str, Swap]:
    """Bytes, evidence, policy, lock; `other` is a repository with another judged run."""
    artefacts = other / "artifacts"
    whole = {
        f"the {name}": replaced(name, artefacts / name)
        for name in ("engines", "verdict", "plan", "profile", "sensitivity")
    }
    return whole | {
        "the candidate": replaced("candidate", artefacts / "pruned"),
        "the candidate of another run": replaced("candidate", artefacts / "candidate"),
        "a byte of its weights": flipped("artifacts/candidate/weights.safetensors"),
        "a byte of its engine": flipped("artifacts/engines/ort-cpu/candidate.onnx"),
        "a byte of the samples": flipped("artifacts/verdict/samples/0/latency/ort-cpu.json"),
        "the verdict and its candidate": both(
            replaced("verdict", artefacts / "verdict"),
            replaced("candidate", artefacts / "candidate"),
        ),
        "the policy": texted("policy.yaml", "alpha: 0.2\n"),
        "the params": texted("params.yaml", "profile: {calls: 7}\n"),
        "the task": texted("task/digits.py", "# another task\n"),
        "the lock": copied("reprune.lock.yaml", other),
    }


def both(*swaps: Swap) -> Swap:
    """One after the other, at one moment."""

    def swap(root: Path) -> None:
        for each in swaps:
            each(root)

    return swap


def copied(path: str, other: Path) -> Swap:
    """The file of another repository."""
    return lambda root: shutil.copyfile(other / path, root / path) and None


def at_rest(root: Path) -> list[str]:
    """Every file of a repository in which nothing was promoted yet, of which promote reads some."""
    return sorted(
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink()
    )


# What a swap of the champion changes, in the folder of the registered model.
TOUCHED = {
    "another champion": "aliases.json",
    "no champion": "aliases.json",
    "the champion's receipt": "1/files/receipt.dsse.json",
    "the champion's marks": "1/version.json",
    "the champion itself": "1/version.json",
}
# Refused at whatever call before the last look at this alias.
MOVED = {"another champion": "champion", "another anchor": "anchor"}


def champion_kinds() -> dict[str, Swap]:
    """The champion of a repository that has one (version 1), moved, removed, or made to be another."""
    place = f"registry/{COMPRESSED}/1"
    return {
        "another champion": aliased("77"),
        "no champion": aliased(""),
        "the champion's receipt": flipped(f"{place}/files/receipt.dsse.json"),
        "the champion's marks": flipped(f"{place}/version.json"),
        "the champion itself": lambda root: shutil.rmtree(root / place, ignore_errors=True),
    }


def call_kinds(other: Path) -> dict[str, Swap]:
    """What is swapped around calls of the registry."""
    known = kinds(other)
    return {
        "another champion": aliased("77"),
        "another anchor": aliased("77", "anchor"),
        "the candidate's number as champion": aliased("2"),
        **{name: known[name] for name in ("the policy", "the lock")},
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
