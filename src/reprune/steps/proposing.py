"""A new lock becomes one commit on one branch and one pull request, refreshed and never doubled.

    lock as on the base -> nothing;  lock as on the branch -> the pull request is there, nothing is pushed
    else -> commit on the base -> push, unless somebody else moved the branch -> open or refresh

What was judged on the branch goes with it: a verdict is of one lock only. The ledger of looks at the sealed
data stays: what was looked at on the branch has been looked at.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from reprune.core.documents import decode_yaml
from reprune.core.errors import Busy, DocumentError, InputError, RepruneError
from reprune.core.lock import LOCK_FILE, Lock, read_lock
from reprune.measure.attempts import ATTEMPTS_FILE
from reprune.orchestrate.forge import Forge, Proposal, patiently
from reprune.report import plain
from reprune.report.markup import visible

BRANCH = "reprune/update"
Done: TypeAlias = Literal["nothing", "same", "opened"]
_WHO = {"NAME": "reprune", "EMAIL": "reprune@noreply.invalid"}


@dataclass(frozen=True, kw_only=True)
class Ask:
    """Where the lock goes: `branch` of `remote`, to be merged into `base`."""

    base: str
    branch: str = BRANCH
    remote: str = "origin"


@dataclass(frozen=True, kw_only=True)
class Proposed:
    """`done` is nothing (the base has this lock), same (the branch had it) or opened; `number` is that of the
    pull request, None where there is none, and `head` the branch's commit, then empty.
    """

    done: Done
    lock: str
    number: int | None
    head: str = ""


def propose(
    root: Path, ask: Ask, forge: Forge, *, pause: Callable[[float], None] = time.sleep
) -> Proposed:
    """Afterwards the lock of `root` is on the base, or in one open pull request from `ask.branch`.

    Nothing but the lock is committed, on top of the remote's base, and the ledger of looks with what the
    branch had in it; the working tree stays as it is. Raises Busy if the branch moved meanwhile, InputError
    for what git does not know, and what the forge raises.
    """
    lock = read_lock(root / LOCK_FILE)
    _git(root, "fetch", "--quiet", ask.remote, f"+refs/heads/{ask.base}:{_tracked(ask, ask.base)}")
    base = _commit(root, _tracked(ask, ask.base))
    if not base:
        raise InputError(f"the remote has no branch '{ask.base}'", where=ask.remote)
    before = _lock_at(root, base)
    if before == lock:
        return Proposed(done="nothing", lock=lock.digest, number=None)
    there = _fetched(root, ask)
    same = bool(there) and _lock_at(root, there) == lock and _contains(root, there, base)
    head = there if same else _committed(root, base, lock, there)
    if not same:
        _push(root, ask, head, expected=there)
    proposal = Proposal(
        branch=ask.branch, base=ask.base, title=_title(lock), body=_body(lock, before)
    )
    number = patiently(lambda: forge.open(proposal), forge.service.backoff, pause=pause)
    return Proposed(done="same" if same else "opened", lock=lock.digest, number=number, head=head)


def _committed(root: Path, base: str, lock: Lock, before: str) -> str:
    """A commit on `base` with the lock as it lies in `root` and the looks of base and the branch `before`;
    neither index nor working tree is touched.
    """
    prefix = _git(root, "rev-parse", "--show-prefix").strip()
    blobs = {LOCK_FILE: _git(root, "hash-object", "-w", "--", LOCK_FILE).strip()}
    looks = _joined(_ledger_at(root, base), _ledger_at(root, before) if before else b"")
    if looks:
        blobs[ATTEMPTS_FILE] = _written(root, looks)
    index = root / ".reprune" / f"index.{os.getpid()}"
    index.parent.mkdir(exist_ok=True)
    environment = {"GIT_INDEX_FILE": str(index.resolve())}
    try:
        _git(root, "read-tree", base, **environment)
        for name, blob in blobs.items():
            entry = f"100644,{blob},{prefix}{name}"
            _git(root, "update-index", "--add", "--cacheinfo", entry, **environment)
        tree = _git(root, "write-tree", **environment).strip()
    finally:
        index.unlink(missing_ok=True)
    return _git(
        root, "commit-tree", tree, "-p", base, "-m", _title(lock), **_identity(root)
    ).strip()


def _ledger_at(root: Path, commit: str) -> bytes:
    words = ["git", "show", f"{commit}:./{ATTEMPTS_FILE}"]
    done = subprocess.run(words, cwd=root, capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else b""


def _joined(base: bytes, branch: bytes) -> bytes:
    """The lines of the base and those that only the branch has, each as often as it stands there: a look of
    the same candidate again is another look.
    """
    ours = Counter(base.splitlines())
    more = []
    for line in branch.splitlines():
        ours[line] -= 1
        if ours[line] < 0 and line.strip():
            more.append(line)
    if not more:
        return base
    end = b"" if not base or base.endswith(b"\n") else b"\n"
    return base + end + b"".join(line + b"\n" for line in more)


def _written(root: Path, content: bytes) -> str:
    """The name of a blob with that content, which the repository has afterwards."""
    done = subprocess.run(
        ["git", "hash-object", "-w", "--stdin"],
        cwd=root,
        input=content,
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        raise InputError(
            f"git hash-object failed: {_last(done.stderr.decode(errors='replace'))}",
            where=str(root),
        )
    return done.stdout.decode().strip()


def _push(root: Path, ask: Ask, commit: str, *, expected: str) -> None:
    lease = f"--force-with-lease=refs/heads/{ask.branch}:{expected}"
    words = ["push", "--quiet", lease, ask.remote, f"{commit}:refs/heads/{ask.branch}"]
    done = _run(root, words)
    if done.returncode == 0:
        return
    said = done.stderr.strip()
    if "stale info" in said:
        raise Busy(f"'{ask.branch}' moved meanwhile", where=ask.remote, fix="run it again")
    raise RepruneError(f"git cannot push: {_last(said)}", where=ask.remote)


def _fetched(root: Path, ask: Ask) -> str:
    """The remote branch's commit as it is now; empty if there is none."""
    listed = _git(root, "ls-remote", "--heads", ask.remote, f"refs/heads/{ask.branch}")
    if not listed.strip():
        return ""
    reference = _tracked(ask, ask.branch)
    _git(root, "fetch", "--quiet", ask.remote, f"+refs/heads/{ask.branch}:{reference}")
    return _commit(root, reference)


