"""Bit rot: no bit of what is stored can turn without being seen before the file is used."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.registry.flips import flip_bits, stage


@pytest.mark.slow
@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.deep)])
def test_every_bit_that_turns_is_seen(tmp_path: Path, count: int) -> None:
    """In manifests, digests, payloads, versions, aliases, receipts and weights."""
    stage(tmp_path / "repo")
    found = flip_bits(tmp_path / "repo", count)
    assert found.unseen == ()
    assert found.detected + len(found.same) == count
    assert len(found.same) <= 1 + count // 100, found.same
