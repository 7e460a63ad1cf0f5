"""A verdict told where it was asked for: one comment, one check, the summary of the CI's step.

    read -> base policy, champion now -> draft -> comment -> check

What cannot be posted is told in `warnings` and changes nothing else: not the verdict, not what is
promoted, not an exit code.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from reprune.core import store
from reprune.core.artifacts import Verdict
from reprune.core.documents import decode_yaml
from reprune.core.errors import (
    AccessDenied,
    ArtifactError,
    ChampionForeign,
    ChampionLost,
    DocumentError,
    InputError,
    OrchestratorError,
)
from reprune.core.lock import LOCK_FILE, ChampionRef, read_lock
from reprune.core.params import PARAMS_FILE, read_params
from reprune.core.policy import POLICY_FILE, Policy
from reprune.core.store import Artifact
from reprune.orchestrate.commenting import Intent, settle
from reprune.orchestrate.forge import Check, Forge, check_name, patiently
from reprune.orchestrate.surroundings import Surroundings
from reprune.registry import compressed
from reprune.registry.open import open_registry
from reprune.registry.receipts import Decision
from reprune.report import plain
from reprune.report.facts import ReportFacts, read_facts
from reprune.report.markdown import report_key
from reprune.report.posted import (
    UPDATE,
    Circumstances,
    Conclusion,
    Draft,
    draft,
    nothing_to_judge,
    policy_words,
    without_verdict,
)
from reprune.steps.forks import names_there
from reprune.steps.minimum_policy import at_least

NO_CHECK = "none"


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is to be told, and from what. `pause` waits for so many seconds.

    With `recompute` the verdict is judged again from its samples and refused if it says otherwise; with
    `registry` the champion is looked up as it is now. `base` is a git revision whose policy is compared;
    else the base branch's is asked for. `check` names the check, "none" makes none. With `nothing` no verdict
    is told at all: the pull request changes nothing that is judged.
    """

    verdict: Path
    recompute: bool = False
    registry: bool = False
    base: str = ""
    check: str = ""
    nothing: bool = False
    foreign: bool = False
    pause: Callable[[float], None] = time.sleep


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What will be told; `warnings` are what could not be found out."""

    draft: Draft
    name: str
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Posted:
    """`comment` is created, updated, same, older, or why there is none: nothing, no-pull-request, refused,
    unreachable. `check` is what the commit was told, else empty.
    """

    comment: str
    number: int | None
    check: Conclusion | None
    warnings: tuple[str, ...]


def prepare(root: Path, wish: Wish, around: Surroundings, forge: Forge | None) -> Prepared:
    """Everything that is posted, from the verdict and the circumstances.

    A run without a verdict for the lock is told as such, never by an older verdict; so is a verdict that
    its own samples do not give. Raises InputError where the files of a repository are not there either.
    """
    warnings: list[str] = []
    bare = Circumstances(
        head=around.head,
        order=around.order,
        foreign=wish.foreign or around.foreign,
        run_link=around.run_link,
    )
    if wish.nothing:
        name, key, _ = _names(root, wish, around, forge)
        return Prepared(draft=nothing_to_judge(key, bare), name=name, warnings=())
    try:
        facts = _facts(root, wish)
    except (ArtifactError, DocumentError) as error:
        name, key, lock = _names(root, wish, around, forge)
        missing = without_verdict(key, lock, _why(error), bare)
        return Prepared(draft=missing, name=name, warnings=())
    policy, unknown = _policy(root, wish, around, facts, forge)
    warnings += unknown
    moved, unsure = _champion_now(root, facts) if wish.registry else ("", "")
    if moved:
        warnings.append(f"the champion moved since the lock was written: run `{UPDATE}`")
    if unsure:
        warnings.append(
            "whether the champion moved is not known: the registry does not answer, or cannot be asked"
        )
    said = draft(facts, replace(bare, policy=policy, moved=moved, unsure=unsure))
    return Prepared(draft=said, name=facts.verdict.name, warnings=tuple(warnings))


def locate(
    around: Surroundings, forge: Forge, *, pause: Callable[[float], None] = time.sleep
) -> tuple[Surroundings, tuple[str, ...]]:
    """The surroundings with the open pull request of their branch, where the CI does not name it.

    Of a fork's it must be one whose newest commit is the one that was judged: what such a run says about
    itself is not believed. What could not be found out is in the warnings.
    """
    if around.number is not None or not around.branch or not around.head:
        return around, ()
    warnings: list[str] = []
    with _telling(warnings):
        found = patiently(
            lambda: forge.find(around.branch, around.owner), forge.service.backoff, pause=pause
        )
        for each in found:
            # Our own branch may just have been given one more commit: the record of the verdict.
            if each.head == around.head or (len(found) == 1 and not around.foreign):
                return replace(around, number=each.number, base=each.base), ()
        warnings.append(
            f"there is no open pull request for '{around.branch}' at {around.head[:12]}, so there is "
            "nowhere to comment"
        )
    return around, tuple(warnings)


def post(prepared: Prepared, wish: Wish, around: Surroundings, forge: Forge) -> Posted:
    """Posts or updates the comment, then the check. Never raises for what a forge answers."""
    warnings = list(prepared.warnings)
    comment, mine = "no-pull-request", prepared.draft
    if around.number is not None:
        number = around.number
        with _telling(warnings) as problem:
            intent = Intent(
                key=mine.marker.key, order=around.order, compose=mine.body, create=mine.create
            )
            comment = settle(forge, number, intent, pause=wish.pause)
        comment = problem.word or comment
    told: Conclusion | None = None
    if wish.check != NO_CHECK and around.head and comment != "older":
        with _telling(warnings):
            check = _check(prepared, wish, around)
            if patiently(lambda: forge.conclude(check), forge.service.backoff, pause=wish.pause):
                told = check.conclusion
    return Posted(comment=comment, number=around.number, check=told, warnings=tuple(warnings))


def _facts(root: Path, wish: Wish) -> ReportFacts:
    verdict = store.read(wish.verdict, Verdict)
    if wish.recompute:
        from reprune.steps.gate import confirm

        confirm(verdict)
    _check_of_this_lock(root, verdict)
    return read_facts(verdict)


def _check_of_this_lock(root: Path, verdict: Artifact[Verdict]) -> None:
    """A run that ended early leaves the verdict of the run before; it must not be told again."""
    path = root / LOCK_FILE
    if path.exists() and read_lock(path).digest != verdict.manifest.lock:
        raise ArtifactError(
            "the verdict that is there judges another lock: the run for this one did not get that far",
            where=str(verdict.path),
        )


def _names(
    root: Path, wish: Wish, around: Surroundings, forge: Forge | None
) -> tuple[str, str, str]:
    """The model's name, the report's key and the lock's digest, from the repository."""
    path = root / LOCK_FILE
    if path.exists():
        lock = read_lock(path)
        return lock.name, report_key(lock.name, lock.targets), lock.digest
    if wish.foreign and forge and around.base and not (root / PARAMS_FILE).exists():
        # What tells for a fork has no clone.
        return (*names_there(forge, around.base, pause=wish.pause), "")
    params = read_params(root / PARAMS_FILE)
    return params.name, report_key(params.name, sorted(params.targets)), ""


