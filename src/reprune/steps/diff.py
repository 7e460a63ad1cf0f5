"""`reprune diff`: two verdicts or two plans, from folders or the registry, and what is not the same.

Reads and writes nothing but a scratch folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from reprune.core import store
from reprune.core.artifacts import Plan, Verdict
from reprune.core.documents import read_bounded
from reprune.core.errors import (
    ArtifactMissing,
    InputError,
    PayloadCorrupt,
    PromotionRefused,
    VersionNotFound,
    nearest,
)
from reprune.core.params import PARAMS_FILE, read_params
from reprune.registry import compressed
from reprune.registry.links import read_link
from reprune.registry.open import open_registry
from reprune.registry.protocol import (
    ANCHOR,
    CHAMPION,
    Registry,
    VersionInfo,
    known_alias,
    known_versions,
)
from reprune.registry.receipts import Receipted
from reprune.registry.tags import PARENT, RECEIPT, RECORD, VERDICT
from reprune.report.diff import compare_plans, compare_verdicts, share_a_part
from reprune.report.differences import Difference, PlanDiff, Side, VerdictDiff
from reprune.report.facts import ReportFacts, read_facts
from reprune.report.markup import visible
from reprune.steps.minimum_policy import at_least
from reprune.steps.plan_text import read_plan_text
from reprune.steps.promoter import read_promoter

if TYPE_CHECKING:
    from securesystemslib.signer import Key

DENSE = "dense:"
MOST_WEAKER = 4
_WHAT = (
    "give two verdict directories, two plans, or two versions of the registry (a number, `champion`, "
    "`anchor`, or `dense:VERSION` for the last verdict on a dense version)"
)


@dataclass(frozen=True, kw_only=True)
class _Opened:
    """One of the two, read and checked: a verdict has facts, a plan alone has none."""

    side: Side
    facts: ReportFacts | None
    plan: Plan | None


def diff(root: Path, one: str, other: str) -> Difference:
    """What differs between two verdicts or two plans; `one` is what it was before.

    A name that exists as a path below `root` is that; else it is a version in the registry of params.yaml,
    whose files are checked against its receipt, and the receipt against the promoter's keys where there
    are any. Raises InputError for two kinds and for two models, ArtifactError, DocumentError,
    VersionNotFound, ReceiptInvalid, RegistryUnreachable.
    """
    before, after = _opened(root, one), _opened(root, other)
    if (before.facts is None) is not (after.facts is None):
        kinds = ["a plan" if each.facts is None else "a verdict" for each in (before, after)]
        raise InputError(
            f"'{one}' is {kinds[0]} and '{other}' is {kinds[1]}: they cannot be compared",
            fix="a verdict holds its plan: give two verdicts, or two plans",
        )
    return Difference(
        before=before.side,
        after=after.side,
        verdicts=_verdicts(before, after),
        plan=_plans(before, after),
    )


def _verdicts(before: _Opened, after: _Opened) -> VerdictDiff | None:
    """None for two plans. Raises InputError where they are of two models."""
    if before.facts is None or after.facts is None:
        return None
    if before.side.name != after.side.name:
        told = [
            f"'{each.side.given}' is about {visible(each.side.name, 60)}"
            for each in (before, after)
        ]
        raise InputError(
            f"these are of two models: {told[0]}, {told[1]}",
            fix="compare generations of one model",
        )
    found = compare_verdicts(before.facts, after.facts)
    less = tuple(_demands_less(before.facts, after.facts))
    return msgspec.structs.replace(found, notes=(*found.notes, *less))


def _demands_less(before: ReportFacts, after: ReportFacts) -> Iterator[str]:
    """Where one policy is weaker than the other: its outcome is then not the other's."""
    one, other = before.policy, after.policy
    if one is None or other is None:
        return
    for letter, weaker, against in (
        ("A", at_least(one, other), "B"),
        ("B", at_least(other, one), "A"),
    ):
        if weaker:
            more = f"; {len(weaker) - MOST_WEAKER} more" if len(weaker) > MOST_WEAKER else ""
            told = "; ".join(weaker[:MOST_WEAKER])
            yield f"The policy of {letter} demands less than that of {against}: {told}{more}."


def _plans(before: _Opened, after: _Opened) -> PlanDiff | None:
    """None where one of them is not here. Raises InputError for two plans, alone, of two models."""
    if before.plan is None or after.plan is None:
        return None
    if before.facts is None and not share_a_part(before.plan, after.plan):
        raise InputError(
            f"the plans '{before.side.given}' and '{after.side.given}' name no part in common: they are "
            "of two models",
            fix="compare plans of one model",
        )
    return compare_plans(before.plan, after.plan)


def _opened(root: Path, given: str) -> _Opened:
    path = root / given
    if path.is_dir():
        return _of_folder(path, given)
    if path.is_file():
        return _of_file(path, given)
    if "/" in given or given.endswith((".yaml", ".json")) or given in ("", ".", ".."):
        raise ArtifactMissing("there is no such file or folder", where=given, fix=_WHAT)
    return _of_registry(root, given)


