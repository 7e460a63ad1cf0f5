"""Sends messages to the hooks that somebody configured: all at once, within one deadline, and no harm done.

An address may be a secret (Slack's are), so nothing that is said of a failure holds one, nor any word
of the other side: a hook is called by its name.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import random
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeAlias
from urllib.parse import urlsplit

from msgspec import Meta

from reprune.core.documents import Document
from reprune.core.errors import InputError
from reprune.core.http import (
    Ask,
    Backoff,
    RefusedError,
    Service,
    TransientError,
    UntrustedError,
    hand_over,
)
from reprune.orchestrate.notices import Event, Message, signed_headers, slack_body, webhook_body

DEADLINE_S = 10.0
# One try, so that a slow host gets a second one.
TRY_S = 4.0
# A host that answers for ever holds so many threads of ours, and no more.
MOST_HELD = 3
PACE = Backoff(first_s=0.5, longest_s=4.0)

MAX_FILE_BYTES = 4096
PREFIX = "whsec_"
KEY_BYTES = (24, 64)

# Not `on`, which YAML reads as true.
EVENTS: tuple[Event, ...] = (
    "blocked",
    "inconclusive",
    "error",
    "waiting",
    "overridden",
    "rolled-back",
)

HookName: TypeAlias = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]


class Hook(Document, kw_only=True):
    """Who is told, how, and of what. Paths are relative to the file that this stands in.

    `url` is the address, or `url_file` a file that holds it, where it is a secret. A webhook is signed
    with the key in `secret_file`: `whsec_` and the base64 of 24 to 64 random bytes. `ca_file` holds
    certificates to trust instead of the system's. `events` are those that are sent.
    """

    name: HookName
    kind: Literal["webhook", "slack"]
    url: Annotated[str, Meta(max_length=2000)] = ""
    url_file: str = ""
    secret_file: str = ""
    ca_file: str = ""
    events: Annotated[tuple[Event, ...], Meta(min_length=1)] = EVENTS

    def __post_init__(self) -> None:
        """Refuses what could not work, without showing the address."""
        if bool(self.url) == bool(self.url_file):
            raise ValueError(f"hook '{self.name}' needs `url` or `url_file`, one of them")
        if self.url and (wrong := _wrong_address(self.url)):
            raise ValueError(f"the `url` of hook '{self.name}' {wrong}")
        if self.kind == "webhook" and not self.secret_file:
            raise ValueError(
                f"hook '{self.name}' of kind webhook needs `secret_file`: it is signed"
            )
        if self.kind == "slack" and self.secret_file:
            raise ValueError(f"hook '{self.name}' of kind slack has no use for `secret_file`")


Hooks: TypeAlias = Annotated[tuple[Hook, ...], Meta(max_length=10)]


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A hook that did not take the message, and why; `passing` says that it may take it later."""

    hook: str
    why: str
    passing: bool


@dataclass
class _Try:
    """What one thread finds out; None until it does."""

    hook: Hook
    failure: Failure | None = None
    done: threading.Event = field(default_factory=threading.Event)


def refuse_twins(hooks: Iterable[Hook]) -> None:
    """Raises ValueError for two hooks of one name: what one was told would count for the other."""
    seen: set[str] = set()
    for hook in hooks:
        if hook.name in seen:
            raise ValueError(f"there are two hooks called '{hook.name}'")
        seen.add(hook.name)


def deliver(
    hooks: Sequence[Hook], told: Message, folder: Path, *, deadline_s: float = DEADLINE_S
) -> tuple[Failure, ...]:
    """Those of `hooks` that did not take the message, after `deadline_s` seconds at the latest.

    What fails and may pass is tried again until then. `folder` is where the hooks' paths begin. Nothing
    is raised for what a hook, its files or its host have wrong.
    """
    until = time.monotonic() + deadline_s
    tries = [_Try(hook=hook) for hook in hooks]
    names = [thread.name for thread in threading.enumerate()]
    for each in tries:
        if names.count(f"hook-{each.hook.name}") >= MOST_HELD:
            why = "still holds what was sent before"
            each.failure = Failure(hook=each.hook.name, why=why, passing=True)
            each.done.set()
            continue
        # A thread, because a name that is being resolved, and a host that sends a byte now and then,
        # hold whoever asks for as long as they like.
        threading.Thread(
            target=_run,
            args=(each, told, folder, until),
            name=f"hook-{each.hook.name}",
            daemon=True,
        ).start()
    found: list[Failure] = []
    for each in tries:
        if not each.done.wait(max(0.0, until - time.monotonic())):
            why = f"did not answer within {deadline_s:g} s"
            found.append(Failure(hook=each.hook.name, why=why, passing=True))
        elif each.failure is not None:
            found.append(each.failure)
    return tuple(found)


