"""What is refused stays refused, whatever is left out of it: of a receipt, a policy, a verdict.

Each document here is refused whole. Every field of it is deleted, nulled, given twice and reordered, or it
is mutated at random; what comes out may be refused or be the same, and may never pass. A policy is judged
with the lock that names it: another, stricter policy is another demand and not this one.
"""

from __future__ import annotations

import base64
import copy
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
from securesystemslib.signer import CryptoSigner

from reprune.core import store
from reprune.core.artifacts import Verdict
from reprune.core.documents import canonical, decode_json, digest_of
from reprune.core.errors import RepruneError
from reprune.core.params import read_params
from reprune.core.policy import Policy
from reprune.registry.receipts import Statement, decode, sign, verify
from reprune.steps.acceptance import check_acceptance, check_integrity
from reprune.steps.minimum_policy import at_least
from reprune.steps.promoter import Authority, read_promoter
from reprune.steps.staging import Staged, stage
from tests.fault_fields import Steps, at, drop, put
from tests.faults import Forged, dumped, opened, rebuilt, signed
from tests.registry.promotion import NOW_S, evidence, registry_of

TWICE = "@@twice"
EVIDENCE = "evidence.json"
MALLORY = CryptoSigner.generate_ed25519()
Passes = Callable[[bytes], bool]
MINIMUM = """{"targets": {"ort-cpu": "required"}, "alpha": 0.05, "size": {"vs_parent": {"max_ratio": 0.8}},
"latency": {"vs_parent": {"max_ratio": 0.9}}, "quality": {"accuracy": {"floor": 0.9,
"vs_parent": {"max_drop": 0.03, "max_error_ratio": null}}}}"""


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A document that is refused, and whether a text in its place would pass."""

    name: str
    text: bytes
    passes: Passes


# --- documents -----------------------------------------------------------------------------------


def receipts(raw: bytes, authority: Authority) -> Iterator[Refused]:
    """`raw` is a receipt of ours that promotes; these do not."""
    whole = decode(raw, where="r").statement

    def told(**changes: Any) -> Statement:
        predicate = msgspec.structs.replace(whole.predicate, **changes)
        return msgspec.structs.replace(whole, predicate=predicate)

    def passes(text: bytes) -> bool:
        try:
            found = verify(text, authority.keys, where="r")
        except RepruneError:
            return False
        return found.statement.predicate.promotes

    ours = authority.signer
    yield Refused(name="by a stranger", text=sign(whole, MALLORY), passes=passes)
    yield Refused(name="a block", text=sign(told(outcome="block"), ours), passes=passes)
    yield Refused(name="an error", text=sign(told(outcome="error"), ours), passes=passes)
    yield Refused(name="a dry run", text=sign(told(dry_run=True), ours), passes=passes)


def policies() -> Iterator[Refused]:
    """Policies that demand less than the promoter's minimum, each locked as it is."""
    minimum = decode_json(MINIMUM.encode(), Policy, name="minimum")
    whole = json.loads(MINIMUM)
    weaker: dict[str, Any] = {
        "a larger alpha": {**whole, "alpha": 0.2},
        "a larger model": put(whole, ("size", "vs_parent", "max_ratio"), 0.99),
        "a slower model": put(whole, ("latency", "vs_parent", "max_ratio"), 0.99),
        "a lower floor": put(whole, ("quality", "accuracy", "floor"), 0.5),
        "no latency": drop(whole, ("latency",)),
        "no drop": drop(whole, ("quality", "accuracy", "vs_parent")),
    }
    for name, value in weaker.items():
        locked = digest_of(decode_json(dumped(value), Policy, name=name))

        def passes(text: bytes, locked: str = locked) -> bool:
            try:
                found = decode_json(text, Policy, name="p")
            except RepruneError:
                return False
            return digest_of(found) == locked and not at_least(found, minimum)

        yield Refused(name=name, text=dumped(value), passes=passes)