def _why(error: InputError) -> str:
    return f"{error.what.rstrip('.')[:1].upper()}{error.what.rstrip('.')[1:]} ({error.code})."


def _policy(
    root: Path, wish: Wish, around: Surroundings, facts: ReportFacts, forge: Forge | None
) -> tuple[str, list[str]]:
    """The line about the policy, and what is to be warned of. Not to know is told as well."""
    name = wish.base or around.base
    if facts.policy is None or not (wish.base or (forge is not None and around.base)):
        return "", []
    try:
        raw = (
            _policy_in_git(root, wish.base)
            if wish.base
            else _policy_there(root, forge, around, wish)
        )
        if raw is None:
            return f"⚠️ **{plain.code(POLICY_FILE)} is new:** {plain.code(name)} has none.", []
        base = decode_yaml(raw, Policy, name=f"{name}:{POLICY_FILE}")
    except (InputError, OSError) as error:
        what = error.what if isinstance(error, InputError) else str(error)
        line = f"⚠️ **Whether the policy changed is not known:** {plain.text(what)}"
        return line, [f"the policy of {name} cannot be read: {what}"]
    return policy_words(facts.policy, base, at_least(facts.policy, base), name), []


def _policy_in_git(root: Path, revision: str) -> bytes | None:
    if revision.startswith("-"):
        raise InputError("is no git revision", where=revision)
    if _git(root, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}").returncode != 0:
        raise InputError(
            "git does not know this revision",
            where=revision,
            fix="fetch it before (fetch-depth: 0)",
        )
    found = _git(root, "show", f"{revision}:./{POLICY_FILE}")
    return found.stdout if found.returncode == 0 else None


