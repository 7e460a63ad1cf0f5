"""A receipt is believed only in its one form, and only under a key that the promoter trusts."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET
from securesystemslib.signer import CryptoSigner

from reprune.core.artifacts import Waiver
from reprune.core.documents import canonical
from reprune.core.errors import ReceiptInvalid
from reprune.registry.receipts import (
    MAX_RECEIPT_BYTES,
    RECEIPT_FILE,
    Decision,
    Receipted,
    Statement,
    chain_gaps,
    decode,
    decode_payload,
    public_key,
    sign,
    subject_digests,
    subjects,
    verify,
)

HEX = "a" * 64
DIGEST = f"sha256:{HEX}"
SIGNER = CryptoSigner.generate_ed25519()
OTHER = CryptoSigner.generate_ed25519()


def statement(**changes: Any) -> Statement:
    values: dict[str, Any] = {
        "registry": "files",
        "workspace": "default",
        "name": "digits",
        "outcome": "pass",
        "reasons": (),
        "attempt": 1,
        "dense_version": "3",
        "dense_weights": DIGEST,
        "champion": None,
        "bundle": DIGEST,
        "verdict": DIGEST,
        "lock": DIGEST,
        "policy": DIGEST,
        "procedure": "1",
        "eval_digest": DIGEST,
        "machines": ("box",),
        "predecessor": None,
        "reprune": "0.1.0",
        "measured_until_s": 1,
        "signed_at_s": 2,
        "latency_ratio": 0.5,
        "quality_drop": None,
        "flips": 0.01,
    }
    return Statement(
        subject=subjects({"bundle/w": DIGEST, "a": DIGEST}),
        predicate=Decision(**(values | changes)),
    )


RAW = sign(statement(), SIGNER)


def test_what_was_signed_is_what_is_read() -> None:
    """Signing and verifying is identity, names the signer, and the same statement has the same bytes."""
    assert RECEIPT_FILE == "receipt.dsse.json"
    found = verify(RAW, [SIGNER.public_key], where="r")
    assert found.statement == statement()
    assert found.signer == SIGNER.public_key.keyid
    assert found.digest == decode(RAW, where="r").digest
    assert sign(statement(), SIGNER) == RAW
    assert subject_digests(found.statement) == {"a": DIGEST, "bundle/w": DIGEST}
    assert decode(RAW, where="r").signer == ""


def test_receipts_from_before_overrides_keep_their_bytes() -> None:
    """What came later is absent from a decision without it, and part of the signed bytes of one with it."""
    assert not {"waiver", "dry_run", "newest_time"} & set(payload()["predicate"])
    waiver = Waiver(
        by="Ada",
        reason="r",
        expires="2026-12-24",
        rules=("a on b",),
        verdict=DIGEST,
        candidate=DIGEST,
        policy=DIGEST,
    )
    raw = sign(statement(outcome="block", waiver=waiver, newest_time="2026-01"), SIGNER)
    found = verify(raw, [SIGNER.public_key], where="r").statement.predicate
    assert (found.waiver, found.newest_time) == (waiver, "2026-01")
    forged = statement(outcome="block", waiver=msgspec.structs.replace(waiver, by="Eve"))
    with pytest.raises(ReceiptInvalid):
        verify(repacked(canonical(forged)), [SIGNER.public_key], where="r")


@pytest.mark.parametrize("outcome", ["pass", "block", "inconclusive", "error"])
@pytest.mark.parametrize("waived", [False, True])
@pytest.mark.parametrize("dry_run", [UNSET, False, True])
def test_what_may_become_champion(outcome: str, waived: bool, dry_run: Any) -> None:
    """A pass, or a block or undecided verdict that was overridden; never an error, never a dry run."""
    waiver = Waiver(
        by="A", reason="r", expires="2026-12-24", rules=("a",), verdict="", candidate="", policy=""
    )
    found = statement(
        outcome=outcome, waiver=waiver if waived else UNSET, dry_run=dry_run
    ).predicate
    expected = outcome == "pass" or (waived and outcome != "error")
    assert found.promotes == (expected and dry_run is not True)


def test_an_unknown_key_is_refused() -> None:
    """A receipt of somebody else is refused, until that key is trusted by its 32 bytes in hex."""
    with pytest.raises(ReceiptInvalid, match="trusts"):
        verify(RAW, [OTHER.public_key], where="r")
    with pytest.raises(ReceiptInvalid):
        verify(RAW, [], where="r")
    trusted = public_key(SIGNER.public_key.keyval["public"])
    assert verify(RAW, [OTHER.public_key, trusted], where="r").signer == trusted.keyid


def envelope() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(RAW)
    return loaded


def written(told: dict[str, Any]) -> bytes:
    """The envelope in its one form."""
    return canonical(told) + b"\n"


def repacked(payload: bytes) -> bytes:
    return written(envelope() | {"payload": base64.b64encode(payload).decode()})


def payload() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(base64.b64decode(envelope()["payload"]))
    return loaded


def test_the_keyid_of_a_trusted_key_is_not_enough() -> None:
    """A signature by another key under a trusted key's id is refused."""
    forged = json.loads(sign(statement(), OTHER))
    forged["signatures"][0]["keyid"] = SIGNER.public_key.keyid
    with pytest.raises(ReceiptInvalid):
        verify(written(forged), [SIGNER.public_key], where="r")