def _of_folder(path: Path, given: str) -> _Opened:
    manifest = path / store.MANIFEST
    if not manifest.is_file():
        raise ArtifactMissing("is no artefact: it has no manifest.json", where=given, fix=_WHAT)
    found = store.decode_any(read_bounded(manifest), name=str(manifest))
    if isinstance(found, Verdict):
        return _of_verdict(read_facts(store.read(path, Verdict)), given)
    if isinstance(found, Plan):
        plan = store.read(path, Plan)
        return _Opened(side=Side(given=given, digest=plan.digest), facts=None, plan=plan.manifest)
    raise InputError(
        f"is a {type(found).__name__}, neither a verdict nor a plan", where=given, fix=_WHAT
    )


def _of_file(path: Path, given: str) -> _Opened:
    """A plan.yaml; where it is the text of a plan beside it, that plan, because it is checked."""
    if path.name == store.MANIFEST or (path.parent / store.MANIFEST).is_file():
        return _of_folder(path.parent, given)
    return _Opened(side=Side(given=given), facts=None, plan=read_plan_text(path, given))


def _of_verdict(facts: ReportFacts, given: str, version: str = "", checked: str = "") -> _Opened:
    verdict = facts.verdict
    side = Side(
        given=given,
        digest=facts.digest,
        version=version,
        name=verdict.name,
        dense_version=verdict.dense_version,
        champion=None if verdict.champion is None else verdict.champion.version,
        attempt=verdict.judgement.attempt,
        outcome=verdict.judgement.outcome,
        headline=verdict.judgement.headline,
        checked=checked,
    )
    return _Opened(side=side, facts=facts, plan=facts.plan)


def _of_registry(root: Path, given: str) -> _Opened:
    params = read_params(root / PARAMS_FILE)
    registry = open_registry(params.registry, root)
    info = _version(registry, compressed.compressed_name(params.name), given)
    if RECEIPT not in info.tags:
        what = (
            "a rollback or an adoption, which judged nothing" if RECORD in info.tags else "not ours"
        )
        raise InputError(f"version {info.version} is {what}", where=registry.identity, fix=_WHAT)
    keys, unchecked = _keys(root)
    receipt = read_link(registry, info, keys)
    if not isinstance(receipt, Receipted):
        raise _judged_nothing(info, registry)
    with compressed.scratch() as folder:
        place = folder / "verdict"
        holder = compressed.Holder(info=info, receipt=receipt)
        if not compressed.fetch_part(registry, holder, "verdict", place):
            raise ArtifactMissing(
                f"version {info.version} holds no verdict", where=registry.identity
            )
        verdict = store.read(place, Verdict)
        if verdict.digest != receipt.statement.predicate.verdict:
            raise PayloadCorrupt(
                f"the verdict in version {info.version} is not the one that its receipt names",
                where=registry.identity,
                fix="restore the registry's files from a backup",
            )
        return _of_verdict(read_facts(verdict), given, info.version, unchecked)


def _judged_nothing(info: VersionInfo, registry: Registry) -> InputError:
    what = "a rollback or an adoption, which judged nothing" if RECORD in info.tags else "not ours"
    return InputError(f"version {info.version} is {what}", where=registry.identity, fix=_WHAT)


def _version(registry: Registry, name: str, given: str) -> VersionInfo:
    """The version that a user means. Raises VersionNotFound, naming what there is."""
    versions = known_versions(registry, name)
    wanted: str | None = given
    if given in (CHAMPION, ANCHOR):
        wanted = known_alias(registry, name, given)
        if wanted is None:
            raise VersionNotFound(f"there is no {given}", where=f"{registry.identity}: {name}")
    elif given.startswith(DENSE):
        dense = given.removeprefix(DENSE)
        judged = [
            each for each in versions if each.tags.get(PARENT) == dense and VERDICT in each.tags
        ]
        wanted = judged[-1].version if judged else None
    found = next((each for each in versions if each.version == wanted), None)
    if found is not None:
        return found
    raise VersionNotFound(
        f"there is no '{given}' here, neither as a path nor as a version; {_known(versions, given)}",
        where=f"{registry.identity}: {name}",
        fix=_WHAT,
    )


def _known(versions: Sequence[VersionInfo], given: str) -> str:
    if not versions:
        return "nothing was judged yet"
    if given.startswith(DENSE):
        return nearest(
            given, {f"{DENSE}{each.tags[PARENT]}" for each in versions if PARENT in each.tags}
        )
    newest = versions[-1].version
    return (
        f"its versions are {versions[0].version} to {newest}"
        if len(versions) > 1
        else f"only {newest}"
    )


def _keys(root: Path) -> tuple[tuple[Key, ...] | None, str]:
    """Whose receipts count; None and why, where nobody can tell."""
    try:
        return read_promoter(root).keys, ""
    except PromotionRefused as error:
        return None, error.what
