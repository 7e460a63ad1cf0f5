"""Monotonic: no field that is deleted, nulled, given twice or reordered turns a refusal into a pass.

`make test` takes a part of the verdict's fields and 2,000 random mutations, `make test-deep` all and 100,000.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from reprune.registry.receipts import RECEIPT_FILE
from reprune.steps.promoter import read_promoter
from tests import monotonic
from tests.chain import Story
from tests.registry.promotion import copy_repository, promoted, ready

DEEP = os.environ.get("REPRUNE_DEEP") == "1"
MUTATIONS = 100_000 if DEEP else 2_000
EVERY = 1 if DEEP else 150


@pytest.fixture(scope="module")
def block(tmp_path_factory: pytest.TempPathFactory) -> Iterator[monotonic.Blocked]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("REPRUNE_WORK", str(tmp_path_factory.mktemp("work")))
        patched.setattr(os, "fsync", lambda _: None)
        root = tmp_path_factory.mktemp("block")
        ready(root, Story(candidate_wrong=70))
        yield monotonic.blocked(root)


@pytest.fixture
def receipts(template: Path, tmp_path: Path) -> list[monotonic.Refused]:
    root = copy_repository(template, tmp_path / "repo")
    raw = promoted(root).artifact.file(RECEIPT_FILE).read_bytes()
    return list(monotonic.receipts(raw, read_promoter(root)))


@pytest.mark.slow
def test_each_document_is_refused_and_a_good_one_is_not(
    receipts: list[monotonic.Refused], template: Path, tmp_path: Path, block: monotonic.Blocked
) -> None:
    """So that a refusal below is no refusal of everything."""
    for each in [*receipts, *monotonic.policies(), block.manifest()]:
        assert not each.passes(each.text), each.name
    root = copy_repository(template, tmp_path / "good")
    good = promoted(root).artifact.file(RECEIPT_FILE).read_bytes()
    assert next(monotonic.receipts(good, read_promoter(root))).passes(good)
    fine = copy_repository(template, tmp_path / "fine")
    assert monotonic.blocked(fine).passes(fine / "artifacts/verdict")


@pytest.mark.slow
def test_no_field_of_a_receipt_or_a_policy(receipts: list[monotonic.Refused]) -> None:
    """Exhaustively; the envelope and what it holds."""
    told = [
        one
        for each in receipts
        for one in (*monotonic.every_field(each), *monotonic.every_field_signed(each))
    ]
    told += [one for each in monotonic.policies() for one in monotonic.every_field(each)]
    assert [name for name, passes in told if passes] == []
    print(f"{len(told)} broken fields of receipts and policies, 0 pass")


@pytest.mark.slow
def test_no_field_of_a_verdict(block: monotonic.Blocked, tmp_path: Path) -> None:
    """Its manifest, and every part of its grounds, with every digest corrected as a forger would."""
    told = list(monotonic.every_field(block.manifest()))
    told += list(monotonic.every_part(block, tmp_path, every=EVERY))
    assert [name for name, passes in told if passes] == []
    print(f"{len(told)} broken fields of a verdict, 0 pass")


@pytest.mark.slow
def test_no_random_mutation(receipts: list[monotonic.Refused], block: monotonic.Blocked) -> None:
    """Bytes, words and values at random."""
    every = [*receipts, *monotonic.policies(), block.manifest()]
    tried, wrong = monotonic.at_random(every, MUTATIONS, seed=1)
    assert wrong == []
    assert sum(tried.values()) == MUTATIONS
    print(f"{MUTATIONS} mutations, 0 pass: {dict(tried)}")
