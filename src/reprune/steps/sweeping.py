"""After a promotion: pull requests whose lock names a champion that serves no longer are told so.

Only the check of their newest commit changes, to `action_required`. A pull request whose lock is the base's
own, now or where its branch began, is left alone: it changes nothing that is judged.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from reprune.core.documents import decode_yaml
from reprune.core.errors import DocumentError, OrchestratorError
from reprune.core.lock import LOCK_FILE, Lock
from reprune.core.params import PARAMS_FILE, read_params
from reprune.orchestrate.forge import Check, Forge, PullRequest, check_name, patiently
from reprune.orchestrate.surroundings import Surroundings
from reprune.registry import compressed
from reprune.registry.open import open_registry
from reprune.report.markup import visible
from reprune.report.posted import UPDATE
from reprune.steps.update import reference


@dataclass(frozen=True, kw_only=True)
class Swept:
    """`told` are the pull requests whose check was set; `warnings` what could not be found out or told."""

    told: tuple[int, ...]
    warnings: tuple[str, ...]


def sweep(
    root: Path,
    around: Surroundings,
    forge: Forge,
    *,
    base: str,
    check: str = "",
    pause: Callable[[float], None] = time.sleep,
) -> Swept:
    """Sets the check of every open pull request against `base` whose own lock is out of date by its champion.

    What a forge answers is a warning. Raises DocumentError, and what the registry raises.
    """
    params = read_params(root / PARAMS_FILE)
    now = reference(compressed.champion(open_registry(params.registry, root), params.name))
    path = f"{_prefix(root)}{LOCK_FILE}"
    told: list[int] = []
    warnings: list[str] = []

    def asked(ref: str) -> Lock | None:
        return _lock_at(forge, path, ref, pause)

    try:
        there = asked(base)
        for pull in patiently(lambda: forge.pulls(base), forge.service.backoff, pause=pause):
            lock = asked(pull.head)
            if lock is None or lock == there or lock.name != params.name or lock.champion == now:
                continue
            if lock == asked(_began(forge, pull, pause)):
                continue
            wanted = _check(check or check_name(params.name), pull.head, lock, around)
            if _concluded(forge, wanted, pause):
                told.append(pull.number)
    except OrchestratorError as error:
        fix = f". To fix: {error.fix}" if error.fix else ""
        warnings.append(f"not every open pull request could be told: {error.what}{fix}")
    return Swept(told=tuple(told), warnings=tuple(warnings))


def _lock_at(forge: Forge, path: str, ref: str, pause: Callable[[float], None]) -> Lock | None:
    """None where there is none that decodes: its own run says what is wrong with it."""
    if not ref:
        return None
    raw = patiently(lambda: forge.file(path, ref), forge.service.backoff, pause=pause)
    try:
        return None if raw is None else decode_yaml(raw, Lock, name=f"{ref}:{path}")
    except DocumentError:
        return None


def _began(forge: Forge, pull: PullRequest, pause: Callable[[float], None]) -> str:
    return patiently(lambda: forge.began(pull), forge.service.backoff, pause=pause)


def _concluded(forge: Forge, check: Check, pause: Callable[[float], None]) -> bool:
    return patiently(lambda: forge.conclude(check), forge.service.backoff, pause=pause)


def _check(name: str, head: str, lock: Lock, around: Surroundings) -> Check:
    was = "none" if lock.champion == "none" else f"version {visible(lock.champion.version, 60)}"
    return Check(
        name=name,
        head=head,
        conclusion="action_required",
        title=f"The champion moved: run `{UPDATE}`",
        summary=f"The lock here was written when the champion was {was}. Its verdict promotes nothing.",
        order=".".join(map(str, around.order)),
    )


def _prefix(root: Path) -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--show-prefix"], cwd=root, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else ""
