"""What a hook is told of a version: the state that the reconciler saw, with what the registry says of it.

The service has no key to check receipts with, so what it tells is what the registry holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from reprune.core.errors import ReceiptInvalid, RepruneError
from reprune.doors.service.config import Settings
from reprune.doors.service.ports import KubeflowRuns, Projects
from reprune.doors.service.registries import Patience, Registries, row
from reprune.orchestrate.endpoint import Endpoint
from reprune.orchestrate.notices import Event, Message, Notice, message
from reprune.orchestrate.reconcile_actions import Tell
from reprune.orchestrate.reconcile_telling import STUCK, UNREAD
from reprune.orchestrate.reconcile_watch import Watch
from reprune.orchestrate.runs import find_runs, first_of, run_name
from reprune.registry.compressed import compressed_name, read_receipt
from reprune.registry.protocol import (
    CHAMPION,
    Registry,
    VersionInfo,
    known_alias,
    known_versions,
)
from reprune.registry.tags import LOCK, RUN, VERDICT, WHY
from reprune.steps.noticing import Place, promotion_message, told_by

_DAY_S = 86_400.0
# From states that a version ends in to what is told of them.
ENDS: Mapping[str, Event] = {
    "promoted": "promoted",
    "passed": "passed",
    "blocked": "blocked",
    "inconclusive": "inconclusive",
    "error": "error",
}
_OUTCOMES = {"passed": "pass", "blocked": "block", "inconclusive": "inconclusive", "error": "error"}


@dataclass(frozen=True, kw_only=True)
class About:
    """A message, the version of `<name>-compressed` that it is about, if one, and by hook the ids of the
    messages about it that were taken already.
    """

    message: Message
    place: Place | None
    told: Mapping[str, str]


def about(settings: Settings, watch: Watch, tell: Tell, at_s: float) -> About:
    """What is to be told of `tell`, which was said at `at_s` (Unix time).

    Raises RepruneError where the registry cannot be asked.
    """
    registries = Registries(settings=settings, patience=Patience())
    if tell.state == UNREAD:
        return _unread(watch, tell, at_s)
    registry = registries.open(watch)
    champion = known_alias(registry, compressed_name(watch.name), CHAMPION)
    plain = Notice(
        model=watch.name,
        registry=registry.identity,
        workspace=watch.registry.workspace,
        dense_version=tell.version,
        words=tell.words,
        champion_before=champion,
        champion_after=champion,
    )
    event = ENDS.get(tell.state)
    if event is None:
        run = _endpoint(settings, registries, watch).link(tell.run) if tell.state == STUCK else None
        data = msgspec.structs.replace(plain, words=f"{tell.state}: {tell.words}", run=run)
        return _waiting(data, tell, at_s)
    info = _found(registry, watch, tell, champion)
    if info is None:
        return About(message=message(event, plain, at_s=at_s), place=None, told={})
    run = info.tags.get(RUN) or _run(settings, registries, watch, info)
    made = _judged(registry, info, tell, champion, run)
    if made is None:
        why = info.tags.get(WHY, "")
        data = msgspec.structs.replace(
            plain,
            version=info.version,
            words=f"{tell.words}: {why}" if why else tell.words,
            run=run or None,
        )
        made = message(event, data, at_s=info.registered_s or at_s)
    place = Place(registry=registry, compressed=info.name, version=info.version)
    return About(message=made, place=place, told=told_by(info.tags))


def _waiting(data: Notice, tell: Tell, at_s: float) -> About:
    """What holds a version up is told again each day."""
    again = f"{tell.state} {int(at_s // _DAY_S)}"
    return About(message=message("waiting", data, at_s=at_s, again=again), place=None, told={})


def _unread(watch: Watch, tell: Tell, at_s: float) -> About:
    """Without asking the registry, which may be what cannot be read."""
    data = Notice(
        model=watch.name,
        registry=watch.registry.kind,
        workspace=watch.registry.workspace,
        words=f"{tell.state}: {tell.words}",
    )
    return _waiting(data, tell, at_s)


def _found(
    registry: Registry, watch: Watch, tell: Tell, champion: str | None
) -> VersionInfo | None:
    """The row that gave the version its end: of the newest lock, the first, which is the accepted one."""
    found: VersionInfo | None = None
    for info in reversed(known_versions(registry, compressed_name(watch.name))):
        seen = row(info)
        if found is not None and info.tags.get(LOCK) != found.tags.get(LOCK):
            continue
        if seen.closed == tell.state and tell.version in seen.closes:
            return info
        if seen.parent != tell.version or not seen.verdict:
            continue
        if tell.state == "promoted":
            if seen.promoted or seen.version == champion:
                return info
        elif seen.outcome == _OUTCOMES[tell.state]:
            found = info
    return found


def _judged(
    registry: Registry, info: VersionInfo, tell: Tell, champion: str | None, run: str
) -> Message | None:
    """What the version's receipt says; None where it has none that fits its tags."""
    if VERDICT not in info.tags:
        return None
    try:
        stated = read_receipt(registry, info).statement.predicate
    except ReceiptInvalid:
        return None
    return promotion_message(
        stated,
        version=info.version,
        champion=champion,
        words=": ".join(filter(None, (tell.words, "; ".join(stated.reasons)))),
        promoted=tell.state == "promoted",
        run=run,
    )


def _run(settings: Settings, registries: Registries, watch: Watch, info: VersionInfo) -> str:
    """The address of the run of the version's lock; empty where there is none, or nobody says."""
    lock = info.tags.get(LOCK)
    if watch.mode != "run" or not lock:
        return ""
    try:
        found = find_runs(_endpoint(settings, registries, watch), run_name(watch.name, lock))
    except RepruneError:
        # A link is worth no delay.
        return ""
    return first_of(found).link if found else ""


def _endpoint(settings: Settings, registries: Registries, watch: Watch) -> Endpoint:
    projects = Projects(settings=settings, registries=registries)
    return KubeflowRuns(settings=settings, projects=projects, patience=Patience()).endpoint(watch)
