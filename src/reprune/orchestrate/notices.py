"""What people and programs are told about a version: the facts, and the bodies that carry them. Pure.

    message    the facts of one event, and an id that is the same whoever tells of it, however often
    webhook    its JSON body, and the headers that sign it (Standard Webhooks)
    slack      a body for incoming webhooks of Slack, and of what takes the same (Mattermost)

Every text in them may have been chosen by somebody who wishes us ill: a model's name, a reason.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

import msgspec

from reprune.core.documents import Document, canonical, digest_of

Event: TypeAlias = Literal[
    "promoted",
    "passed",
    "blocked",
    "inconclusive",
    "error",
    "overridden",
    "rolled-back",
    "waiting",
]

# Slack refuses a block with more.
MAX_BLOCK = 3000
MAX_TEXT = 2000

_TITLES: dict[Event, str] = {
    "promoted": "Promoted",
    "passed": "Passed, not promoted",
    "blocked": "Blocked",
    "inconclusive": "Inconclusive",
    "error": "Error",
    "overridden": "Promoted by an override",
    "rolled-back": "Rolled back",
    "waiting": "Waiting for a person",
}


class Notice(Document, kw_only=True):
    """The facts of one event; None is not known, or not so.

    `version` is one of `<model>-compressed` and `dense_version` the one that it was made of. `outcome`
    is the verdict's; `promoted` whether the version became champion by this event. `words` say it in a
    sentence or more; `run` is the address of the run. `champion_before` and `champion_after` are
    versions of `<model>-compressed`. `by` is who overrode the verdict or rolled back, `because` why.
    """

    model: str
    registry: str
    workspace: str
    words: str
    version: str | None = None
    dense_version: str | None = None
    lock: str | None = None
    verdict: str | None = None
    outcome: Literal["pass", "block", "inconclusive", "error"] | None = None
    promoted: bool = False
    champion_before: str | None = None
    champion_after: str | None = None
    by: str | None = None
    because: str | None = None
    run: str | None = None


class Envelope(Document, kw_only=True):
    """The body of a webhook. `timestamp` is when it happened (RFC 3339, UTC); the header's is of the
    try to deliver it.
    """

    schema: Literal[1] = 1
    type: Event
    timestamp: str
    data: Notice


@dataclass(frozen=True, kw_only=True)
class Message:
    """One event to be told. `key` is its id: whoever saw it before can drop it."""

    event: Event
    at_s: float
    data: Notice
    key: str


def message(event: Event, data: Notice, *, at_s: float, again: str = "") -> Message:
    """A message about `data`, its texts made into short lines; `at_s` is Unix time.

    The id is a digest of event, registry, model and versions, and of `again`, which tells apart what
    can happen to one version more than once. Words, times and addresses are not in it.
    """
    lines = {
        name: one_line(value, MAX_TEXT)
        for name, value in msgspec.structs.asdict(data).items()
        if isinstance(value, str)
    }
    clean = msgspec.structs.replace(data, **lines)
    facts = (
        event,
        clean.registry,
        clean.workspace,
        clean.model,
        clean.dense_version,
        clean.version,
        again,
    )
    key = f"reprune_{digest_of(facts).removeprefix('sha256:')[:40]}"
    return Message(event=event, at_s=at_s, data=clean, key=key)


def webhook_body(told: Message) -> bytes:
    """The bytes that are sent and signed; the same for the same message."""
    moment = datetime.fromtimestamp(told.at_s, UTC).isoformat(timespec="seconds")
    stamp = moment.replace("+00:00", "Z")
    return canonical(Envelope(type=told.event, timestamp=stamp, data=told.data))


def signed_headers(key: bytes, told: Message, body: bytes, now_s: float) -> dict[str, str]:
    """The three headers of Standard Webhooks for a try at `now_s` (Unix time)."""
    stamp = str(int(now_s))
    signed = f"{told.key}.{stamp}.".encode() + body
    mac = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    return {
        "webhook-id": told.key,
        "webhook-timestamp": stamp,
        "webhook-signature": f"v1,{mac}",
    }


def slack_body(told: Message) -> bytes:
    """A headline, what happened, and the facts, each a block; `text` holds all for who shows no blocks."""
    data = told.data
    version = data.dense_version or data.version
    about = f"{_code(data.model)} version {_code(version)}" if version else _code(data.model)
    parts = [f"*{_TITLES[told.event]}*: {about}", escaped(data.words), "\n".join(_facts(data))]
    sections = [_cut(part) for part in parts if part]
    blocks: list[dict[str, Any]] = [
        {"type": "section", "text": {"type": "mrkdwn", "text": part, "verbatim": True}}
        for part in sections
    ]
    return msgspec.json.encode({"text": "\n".join(sections), "blocks": blocks})


def one_line(text: str, most: int) -> str:
    """The same on one line of at most `most` characters, with nothing in it that is not shown."""
    clean = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return clean if len(clean) <= most else f"{clean[: most - 3]}..."


def escaped(text: str) -> str:
    """The same as mrkdwn that is no link and calls nobody: `<!channel>`, `@here` are only shown."""
    clean = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # Mattermost calls whoever follows an @; a space of no width keeps what is read the same.
    return clean.replace("@", "@\u200b")


def _facts(data: Notice) -> list[str]:
    """One line a fact that is known."""
    before, after = data.champion_before or "none", data.champion_after or "none"
    champion = _code(after) if before == after else f"{_code(before)} to {_code(after)}"
    known = data.champion_before is not None or data.champion_after is not None
    lines = [
        ("By", data.by and escaped(data.by)),
        ("Because", data.because and escaped(data.because)),
        ("Registered as", data.version and _code(data.version)),
        ("Champion", champion if known else None),
        ("Verdict", data.verdict and _code(data.verdict)),
        ("Lock", data.lock and _code(data.lock)),
        ("Registry", _code(f"{data.registry} {data.workspace}")),
    ]
    found = [f"{name}: {text}" for name, text in lines if text]
    if (
        data.run
        and data.run.startswith(("https://", "http://"))
        and not set(data.run) & set("<>| ")
    ):
        # In front, where nothing cuts it off.
        found.insert(0, f"<{data.run.replace('&', '&amp;')}|The run>")
    return found


def _code(text: str) -> str:
    """A name as it is, not as formatting."""
    return "`" + escaped(one_line(text, 300)).replace("`", "'") + "`"


def _cut(text: str) -> str:
    """At most what a block may hold, never in the middle of an escaped character."""
    if len(text) <= MAX_BLOCK:
        return text
    short = text[: MAX_BLOCK - 3]
    start = short.rfind("&")
    if start > len(short) - 6 and ";" not in short[start:]:
        short = short[:start]
    return f"{short}..."