@settings(max_examples=300, deadline=None)
@given(position=st.integers(0, len(RAW) - 1), byte=st.integers(0, 255))
def test_no_changed_byte_survives(position: int, byte: int) -> None:
    """Any byte of the file changed to another: refused. The digest is over the bytes, so none may differ."""
    changed = bytearray(RAW)
    changed[position] = byte
    if changed == RAW:
        return
    with pytest.raises(ReceiptInvalid):
        verify(bytes(changed), [SIGNER.public_key], where="r")


def other_last_letter(text: str) -> str:
    """The same bytes in base64 of another last letter: the bits that it has over are not 0."""
    assert text.endswith("==")
    other = chr(ord(text[-3]) + 1)
    assert base64.b64decode(text[:-3] + other + "==") == base64.b64decode(text)
    return text[:-3] + other + "=="


def with_signature(**changes: str) -> dict[str, Any]:
    return envelope() | {"signatures": [envelope()["signatures"][0] | changes]}


def signed_by_two() -> dict[str, Any]:
    others = json.loads(sign(statement(), OTHER))["signatures"]
    return envelope() | {"signatures": [*envelope()["signatures"], *others]}


SAME = {
    "a space before": b" " + RAW,
    "a line's end more": RAW + b"\n",
    "no line's end": RAW[:-1],
    "a carriage return": RAW[:-1] + b"\r\n",
    "indented": json.dumps(envelope(), indent=1).encode() + b"\n",
    "keys in another order": json.dumps(
        {key: envelope()[key] for key in sorted(envelope(), reverse=True)}, separators=(",", ":")
    ).encode()
    + b"\n",
    "an escaped letter": RAW.replace(b"application", b"\\u0061pplication"),
    "other base64 of the signature": written(
        with_signature(sig=other_last_letter(envelope()["signatures"][0]["sig"]))
    ),
    "a signature more, by whoever": written(signed_by_two()),
    "a signature more, by nobody": written(
        envelope() | {"signatures": [*envelope()["signatures"], {"keyid": HEX, "sig": "AAAA"}]}
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_nobody_without_the_key_makes_a_second_file(name: str) -> None:
    """Other bytes with the same statement and its true signature have another digest: refused."""
    assert SAME[name] != RAW
    assert json.loads(SAME[name])["payload"] == envelope()["payload"]
    with pytest.raises(ReceiptInvalid):
        verify(SAME[name], [SIGNER.public_key], where="r")


def test_files_are_listed_by_name_however_many(tmp_path: Path) -> None:
    """In the order of their names and each once; any other order, and one given twice, is refused."""
    names = [f"bundle/{index:02}" for index in range(40)]
    told = subjects(dict.fromkeys(reversed(names), DIGEST))
    assert [each.name for each in told] == names
    whole = Statement(subject=told, predicate=statement().predicate)
    assert verify(sign(whole, SIGNER), [SIGNER.public_key], where="r").statement == whole
    for wrong in (told[1:] + told[:1], told[:1] + told):
        other = Statement(subject=wrong, predicate=statement().predicate)
        with pytest.raises(ReceiptInvalid, match="one canonical form"):
            decode(sign(other, SIGNER), where="r")


@pytest.mark.parametrize("read", [decode, decode_payload])
def test_a_receipt_has_a_largest_size(read: Any) -> None:
    """At the limit it is looked at; one byte more, and it is not."""
    with pytest.raises(ReceiptInvalid, match="is larger than 16000000 bytes"):
        read(b" " * (MAX_RECEIPT_BYTES + 1), where="r")
    with pytest.raises(ReceiptInvalid, match="JSON"):
        read(b" " * MAX_RECEIPT_BYTES, where="r")


def test_the_payload_is_read_whatever_it_is_of() -> None:
    """Its bytes as they were signed, of a kind that nobody knows too; what is no envelope is refused."""
    assert decode_payload(RAW, where="r") == canonical(statement())
    assert decode_payload(repacked(b"anything"), where="r") == b"anything"
    for raw in (b"{}", b"[", written(envelope() | {"more": 1})):
        with pytest.raises(ReceiptInvalid) as caught:
            decode_payload(raw, where="here")
        assert caught.value.where.startswith("here")


@pytest.mark.parametrize("sig", ["\u00e9", "A", "AA=", "AA", "A A=", "!!!!", "AAAA\n"])
def test_a_signature_is_base64(sig: str) -> None:
    """Of its letters alone, padded, with nothing between them."""
    raw = written(with_signature(sig=sig))
    with pytest.raises(ReceiptInvalid, match="base64"):
        verify(raw, [SIGNER.public_key], where="r")


def test_the_payload_has_one_base64() -> None:
    """Whatever its length leaves over."""
    told = next(
        found
        for length in (1, 2, 3)
        if (found := json.loads(sign(statement(dense_version="1" * length), SIGNER)))
        and found["payload"].endswith("==")
    )
    verify(written(told), [SIGNER.public_key], where="r")
    other = told | {"payload": other_last_letter(told["payload"])}
    with pytest.raises(ReceiptInvalid, match="one form"):
        verify(written(other), [SIGNER.public_key], where="r")


@pytest.mark.parametrize("field", sorted(payload()["predicate"]))
def test_no_field_can_be_left_out_or_emptied(field: str) -> None:
    """Each field of the decision deleted, nulled or doubled is refused."""
    whole = payload()
    without = {key: value for key, value in whole["predicate"].items() if key != field}
    nulled = whole["predicate"] | {field: None}
    for predicate in (without, nulled, whole["predicate"] | {"extra": 1}):
        raw = repacked(msgspec.json.encode(whole | {"predicate": predicate}, order="sorted"))
        if predicate != whole["predicate"]:
            with pytest.raises(ReceiptInvalid):
                verify(raw, [SIGNER.public_key], where="r")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        RAW[:-20],
        RAW.replace(b'"payloadType":', b'"payloadType":"x","payloadType":'),
        RAW.replace(b"vnd.in-toto+json", b"octet-stream"),
        written(envelope() | {"signatures": []}),
        written(envelope() | {"signatures": envelope()["signatures"] * 2}),
        written(envelope() | {"signatures": envelope()["signatures"] * 9}),
        written(envelope() | {"payload": "!!!"}),
        repacked(b'{"_type": NaN}'),
        repacked(json.dumps(payload(), indent=1).encode()),
        repacked(canonical(payload() | {"_type": "https://in-toto.io/Statement/v2"})),
        repacked(canonical(payload() | {"predicateType": "urn:else"})),
        repacked(canonical(payload() | {"subject": payload()["subject"][::-1]})),
        repacked(canonical(payload() | {"subject": payload()["subject"][:1] * 2})),
        b"[" * 100_000,
        b" " * 16_000_001,
    ],
)
def test_what_is_not_exactly_a_receipt_is_refused(raw: bytes) -> None:
    """Wrong type, doubled keys, no signature, another form of the same content: refused without a key."""
    with pytest.raises(ReceiptInvalid):
        decode(raw, where="r")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_figure_that_is_no_number_does_not_come_back_as_one(value: float) -> None:
    """NaN makes every comparison false: a receipt says "unknown" in its place."""
    found = verify(sign(statement(latency_ratio=value), SIGNER), [SIGNER.public_key], where="r")
    assert found.statement.predicate.latency_ratio is None