@dataclass(frozen=True, kw_only=True)
class Blocked:
    """A repository whose verdict is a block, and what promote would say to another verdict in its place."""

    root: Path
    staged: Staged
    forged: Forged

    def passes(self, folder: Path) -> bool:
        """Whether promote would make the candidate the champion by the verdict in `folder`."""
        root, given = self.root, read_params(self.root / "params.yaml")
        try:
            staged = replace(self.staged, verdict=store.read(folder, Verdict))
            case = check_integrity(staged, given)
            if case.judgement.outcome != "pass":
                return False
            check_acceptance(
                case, read_promoter(root), registry_of(root), root=root, given=given, now=NOW_S
            )
        except RepruneError:
            return False
        return True

    def manifest(self) -> Refused:
        """The verdict's manifest, its digest corrected whatever it says."""
        folder = self.root / "artifacts/verdict"

        def passes(text: bytes) -> bool:
            try:
                found = decode_json(text, Verdict, name="v")
            except RepruneError:
                return False
            if found.judgement.outcome != "pass":
                return False
            before = (folder / store.MANIFEST).read_bytes()
            (folder / store.MANIFEST).write_bytes(text)
            kept = (folder / store.DIGEST).read_bytes()
            (folder / store.DIGEST).write_text(digest_of(found))
            try:
                return self.passes(folder)
            finally:
                (folder / store.MANIFEST).write_bytes(before)
                (folder / store.DIGEST).write_bytes(kept)

        return Refused(name="the verdict", text=dumped(self.forged.manifest), passes=passes)


def blocked(root: Path) -> Blocked:
    """`root` is a repository with a blocked verdict (see tests.registry.promotion)."""
    staged = stage(evidence(root), root / ".staged")
    return Blocked(root=root, staged=staged, forged=opened(root / "artifacts/verdict"))


# --- every field ---------------------------------------------------------------------------------


def paths(value: Any, here: Steps = ()) -> Iterator[Steps]:
    """Every key and, of each list, the first and the last item, however deep."""
    if here:
        yield here
    if isinstance(value, dict):
        for key in value:
            yield from paths(value[key], (*here, key))
    elif isinstance(value, list) and value:
        for index in sorted({0, len(value) - 1}):
            yield from paths(value[index], (*here, index))


def broken(document: Any, path: Steps) -> Iterator[tuple[str, bytes]]:
    """The document with the value at `path` deleted, nulled, doubled and reordered, as text."""
    value, parent = at(document, path), at(document, path[:-1])
    yield "deleted", dumped(drop(document, path))
    if value is not None:
        yield "nulled", dumped(put(document, path, None))
    if isinstance(parent, dict):
        for other in (value, None):
            grown = put(document, path[:-1], {**parent, f"{path[-1]}{TWICE}": other})
            text = dumped(grown)
            yield "given twice", text.replace(f'{TWICE}"'.encode(), b'"')
        turned = put(document, path[:-1], dict(reversed(parent.items())))
        yield "reordered", json.dumps(turned).encode()
    else:
        yield "given twice", dumped(put(document, path[:-1], [*parent, value]))
        yield "reordered", dumped(put(document, path[:-1], parent[::-1]))


def every_field(refused: Refused) -> Iterator[tuple[str, bool]]:
    """Each field of the document, each way to break it; whether it passes then."""
    document = json.loads(refused.text)
    for path in paths(document):
        for how, text in broken(document, path):
            yield f"{refused.name}: {'.'.join(map(str, path))} {how}", refused.passes(text)


def every_field_signed(refused: Refused) -> Iterator[tuple[str, bool]]:
    """The same for what an envelope holds, under the signature that it has."""
    document = json.loads(refused.text)
    payload = json.loads(base64.b64decode(document["payload"]))
    for path in paths(payload):
        for how, text in broken(payload, path):
            changed = {**document, "payload": base64.b64encode(text).decode()}
            name = f"{refused.name}: payload.{'.'.join(map(str, path))} {how}"
            yield name, refused.passes(canonical(changed) + b"\n")