def _lock_at(root: Path, commit: str) -> Lock | None:
    """The lock of a commit; None where there is none that decodes."""
    done = _run(root, ["show", f"{commit}:./{LOCK_FILE}"])
    if done.returncode != 0:
        return None
    try:
        return decode_yaml(done.stdout, Lock, name=LOCK_FILE)
    except DocumentError:
        return None


def _contains(root: Path, commit: str, base: str) -> bool:
    return _run(root, ["merge-base", "--is-ancestor", base, commit]).returncode == 0


def _commit(root: Path, reference: str) -> str:
    done = _run(root, ["rev-parse", "--verify", "--quiet", f"{reference}^{{commit}}"])
    return done.stdout.strip()


def _tracked(ask: Ask, branch: str) -> str:
    return f"refs/remotes/{ask.remote}/{branch}"


def _title(lock: Lock) -> str:
    return f"Compress {visible(lock.name, 100)} version {visible(lock.dense.version, 60)}"


def _body(lock: Lock, before: Lock | None) -> str:
    champion = "none" if lock.champion == "none" else f"version {lock.champion.version}"
    lines = [
        f"- dense version {plain.code(lock.dense.version)}",
        f"- champion {plain.code(champion)}",
    ]
    if before is not None:
        lines[0] += f" (on the base: {plain.code(before.dense.version)})"
        was = "none" if before.champion == "none" else f"version {before.champion.version}"
        lines[1] += f" (on the base: {plain.code(was)})" if was != champion else ""
        names = ("params", "policy", "task", "data_version", "targets", "anchor", "reprune")
        changed = [each for each in names if getattr(before, each) != getattr(lock, each)]
        if changed:
            lines.append(f"- changed besides: {', '.join(map(plain.code, changed))}")
    listed = "\n".join(lines)
    return (
        f"`reprune update` pinned what is to be judged:\n\n{listed}\n\n"
        "The verdict comes as a comment. Merged with a pass, it is promoted.\n"
    )


def _identity(root: Path) -> dict[str, str]:
    """Who commits, where nobody is configured."""
    if _run(root, ["config", "user.email"]).returncode == 0:
        return {}
    return {
        f"GIT_{role}_{part}": os.environ.get(f"GIT_{role}_{part}", value)
        for role in ("AUTHOR", "COMMITTER")
        for part, value in _WHO.items()
    }


def _git(root: Path, *words: str, **environment: str) -> str:
    done = _run(root, words, **environment)
    if done.returncode != 0:
        raise InputError(
            f"git {words[0]} failed: {_last(done.stderr)}",
            where=str(root),
            fix="is this a clone, and may this job read its remote?",
        )
    return done.stdout


def _run(root: Path, words: Sequence[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["git", *words],
        cwd=root,
        env={**os.environ, "GIT_TERMINAL_PROMPT": "0", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def _last(said: str) -> str:
    """The last line of what git said, without what could be a password in an address."""
    line = said.strip().splitlines()[-1] if said.strip() else "it says nothing"
    return " ".join(word for word in line.split() if "@" not in word or "://" not in word)