def receipt(predecessor: Receipted | None, name: str) -> Receipted:
    digest = predecessor.digest if predecessor else None
    return decode(sign(statement(predecessor=digest, dense_version=name), SIGNER), where="r")


def test_a_deleted_link_shows() -> None:
    """A chain without gaps says nothing; a receipt deleted from its middle is missed by its successor."""
    first = receipt(None, "1")
    second = receipt(first, "2")
    third = receipt(second, "3")
    assert chain_gaps([first, second, third]) == ()
    assert chain_gaps([second, third]) == ()
    assert chain_gaps([]) == ()
    assert "deleted" in chain_gaps([first, third])[0]
    assert "no predecessor" in chain_gaps([second, receipt(None, "9")])[0]


def test_promotes_that_overlapped_leave_no_gap() -> None:
    """Both read the same newest receipt, or none, before either was registered."""
    first = receipt(None, "1")
    second, third = receipt(first, "2"), receipt(first, "3")
    fourth = receipt(third, "4")
    late = receipt(first, "5")
    assert chain_gaps([first, receipt(None, "9"), second, third, fourth]) == ()
    assert chain_gaps([second, third, fourth, late]) == ()
    assert chain_gaps([third, fourth, late], before={first.digest}) == ()
    assert "deleted" in chain_gaps([first, second, fourth])[0]
    assert "deleted" in chain_gaps([fourth, late])[0]


