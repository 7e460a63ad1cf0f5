"""The first line of every posted report, unseen by readers: by it a later run finds its own comment."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import quote, unquote

MARKER = "reprune-report/1"
MAX_LINE = 20_000
# A run's place among all runs of its CI: compared number by number.
Order: TypeAlias = tuple[int, ...]

_LINE = re.compile(rf"<!-- {re.escape(MARKER)}((?: [a-z]+=[^ <>]*)+) -->")
_COMMIT = re.compile(r"[0-9a-f]{7,64}")
_ORDER = re.compile(r"[0-9]{1,18}(?:\.[0-9]{1,18}){0,3}")


@dataclass(frozen=True, kw_only=True)
class Marker:
    """Whose report it is (`key`) and what it says; of a posted one also which commit and run it is of.

    `key` is percent-encoded text, compared as it is. `before` is what the same comment said of an earlier
    commit, as "verdict@commit".
    """

    key: str
    verdict: str
    lock: str = ""
    mode: str = ""
    head: str = ""
    order: Order = ()
    before: str = ""


def marker_line(marker: Marker) -> str:
    """The marker as an HTML comment. No value ends the comment early: `--` is never in one."""
    fields = {
        "key": marker.key,
        "verdict": marker.verdict,
        "mode": marker.mode,
        "lock": marker.lock,
        "head": marker.head,
        "order": ".".join(map(str, marker.order)),
        "before": marker.before,
    }
    shown = " ".join(f"{name}={_quoted(value)}" for name, value in fields.items() if value)
    return f"<!-- {MARKER} {shown} -->"


def read_marker(body: str) -> Marker | None:
    """The marker in the first line of a comment's body; None where there is none that is ours."""
    first = body.lstrip("\ufeff").partition("\n")[0].rstrip()
    match = _LINE.fullmatch(first) if len(first) <= MAX_LINE else None
    if match is None:
        return None
    fields = dict(pair.split("=", 1) for pair in match[1].split())
    order, head = fields.get("order", ""), fields.get("head", "")
    if "key" not in fields or "verdict" not in fields:
        return None
    if (order and not _ORDER.fullmatch(order)) or (head and not _COMMIT.fullmatch(head)):
        return None
    return Marker(
        key=fields["key"],
        verdict=unquote(fields["verdict"]),
        lock=unquote(fields.get("lock", "")),
        mode=unquote(fields.get("mode", "")),
        head=head,
        order=tuple(int(number) for number in order.split(".")) if order else (),
        before=unquote(fields.get("before", "")),
    )


def order_of(text: str) -> Order:
    """The order that `text` says ("RUN" or "RUN.ATTEMPT"). Raises ValueError for anything else."""
    if not _ORDER.fullmatch(text):
        raise ValueError(text)
    return tuple(int(number) for number in text.split("."))


def _quoted(value: str) -> str:
    # `--` would end the comment; `quote` leaves a hyphen as it is.
    return quote(value, safe="@+%", errors="replace").replace("--", "-%2D")
