"""`reprune check RECEIPT`: what a signed statement proves, looked at offline, in promote's own order.

Nothing is asked of a registry, so whether the version still serves, and whether the receipt before it is
there, is not answered here and said so.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from msgspec import UNSET, structs

from reprune.core import store
from reprune.core.artifacts import Receipt, Verdict
from reprune.core.documents import canonical, decode_json, read_bounded, strict_json
from reprune.core.errors import ArtifactError, DocumentError, ReceiptInvalid
from reprune.core.policy import Policy
from reprune.registry.attestations import EvalStatement, PromotedStatement
from reprune.registry.receipt_checks import Checked
from reprune.registry.receipts import (
    MAX_RECEIPT_BYTES,
    RECEIPT_FILE,
    AnyStatement,
    Decision,
    Statement,
    decode_payload,
    subject_digests,
    verify_statement,
)
from reprune.registry.records import AdoptionStatement, RollbackStatement
from reprune.steps.minimum_policy import at_least

if TYPE_CHECKING:
    from securesystemslib.signer import Key

KINDS: dict[str, type[AnyStatement]] = {
    field.default: kind
    for kind in (Statement, RollbackStatement, AdoptionStatement, EvalStatement, PromotedStatement)
    for field in structs.fields(kind)
    if field.name == "predicate_type"
}
DAY_S = 86_400


@dataclass(frozen=True, kw_only=True)
class ReceiptCheck:
    """What came of a receipt. `statement` is None where it does not even decode, or nobody signed it."""

    checks: tuple[Checked, ...]
    statement: AnyStatement | None
    digest: str

    @property
    def holds(self) -> bool:
        """Whether all that could be looked at holds, the signature among it."""
        return self.statement is not None and all(each.held is not False for each in self.checks)


Checks: TypeAlias = Iterator[Checked]


def receipt_path(path: Path) -> Path | None:
    """The receipt that `path` is or holds; None where it is a folder of something else.

    A receipt that was put into another artefact, as a verdict, does not speak for it. Raises ArtifactError.
    """
    if path.is_file():
        return path
    inside = path / RECEIPT_FILE
    if not os.path.lexists(inside):
        return None
    if any(os.path.lexists(path / name) for name in (store.MANIFEST, store.DIGEST)):
        _refuse_all_but_records(path)
    return inside


def _refuse_all_but_records(path: Path) -> None:
    """Only the record that promote keeps on this machine is an artefact with a receipt in it."""
    try:
        store.read(path, Receipt)
    except ArtifactError as error:
        raise ArtifactError(
            f"holds a {RECEIPT_FILE} beside a {store.MANIFEST} that is no whole record of a receipt, so "
            "it does not say which of them counts",
            where=str(path),
            fix=f"take out {RECEIPT_FILE} to check the verdict, or name the receipt itself: "
            f"`reprune check {path / RECEIPT_FILE}`",
        ) from error


def check_receipt(
    path: Path, keys: Sequence[Key], *, minimum: Policy | None, now: float
) -> ReceiptCheck:
    """Looks at the receipt and at what lies beside it; asks nobody, and changes nothing.

    `keys` are those that count; without any the signature does not hold. `minimum` is the promoter's
    least policy. `now` is Unix time in seconds. Never raises for what the file holds.
    """
    where = str(path)
    try:
        raw = read_bounded(path, max_bytes=MAX_RECEIPT_BYTES)
        kind = _kind(raw, where)
        statement, digest, signer = verify_statement(raw, kind, keys, where=where)
    except (ReceiptInvalid, DocumentError, OSError) as error:
        what = error.what if isinstance(error, ReceiptInvalid | DocumentError) else str(error)
        failed = Checked(name="signature", held=False, words=f"the receipt {what}")
        return ReceiptCheck(checks=(failed,), statement=None, digest="")
    found = [
        Checked(name="form", held=True, words="strict JSON in its one form, no key twice"),
        Checked(
            name="signature", held=True, words=f"signed by key {signer[:16]}..., which you trust"
        ),
        Checked(name="type", held=True, words=f"a statement of type {_type(statement)}"),
        *_subject(path.parent, statement),
    ]
    if isinstance(statement, Statement):
        found += [*_evidence(path.parent, statement.predicate, minimum), *_age(statement, now)]
    found += _chain(statement)
    return ReceiptCheck(checks=tuple(found), statement=statement, digest=digest)


def _type(statement: AnyStatement) -> str:
    return str(getattr(statement, "predicate_type", ""))


def _kind(raw: bytes, where: str) -> type[AnyStatement]:
    """The kind that the statement says it is of; its form is checked by whoever decodes it as that."""
    value = strict_json(decode_payload(raw, where=where), name=where)
    named = value.get("predicateType") if isinstance(value, dict) else None
    kind = KINDS.get(named) if isinstance(named, str) else None
    if kind is None:
        raise ReceiptInvalid("is a statement of a type that Reprune does not know", where=where)
    return kind


def _subject(folder: Path, statement: AnyStatement) -> Checks:
    listed = subject_digests(statement)
    here = {name for name in listed if (folder / name).is_file()}
    if not here:
        words = f"lists {len(listed)} files; none lies beside it, so none was hashed"
        yield Checked(name="files", held=None, words=words)
        return
    wrong = sorted(name for name in here if not _matches(folder, name, listed[name]))
    missing, extra = sorted(set(listed) - here), []
    if isinstance(statement, Statement | AdoptionStatement):
        extra = sorted(set(_below(folder)) - set(listed) - {RECEIPT_FILE})
    problems = [
        f"{len(names)} {what}: {', '.join(names[:3])}"
        for what, names in (("changed", wrong), ("missing", missing), ("not listed", extra))
        if names
    ]
    words = "; ".join(problems) or f"all {len(listed)} files are, byte by byte, those that it lists"
    yield Checked(name="files", held=not problems, words=words)


def _matches(folder: Path, name: str, digest: str) -> bool:
    path = folder / name
    try:
        path.resolve(strict=True).relative_to(folder.resolve(strict=True))
        return not path.is_symlink() and store.file_digest(path) == digest
    except (OSError, ValueError):
        return False


def _below(folder: Path) -> Iterator[str]:
    return (path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def _evidence(folder: Path, decision: Decision, minimum: Policy | None) -> Checks:
    from reprune.steps.gate import confirm

    place = folder / "verdict"
    if not place.is_dir():
        words = "the verdict does not lie beside it, so it was not judged again"
        yield Checked(name="evidence", held=None, words=words)
        return
    try:
        verdict = store.read(place, Verdict)
        judgement = confirm(verdict)
        policy = decode_json(
            read_bounded(place / "policy.json"), Policy, name=str(place / "policy.json")
        )
    except (ArtifactError, DocumentError) as error:
        yield Checked(name="evidence", held=False, words=f"the verdict {error.what}")
        return
    said = {
        "verdict": (decision.verdict, verdict.digest),
        "lock": (decision.lock, verdict.manifest.lock),
        "policy": (decision.policy, verdict.manifest.policy),
        "outcome": (decision.outcome, judgement.outcome),
        "reasons": (decision.reasons, judgement.reasons),
        "attempt": (decision.attempt, judgement.attempt),
        "candidate": (decision.bundle, verdict.manifest.parents.get("candidate")),
        "champion": (canonical(decision.champion), canonical(verdict.manifest.champion)),
    }
    other = [name for name, (stated, found) in said.items() if stated != found]
    words = f"judged again from the stored samples: the same '{judgement.outcome}'"
    if other:
        words = f"says something else than the verdict beside it about: {', '.join(other)}"
    yield Checked(name="evidence", held=not other, words=words)
    yield from _policy(policy, minimum)


def _policy(policy: Policy, minimum: Policy | None) -> Checks:
    if minimum is None:
        words = "no minimum policy is configured here to compare it with"
        yield Checked(name="policy", held=None, words=words)
        return
    weaker = at_least(policy, minimum)
    words = "demands at least what the promoter's minimum does"
    if weaker:
        words = f"demands less than the promoter's minimum: {'; '.join(weaker[:5])}"
    yield Checked(name="policy", held=not weaker, words=words)


def _age(statement: Statement, now: float) -> Checks:
    decision = statement.predicate
    days = decision.valid_for_days
    if days is UNSET:
        words = "is from before receipts said how long the evidence holds"
        yield Checked(name="validity", held=None, words=words)
        return
    age_days = (decision.signed_at_s - decision.measured_until_s) / DAY_S
    # A verdict that did not pass is recorded whatever its age.
    held = age_days <= days or not decision.promotes
    left = decision.measured_until_s / DAY_S + days - now / DAY_S
    now_words = f"valid for {left:.1f} more days" if left > 0 else "by now too old to promote by"
    words = f"signed {age_days:.1f} days after the last sample, {days:g} allowed; {now_words}"
    yield Checked(name="validity", held=held, words=words)


def _chain(statement: AnyStatement) -> Checks:
    predicate: Any = getattr(statement, "predicate", None)
    if not hasattr(predicate, "predecessor"):
        return
    before = predicate.predecessor or "none: it is the first"
    words = f"follows {before}; only the registry can say that it is there, and what serves now"
    yield Checked(name="chain", held=None, words=words)
