"""One comment a report: which of those that are there to write to, and which to take away."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from reprune.core.marker import Marker, Order, read_marker
from reprune.orchestrate.forge import Comment, Forge, patiently

Compose: TypeAlias = Callable[[Marker | None], str]
Action: TypeAlias = Literal["created", "updated", "same", "older", "nothing"]


@dataclass(frozen=True, kw_only=True)
class Intent:
    """What is to be said: under which key, by which run, and the body, given what was said before. Without
    `create` it is said only where something was said before.
    """

    key: str
    order: Order
    compose: Compose
    create: bool = True


@dataclass(frozen=True, kw_only=True)
class Move:
    """`body` goes into comment `target` (None: a new one; empty: nothing is written); `delete` go away."""

    action: Action
    target: int | None
    body: str
    delete: tuple[int, ...] = ()


def decide(comments: Sequence[Comment], me: str, intent: Intent) -> Move:
    """What to do about the comments that are there; pure.

    Only comments by `me` whose first line is our marker with the same key are touched. The oldest stays
    and the rest go. What a newer run said stays said, in the comment that stays.
    """
    ours = [
        (each, marker)
        for each in sorted(comments, key=lambda each: each.id)
        if me
        and each.author == me
        and (marker := read_marker(each.body)) is not None
        and marker.key == intent.key
    ]
    if not ours and not intent.create:
        return Move(action="nothing", target=None, body="")
    if not ours:
        return Move(action="created", target=None, body=intent.compose(None))
    newest, said = max(ours, key=lambda pair: pair[1].order)
    older = said.order > intent.order
    body = newest.body if older else intent.compose(said)
    kept = ours[0][0]
    same = _plain(kept.body) == _plain(body)
    return Move(
        action="older" if older else "same" if same else "updated",
        target=kept.id,
        body="" if same else body,
        delete=tuple(each.id for each, _ in ours[1:]),
    )


def settle(
    forge: Forge, number: int, intent: Intent, *, pause: Callable[[float], None] = time.sleep
) -> Action:
    """Afterwards the pull request has exactly one comment with this key by us, saying what the newest run
    said, unless two runs create one at the same moment; the second look, after a create, heals that.

    Raises OrchestratorUnreachable, AccessDenied or OrchestratorError.
    """
    backoff = forge.service.backoff
    me = patiently(forge.me, backoff, pause=pause)
    created = False

    def once() -> Action:
        nonlocal created
        move = decide(forge.comments(number), me, intent)
        if move.action == "created":
            # Before the answer, which may be lost.
            created = True
            forge.create(number, move.body)
        elif move.target is not None and move.body:
            forge.update(number, move.target, move.body)
        # Written first: whatever happens in between, what was said is not lost.
        for each in move.delete:
            forge.delete(number, each)
        return move.action

    action = patiently(once, backoff, pause=pause)
    if not created:
        return action
    again = patiently(once, backoff, pause=pause)
    return "older" if again == "older" else "created"


def _plain(body: str) -> str:
    """As forges give a text back: with other line ends, and without space at the end."""
    return body.replace("\r\n", "\n").rstrip()
