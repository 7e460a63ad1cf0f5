"""Tells the promoter's hooks what promote or rollback did. What goes wrong with that is one warning.

A hook that took a message is written down on the version itself (tag `reprune.told.<hook>`), so that
doing a promotion again tells nobody twice, and one that was cut short before it told, tells then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import UNSET

from reprune.core.documents import read_yaml
from reprune.core.errors import RegistryError, RepruneError
from reprune.core.params import PARAMS_FILE, read_params
from reprune.orchestrate.notices import Event, Message, Notice, message
from reprune.orchestrate.notify import Hook, deliver
from reprune.registry import receipts
from reprune.registry.compressed import compressed_name
from reprune.registry.open import open_registry
from reprune.registry.protocol import Registry, known_versions
from reprune.registry.receipts import RECEIPT_FILE, Decision
from reprune.registry.tags import TOLD
from reprune.steps.promoter import Promoter, config_path

if TYPE_CHECKING:
    from reprune.steps.promote import PromoteResult
    from reprune.steps.rollback import RollbackResult

_EVENTS: dict[str, Event] = {
    "pass": "passed",
    "block": "blocked",
    "inconclusive": "inconclusive",
    "error": "error",
}


@dataclass(frozen=True, kw_only=True)
class Place:
    """A version of `compressed` in a registry, which a message is about and is written down on."""

    registry: Registry
    compressed: str
    version: str

    def told(self) -> dict[str, str]:
        """By hook, the id of the last message that it took about this version."""
        infos = known_versions(self.registry, self.compressed)
        tags = next((each.tags for each in infos if each.version == self.version), {})
        return {name.removeprefix(TOLD): key for name, key in tags.items() if name.startswith(TOLD)}

    def write_down(self, hooks: list[str], key: str) -> None:
        """Afterwards the version says that these hooks took the message."""
        if hooks:
            tags = {f"{TOLD}{name}": key for name in hooks}
            self.registry.set_tags(self.compressed, self.version, tags)


def told_by(tags: Mapping[str, str]) -> dict[str, str]:
    """By hook, the id of the message that the tags of a version say it took."""
    return {name.removeprefix(TOLD): key for name, key in tags.items() if name.startswith(TOLD)}


def tell_promotion(root: Path, result: PromoteResult, *, say: Callable[[str], None]) -> None:
    """Every hook of the promoter that wants to know has been told of `result`, or `say` a warning.

    Never raises; takes no longer than the hooks' deadline and what the registry needs.
    """
    with _harmless(say):
        hooks, folder = _configured(root)
        if not hooks:
            return
        raw = (result.artifact.path / RECEIPT_FILE).read_bytes()
        stated = receipts.decode(raw, where=str(result.artifact.path)).statement.predicate
        told = promotion_message(
            stated,
            version=result.compressed_version,
            champion=result.champion_after,
            words=" ".join(filter(None, ("; ".join(stated.reasons), result.words))),
            promoted=result.promoted,
        )
        place = _place(root, stated.name, result.compressed_version)
        _tell(hooks, folder, told, place, say)


def tell_rollback(
    root: Path, result: RollbackResult, *, now: float, say: Callable[[str], None]
) -> None:
    """As `tell_promotion`, of a rollback; `now` is Unix time."""
    with _harmless(say):
        hooks, folder = _configured(root)
        if not hooks:
            return
        place = _place(root, result.name, result.record_version)
        before = result.before or "none"
        data = Notice(
            model=result.name,
            registry=result.registry,
            workspace=read_params(root / PARAMS_FILE).registry.workspace,
            version=result.version,
            words=f"version {result.version} serves again, instead of version {before}",
            champion_before=result.before,
            champion_after=result.version,
            by=result.by,
            because=result.reason,
        )
        told = message("rolled-back", data, at_s=now, again=result.record)
        _tell(hooks, folder, told, place, say)


def promotion_message(
    stated: Decision,
    *,
    version: str,
    champion: str | None,
    words: str,
    promoted: bool,
    run: str = "",
) -> Message:
    """What the receipt of a version says, as a message; `champion` is the one that serves now.

    The id is the same whoever makes it: promote, or the service that saw the version appear.
    """
    waived = stated.waiver is not UNSET and promoted
    event: Event = "overridden" if waived else "promoted" if promoted else _EVENTS[stated.outcome]
    before = stated.champion.version if stated.champion is not None else None
    data = Notice(
        model=stated.name,
        registry=stated.registry,
        workspace=stated.workspace,
        words=words,
        version=version,
        dense_version=stated.dense_version,
        lock=stated.lock,
        verdict=stated.verdict,
        outcome=stated.outcome,
        promoted=promoted,
        champion_before=before if promoted else champion,
        champion_after=champion,
        by=None if stated.waiver is UNSET else stated.waiver.by,
        because=None if stated.waiver is UNSET else stated.waiver.reason,
        run=run or None,
    )
    return message(event, data, at_s=stated.signed_at_s)


def _tell(
    hooks: tuple[Hook, ...],
    folder: Path,
    told: Message,
    place: Place,
    say: Callable[[str], None],
) -> None:
    try:
        before = place.told()
    except RegistryError:
        # Better twice than never.
        before = {}
    wanted = [
        each for each in hooks if told.event in each.events and before.get(each.name) != told.key
    ]
    failures = deliver(wanted, told, folder)
    for failure in failures:
        say(f"warning: hook '{failure.hook}' was not told: {failure.why}")
    failed = {each.hook for each in failures}
    place.write_down([each.name for each in wanted if each.name not in failed], told.key)


def _configured(root: Path) -> tuple[tuple[Hook, ...], Path]:
    """The promoter's hooks, and where their paths begin."""
    path = config_path(root)
    return read_yaml(path, Promoter).hooks, path.parent


def _place(root: Path, name: str, version: str) -> Place:
    given = read_params(root / PARAMS_FILE)
    return Place(
        registry=open_registry(given.registry, root),
        compressed=compressed_name(name),
        version=version,
    )


@contextmanager
def _harmless(say: Callable[[str], None]) -> Iterator[None]:
    """What was done is done, whoever hears of it."""
    try:
        yield
    except RepruneError as error:
        words = str(error).replace("\n", " ")
        say(f"warning: the hooks were not told, or it was not written down: {words}")
    except Exception as error:  # noqa: BLE001  # the promotion stands, and its exit code
        say(f"warning: telling the hooks crashed: {type(error).__name__}")