def _policy_there(
    root: Path, forge: Forge | None, around: Surroundings, wish: Wish
) -> bytes | None:
    if forge is None:
        return None
    prefix = _git(root, "rev-parse", "--show-prefix")
    below = prefix.stdout.decode().strip() if prefix.returncode == 0 else ""
    path = f"{below}{POLICY_FILE}"
    return patiently(lambda: forge.file(path, around.base), forge.service.backoff, pause=wish.pause)


def _git(root: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", *words], cwd=root, capture_output=True, check=False)


def _champion_now(root: Path, facts: ReportFacts) -> tuple[str, str]:
    """What is said of a champion that is not the locked one, and of a registry that does not tell which it
    is; each empty if there is nothing to say.
    """
    try:
        return _moved(root, facts), ""
    except InputError as error:
        # Whatever is missing here to ask it: a kind, a token's file, a package. The verdict is told anyway.
        return "", f"⚠️ **Whether the champion moved is not known:** {plain.text(error.what)}"


def _moved(root: Path, facts: ReportFacts) -> str:
    """What is said where the registry's champion is not the locked one; empty if it is."""
    params = read_params(root / PARAMS_FILE)
    try:
        holder = compressed.champion(
            open_registry(params.registry, root), params.name, besides=facts.digest
        )
        now: ChampionRef | None = holder.ref if holder else None
    except (ChampionLost, ChampionForeign) as error:
        return f"⚠️ **The champion cannot be trusted now:** {plain.text(error.what)}"
    if now == facts.verdict.champion or _promoted(holder, facts):
        return ""
    was = "none" if facts.verdict.champion is None else f"v{facts.verdict.champion.version}"
    is_now = "none" if now is None else f"v{now.version}"
    return (
        f"⚠️ **The champion moved meanwhile:** it was {plain.code(was)} and is {plain.code(is_now)}, so "
        f"this verdict promotes nothing. Run {plain.code(UPDATE)}."
    )


def _promoted(holder: compressed.Holder | None, facts: ReportFacts) -> bool:
    """Whether this very verdict made it champion already."""
    if holder is None:
        return False
    decision = holder.receipt.statement.predicate
    return isinstance(decision, Decision) and decision.verdict == facts.digest


def _check(prepared: Prepared, wish: Wish, around: Surroundings) -> Check:
    mine = prepared.draft
    return Check(
        name=wish.check or check_name(prepared.name),
        head=around.head,
        conclusion=mine.conclusion,
        title=mine.title,
        summary=mine.text,
        order=".".join(map(str, around.order)),
    )


@dataclass
class _Problem:
    word: str = ""


@contextmanager
def _telling(warnings: list[str]) -> Iterator[_Problem]:
    """What a forge refuses becomes a warning with its fix; the report itself was made all the same."""
    problem = _Problem()
    try:
        yield problem
    except OrchestratorError as error:
        problem.word = "refused" if isinstance(error, AccessDenied) else "unreachable"
        fix = f". To fix: {error.fix}" if error.fix else ""
        where = f" ({error.where})" if error.where else ""
        warnings.append(f"the report was made, and could not be posted: {error.what}{where}{fix}")
    except InputError as error:
        problem.word = "refused"
        warnings.append(f"the report was made, and could not be posted: {error}")