@dataclass(frozen=True)
class Link:
    """A link by its name alone; `statement` is what `chain_gaps` looks at."""

    digest: str
    predecessor: str | None

    @property
    def statement(self) -> Any:
        return SimpleNamespace(predicate=SimpleNamespace(predecessor=self.predecessor))


@given(lags=st.lists(st.integers(0, 4), min_size=1, max_size=12), data=st.data())
def test_a_history_has_gaps_only_where_a_link_was_deleted(
    lags: list[int], data: st.DataObject
) -> None:
    """Each link names the newest that there was when it looked, `lag` links before it was registered."""
    made: list[Link] = []
    for number, lag in enumerate(lags):
        seen = made[: max(0, number - lag)]
        made.append(Link(f"sha256:{number:064d}", seen[-1].digest if seen else None))
    start = data.draw(st.integers(0, len(made) - 1))
    run, before = made[start:], {None, *(each.digest for each in made[:start])} if start else set()
    assert chain_gaps(made) == chain_gaps(run, before=before) == ()
    gone = data.draw(st.integers(0, len(run) - 1))
    left = [each for each in run if each is not run[gone]]
    # The first of a run may name what is not in it.
    missed = any(each.predecessor == run[gone].digest for each in left[1:])
    if gone > 0:
        assert bool(chain_gaps(left, before=before)) == missed
    elif missed and left[0].predecessor != run[gone].digest:
        assert chain_gaps(left, before=before)


@pytest.mark.parametrize("value", ["00" * 31, "zz" * 32])
def test_a_bad_public_key_is_refused(value: str, tmp_path: Path) -> None:
    """A key that is no key is an error that says so, not a crash."""
    with pytest.raises(ReceiptInvalid):
        public_key(value)


def test_a_fault_of_a_key_is_not_a_bad_signature() -> None:
    """A key whose library breaks says nothing about who signed."""

    def broken(*_: object) -> None:
        raise RuntimeError("the library is broken")

    real = SIGNER.public_key
    key: Any = SimpleNamespace(keyid=real.keyid, scheme=real.scheme, verify_signature=broken)
    with pytest.raises(RuntimeError, match="is broken"):
        verify(RAW, [key], where="r")