def every_part(base: Blocked, folder: Path, *, every: int = 1) -> Iterator[tuple[str, bool]]:
    """Each field of each document in the verdict's folder, in two folders each time: one whose digests are
    corrected and that claims to have passed, and one that was made again down to the judgement, as if the
    whole run had been like that.
    """
    number = 0
    for part in [*base.forged.ancestors, *documents(base.forged)]:
        document = base.forged.value(part)
        for path in paths(document):
            for how, text in broken(document, path):
                number += 1
                if number % every:
                    continue
                name = f"{part}: {'.'.join(map(str, path))} {how}"
                yield name, _part_passes(base, part, text, folder)


def documents(forged: Forged) -> list[str]:
    """The files beside the ancestors that are JSON: all but the records."""
    return [name for name in forged.files if name.endswith(".json")]


def claimed(forged: Forged) -> Forged:
    """The same, and its manifest says that it passed."""
    told = {**forged.manifest["judgement"], "outcome": "pass", "reasons": []}
    forged.manifest = {**forged.manifest, "judgement": told}
    return forged


def _part_passes(base: Blocked, part: str, text: bytes, folder: Path) -> bool:
    """What does not pass when it is judged again is refused by its own words, whatever promote says."""
    try:
        forged = _with(base.forged, part, text)
        if base.passes(signed(claimed(forged), folder / "signed")):
            return True
        if part == EVIDENCE:
            # Made again, it is the evidence that the samples give.
            return False
        again = _with(base.forged, part, text)
        return rebuilt(again, folder / "rebuilt") == "pass" and base.passes(folder / "rebuilt")
    except (RepruneError, ValueError, KeyError, TypeError, AttributeError):
        # No verdict can be made of it at all.
        return False


def _with(base: Forged, part: str, text: bytes) -> Forged:
    forged = base.copy()
    if part in forged.ancestors:
        forged.ancestors[part] = json.loads(text)
    else:
        forged.files[part] = text
    return forged


# --- at random -----------------------------------------------------------------------------------

WORDS = (b"pass", b'"pass"', b'"block"', b"true", b"null", b"1", b"0", b"-1", b"1e999", b"NaN")
TOKENS = (*WORDS, b"{}", b"[]", b'""')


def mutated(text: bytes, rng: random.Random) -> bytes:
    """A byte flipped, cut, doubled or replaced by a word; or values of the document set to other ones."""
    kind = rng.randrange(7)
    at_, size = rng.randrange(len(text)), rng.randrange(1, 12)
    if kind == 0:
        return text[:at_] + bytes([text[at_] ^ 1 << rng.randrange(8)]) + text[at_ + 1 :]
    if kind == 1:
        return text[:at_] + text[at_ + size :]
    if kind == 2:
        return text[: at_ + size] + text[at_:]
    if kind == 3:
        return text[:at_] + rng.choice(TOKENS) + text[at_ + size :]
    document = json.loads(text)
    for _ in range(rng.randrange(1, 4)):
        known = list(paths(document))
        if not known:
            break
        path, other = rng.choice(known), rng.choice(known)
        if rng.random() < 0.4:
            document = drop(document, path)
        elif rng.random() < 0.5:
            document = put(
                document,
                path,
                json.loads(rng.choice((b'"pass"', b"null", b"0", b"1", b"[]", b"{}"))),
            )
        else:
            document = put(document, path, copy.deepcopy(at(document, other)))
    return dumped(document)


def at_random(every: list[Refused], count: int, *, seed: int) -> tuple[Counter[str], list[str]]:
    """How many mutations of each document there were, and those that pass."""
    rng, tried, wrong = random.Random(seed), Counter[str](), []
    for number in range(count):
        refused = every[number % len(every)]
        text = refused.text
        if b'"payloadType"' in text and rng.random() < 0.5:
            document = json.loads(text)
            inner = mutated(base64.b64decode(document["payload"]), rng)
            text = canonical({**document, "payload": base64.b64encode(inner).decode()}) + b"\n"
        else:
            text = mutated(text, rng)
        tried[refused.name] += 1
        if refused.passes(text):
            wrong.append(f"{refused.name}: {number} of seed {seed}")
    return tried, wrong
