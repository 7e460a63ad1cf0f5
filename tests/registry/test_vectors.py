"""Project Wycheproof's signatures and JSONTestSuite's files, all of them, by our own code."""

from __future__ import annotations

import pytest

from reprune.core.errors import ReceiptInvalid
from reprune.registry.keys import public_key
from tests import vectors


def test_ed25519() -> None:
    """Each valid signature counts and no invalid one does; 151 vectors of the first two sources, and 59 about
    keys of small order.
    """
    every = list(vectors.signatures("ed25519"))
    assert len(every) == 210
    wrong = [
        each.number
        for each in every
        if each.says != "acceptable" and vectors.counts(each) != (each.says == "valid")
    ]
    assert wrong == []
    assert sum(each.number <= 151 for each in every) == 151
    assert all(each.says != "acceptable" for each in every if each.number <= 151)


def test_nobody_signs_for_a_key_of_small_order() -> None:
    """The eight points, with either sign and in every form that stands for them, are no keys at all."""
    told = {each.key for each in vectors.signatures("ed25519") if 152 <= each.number <= 159}
    prime = 2**255 - 19
    ys = {int.from_bytes(bytes.fromhex(key), "little") % 2**255 for key in told} | {
        prime,
        prime + 1,
    }
    assert len(ys) == 7
    for y in ys:
        for sign in (0, 1 << 255):
            with pytest.raises(ReceiptInvalid, match="small order"):
                public_key((y + sign).to_bytes(32, "little").hex())
    small = [each for each in vectors.signatures("ed25519") if 152 <= each.number <= 159]
    assert not any(vectors.counts(each) for each in small)


def test_p256() -> None:
    """Of 484, the valid ones with the lower s count and nothing else does."""
    every = list(vectors.signatures("p256"))
    assert len(every) == 484
    valid = [each for each in every if each.says == "valid"]
    higher = [each.number for each in valid if not vectors.is_lower(each)]
    assert len(valid) == 174
    assert len(higher) == 71
    taken = {each.number for each in every if vectors.counts(each)}
    assert taken == {each.number for each in valid} - set(higher)


def test_json() -> None:
    """188 of 188 refused, 95 of 95 handled, and an answer in our words for the rest."""
    every = dict(vectors.documents())
    assert [sum(name.startswith(kind) for name in every) for kind in "nyi"] == [188, 95, 35]
    read = {name for name, raw in every.items() if vectors.read(raw)}
    assert [name for name in read if name.startswith("n_")] == []
    refused = {name for name in every if name.startswith("y_")} - read
    assert refused == set(vectors.REFUSED_ON_PURPOSE)


@pytest.mark.parametrize("kind", ["ed25519", "p256"])
def test_a_vector_of_another_message_does_not_count(kind: str) -> None:
    """The vector's own message is what is verified: the harness takes nothing for granted."""
    good = next(each for each in vectors.signatures(kind) if vectors.counts(each))
    other = vectors.Vector(
        number=0, key=good.key, message=good.message + b"x", signature=good.signature, says="",
        comment="",
    )  # fmt: skip
    assert not vectors.counts(other)
