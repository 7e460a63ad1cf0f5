"""The tags of a compressed version: what its receipt says, where a registry can list it."""

from __future__ import annotations

from msgspec import UNSET

from reprune.core.documents import digest_of
from reprune.registry.receipts import Receipted

PARENT = "reprune.parent"
VERDICT = "reprune.verdict"
LOCK = "reprune.lock"
BUNDLE = "reprune.bundle"
OUTCOME = "reprune.outcome"
ATTEMPT = "reprune.attempt"
RECEIPT = "reprune.receipt"
# Put on a version that has become champion, once it has.
PROMOTED = "reprune.promoted"
# Put on a version that was made the anchor: by whom, and why.
ANCHORED = "reprune.anchor"
# Which examples it was judged on; versions from before this tag have none.
EVAL = "reprune.eval"
WAIVER = "reprune.waiver"
# The address of the run that made a version, where somebody said so.
RUN = "reprune.run"
DRY_RUN = "reprune.dry_run"

# Put on a version that was rolled back: the digest of the record that did it.
ROLLED_BACK = "reprune.rolled_back"
# A signed record that is no verdict (see registry.records): its digest and kind, of a rollback the
# version that serves since, and the one that served before, of an adoption where the model came from.
RECORD = "reprune.record"
RECORD_KIND = "reprune.record_kind"
RETURNED = "reprune.returned_to"
BEFORE = "reprune.before"
ADOPTED = "reprune.adopted_from"

# On a version that `reprune serve` added to say how dense versions ended without a verdict: how, which
# ones (with spaces between them), and why. It holds no receipt and no model.
CLOSED = "reprune.closed"
CLOSES = "reprune.closes"
WHY = "reprune.why"

# With the name of a hook behind it: that the hook was told of this version, in the message of this id.
TOLD = "reprune.told."

# Every judged version has all of these, as its receipt says.
TAGS = (PARENT, VERDICT, LOCK, BUNDLE, OUTCOME, ATTEMPT, RECEIPT)
# Only where the receipt says so: an override was used, nothing could be promoted.
MARKS = (WAIVER, DRY_RUN)


def tags_of(receipt: Receipted) -> dict[str, str]:
    """The tags that a version with this receipt is created with."""
    decision = receipt.statement.predicate
    tags = {
        PARENT: decision.dense_version,
        VERDICT: decision.verdict,
        LOCK: decision.lock,
        BUNDLE: decision.bundle,
        OUTCOME: decision.outcome,
        ATTEMPT: str(decision.attempt),
        RECEIPT: receipt.digest,
        EVAL: decision.eval_digest,
    }
    if decision.waiver is not UNSET:
        tags[WAIVER] = digest_of(decision.waiver)
    if decision.dry_run is True:
        tags[DRY_RUN] = "true"
    return tags