def secret_texts(hooks: Iterable[Hook], folder: Path) -> tuple[str, ...]:
    """Every text of the hooks that no log may show, as far as it can be read now."""
    found = [hook.url for hook in hooks if hook.url]
    for name in [name for hook in hooks for name in (hook.url_file, hook.secret_file) if name]:
        try:
            found.append(_read(folder / name))
        except InputError:
            continue
    return tuple(each for each in found if each)


def _run(each: _Try, told: Message, folder: Path, until: float) -> None:
    name = each.hook.name
    try:
        each.failure = _deliver(each.hook, told, folder, until)
    except InputError as error:
        each.failure = Failure(hook=name, why=str(error).replace("\n", " "), passing=False)
    except Exception as error:  # noqa: BLE001  # its words may hold the address
        each.failure = Failure(hook=name, why=f"crashed: {type(error).__name__}", passing=False)
    finally:
        each.done.set()


def _deliver(hook: Hook, told: Message, folder: Path, until: float) -> Failure | None:
    url = hook.url or _address(folder / hook.url_file)
    parts = urlsplit(url)
    body = slack_body(told) if hook.kind == "slack" else webhook_body(told)
    key = _key(folder / hook.secret_file) if hook.kind == "webhook" else b""
    failures = 0
    while True:
        service = Service(
            host=f"{parts.scheme}://{parts.netloc}",
            ca_file=folder / hook.ca_file if hook.ca_file else None,
            timeout_s=max(0.05, min(TRY_S, until - time.monotonic())),
        )
        headers = {"Content-Type": "application/json"}
        if key:
            headers |= signed_headers(key, told, body, time.time())
        path = url[len(service.host) :]
        try:
            hand_over(service, Ask(method="POST", path=path, raw=body, headers=headers))
        except TransientError as error:
            failures += 1
            pause_s = max(error.after_s, PACE.pause_s(failures) * random.uniform(0.5, 1.0))
            if time.monotonic() + pause_s >= until:
                why = f"answers {error.status}" if error.answered else "does not answer"
                return Failure(hook=hook.name, why=why, passing=True)
            time.sleep(pause_s)
        except RefusedError as error:
            why = f"answers {error.status}"
            if 300 <= error.status < 400:
                why += ", and redirects are not followed: give the address that it leads to"
            return Failure(hook=hook.name, why=why, passing=False)
        except UntrustedError:
            why = "its certificate is signed by nobody whom we trust: name `ca_file`"
            return Failure(hook=hook.name, why=why, passing=False)
        else:
            return None


def _address(path: Path) -> str:
    url = _read(path)
    if wrong := _wrong_address(url):
        raise InputError(f"the address in it {wrong}", where=str(path))
    return url


def _wrong_address(url: str) -> str:
    """What is wrong with an address, without showing it; empty if nothing is."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "is none"
    plain = url.isascii() and url.isprintable() and " " not in url and '"' not in url
    if not plain or not host or port == 0 or parts.scheme not in ("http", "https"):
        return "is none: it begins with https://, and a host"
    if parts.username or parts.password or "#" in url:
        return "holds a user name, a password or a #, which are not sent"
    if parts.scheme == "http" and not _is_loopback(host):
        return "begins with http://, which is only for this machine: use https://"
    return ""


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _key(path: Path) -> bytes:
    """The bytes to sign with. Raises InputError, without showing them."""
    text = _read(path)
    try:
        key = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    fewest, most = KEY_BYTES
    if not text.startswith(PREFIX) or not fewest <= len(key) <= most:
        raise InputError(
            f"holds no secret: it is `{PREFIX}` and the base64 of {fewest} to {most} bytes",
            where=str(path),
            fix=f'make one: echo "{PREFIX}$(openssl rand -base64 32)"',
        )
    return key


def _read(path: Path) -> str:
    """The one line of a file. Not read_bounded: a mounted secret is a link to the newest one."""
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path)) from error
    try:
        text = raw.decode("ascii").strip()
    except UnicodeDecodeError:
        text = ""
    if not text or len(raw) > MAX_FILE_BYTES or not text.isprintable() or " " in text:
        raise InputError("holds no single word of ASCII", where=str(path))
    return text
