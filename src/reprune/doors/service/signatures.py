"""Who may wake us: one HMAC over a delivery's id, its time and its raw bytes. Pure.

The scheme is MLflow's, for its webhooks and for CloudEvents alike:

    "v1," + base64(HMAC-SHA256(secret, id + "." + timestamp + "." + body))
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

MAX_SECRETS = 5
MAX_REMEMBERED = 200_000

Reason: TypeAlias = Literal["unsigned", "malformed", "expired", "forged", "replayed", "busy"]

_TIMESTAMP = re.compile(rb"[0-9]{1,12}")
_ID = re.compile(rb"[!-~]{1,200}")


@dataclass(frozen=True, kw_only=True)
class Names:
    """The three headers that carry a signature, in lower case."""

    delivery: str
    timestamp: str
    signature: str


MLFLOW = Names(
    delivery="x-mlflow-delivery-id",
    timestamp="x-mlflow-timestamp",
    signature="x-mlflow-signature",
)
# A CloudEvent's own id is signed; what its other `ce-` headers say is not, and is not used.
CLOUDEVENTS = Names(
    delivery="ce-id", timestamp="x-reprune-timestamp", signature="x-reprune-signature"
)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a delivery says of itself; nobody has checked the signature yet."""

    delivery: bytes
    timestamp: bytes
    signature: bytes


class Refused(Exception):
    """A delivery that is not to be believed. `reason` is one word; it holds nothing of the delivery."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason


def sign(secret: bytes, delivery: bytes, timestamp: bytes, body: bytes) -> bytes:
    """The signature that a sender who knows `secret` would give."""
    return signature_of(secret, b".".join((delivery, timestamp, body)))


def signature_of(secret: bytes, message: bytes) -> bytes:
    """The signature of these very bytes."""
    return b"v1," + base64.b64encode(hmac.new(secret, message, hashlib.sha256).digest())


def matches(secret: bytes, message: bytes, signature: bytes) -> bool:
    """Whether it is the whole signature of these bytes, in a time that does not tell where it differs.

    A shortened one is none, nor is one with anything after it.
    """
    return hmac.compare_digest(signature_of(secret, message), signature)


def claim(
    headers: Iterable[tuple[bytes, bytes]], names: Names, *, now_s: float, window_s: float
) -> Claim:
    """The claim of a delivery, before anything of its body is read.

    Raises Refused: "unsigned" without the three headers, "malformed" if one is there twice or is no
    such thing, "expired" if its time is further than `window_s` from ours.
    """
    found: dict[str, list[bytes]] = {}
    for key, value in headers:
        found.setdefault(key.decode("latin-1").lower(), []).append(value)
    values: list[bytes] = []
    for name in (names.delivery, names.timestamp, names.signature):
        given = found.get(name, [])
        if not given:
            raise Refused("unsigned")
        if len(given) > 1:
            raise Refused("malformed")
        values.append(given[0])
    delivery, timestamp, signature = values
    if not _ID.fullmatch(delivery) or not _TIMESTAMP.fullmatch(timestamp):
        raise Refused("malformed")
    if abs(now_s - int(timestamp)) > window_s:
        raise Refused("expired")
    return Claim(delivery=delivery, timestamp=timestamp, signature=signature)


def check(given: Claim, body: bytes, secrets: Sequence[bytes]) -> None:
    """Returns only if one of `secrets` signed exactly this. Raises Refused("forged").

    The time that it takes tells nothing about which secret failed, or where.
    """
    message = b".".join((given.delivery, given.timestamp, body))
    good = False
    for secret in secrets[:MAX_SECRETS]:
        good |= matches(secret, message, given.signature)
    if not good:
        raise Refused("forged")


@dataclass
class Seen:
    """Deliveries that were believed, for as long as their time would be accepted again.

    What is forgotten when the process ends costs nothing: a delivery that is heard twice wakes twice.
    """

    window_s: float
    clock: Callable[[], float]
    limit: int = MAX_REMEMBERED
    _until: OrderedDict[bytes, float] = field(default_factory=OrderedDict)

    def once(self, given: Claim) -> None:
        """Remembers the delivery. Raises Refused("replayed") for one that is remembered already, and
        Refused("busy") rather than forget one too early.
        """
        now_s = self.clock()
        while self._until:
            oldest, until_s = next(iter(self._until.items()))
            if until_s >= now_s:
                break
            del self._until[oldest]
        if given.delivery in self._until:
            raise Refused("replayed")
        if len(self._until) >= self.limit:
            raise Refused("busy")
        # A timestamp may lie a window ahead of us, and be good until a window after that.
        self._until[given.delivery] = now_s + 2 * self.window_s


STATUS: Mapping[Reason, int] = {
    "unsigned": 401,
    "forged": 401,
    "expired": 401,
    "malformed": 400,
    "replayed": 409,
    "busy": 503,
}
