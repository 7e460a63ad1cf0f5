"""`reprune.overrides.yaml`: who promotes which candidate although some rules did not hold, and why.

Committed, so that it is reviewed like any other change. An entry is bound to one verdict, candidate
and policy by their digests; whatever moves makes it stale. `reprune override` writes entries, and
`reprune promote` accepts one only under the promoter's own terms.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import msgspec
import yaml
from msgspec import Meta

from reprune.core.artifacts import Judgement, RuleResult, Waiver
from reprune.core.documents import Document, read_yaml
from reprune.core.lock import Digest

OVERRIDES_FILE = "reprune.overrides.yaml"
MAX_DAYS = 90

Text: TypeAlias = Annotated[str, Meta(min_length=1, max_length=1000, pattern=r"\S")]

_HEADER = """\
# Written by `reprune override`. Each entry lets one candidate be promoted once although the rules it
# names did not hold; see docs/policy.md. Review a change here as you review a change of policy.yaml.
"""


class Override(Document, kw_only=True):
    """One entry. `rules` are "<rule> on <target>"; it may be used until the end (UTC) of `expires`."""

    by: Text
    reason: Text
    expires: date
    rules: Annotated[tuple[Text, ...], Meta(min_length=1)]
    verdict: Digest
    candidate: Digest
    policy: Digest

    @property
    def waiver(self) -> Waiver:
        """The same as receipts and later reports keep it."""
        return Waiver(
            by=self.by,
            reason=self.reason,
            expires=self.expires.isoformat(),
            rules=self.rules,
            verdict=self.verdict,
            candidate=self.candidate,
            policy=self.policy,
        )


class Overrides(Document, kw_only=True):
    """The whole file. Entries stay when they were used or have expired: they are the record."""

    schema: Literal[1] = 1
    overrides: tuple[Override, ...] = ()


def read_overrides(path: Path) -> Overrides:
    """The overrides at `path`; none where there is no such file. Raises DocumentError."""
    return read_yaml(path, Overrides) if path.exists() else Overrides()


def overrides_text(overrides: Overrides) -> str:
    """The YAML text: one field a line, so that a diff reads well."""
    body = yaml.safe_dump(
        msgspec.to_builtins(overrides), sort_keys=False, width=1000, allow_unicode=True
    )
    return _HEADER + body


def not_held(judgement: Judgement) -> tuple[str, ...]:
    """The required rules that did not hold, as an override names them; each once, in order."""
    failed = [named(one) for one in judgement.rules if one.required and one.outcome != "pass"]
    return tuple(dict.fromkeys(failed))


def named(result: RuleResult) -> str:
    """A rule as an override names it."""
    return f"{result.rule} on {result.target}" if result.target else result.rule


def days_left(expires: date, now: float) -> int:
    """Whole days from the UTC date of `now` (Unix seconds) to `expires`; negative once it is past."""
    return (expires - today(now)) // timedelta(days=1)


def today(now: float) -> date:
    """The UTC date at `now` (Unix seconds)."""
    return datetime.fromtimestamp(now, tz=UTC).date()
