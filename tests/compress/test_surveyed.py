"""What can be cut is found once a dense model, and reading it again changes nothing but time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from reprune.core.artifacts import ModelBundle
from reprune.core.store import Artifact
from reprune.steps.opening import Dense, open_dense


@pytest.fixture(autouse=True)
def _work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPRUNE_WORK", str(tmp_path / "work"))


def opened(dense: Artifact[ModelBundle]) -> tuple[Dense, float]:
    return open_dense(dense, seed=0, threads=1), float(torch.rand(()))


def kept(tmp_path: Path) -> Path:
    (path,) = (tmp_path / "work" / "surveys").iterdir()
    return path


def test_what_is_read_is_what_was_found(dense: Artifact[ModelBundle], tmp_path: Path) -> None:
    """Groups, blocks and reasons, and the random numbers drawn afterwards."""
    found, drawn = opened(dense)
    assert kept(tmp_path).exists()
    read, again = opened(dense)
    for part in ("groups", "blocks", "skipped", "kept_blocks"):
        assert getattr(read, part) == getattr(found, part)
    assert found.groups
    assert again == drawn


def test_it_is_read_and_not_found_again(dense: Artifact[ModelBundle], tmp_path: Path) -> None:
    found, _ = opened(dense)
    content = json.loads(kept(tmp_path).read_text())
    content["channels"]["groups"] = content["channels"]["groups"][:1]
    kept(tmp_path).write_text(json.dumps(content))
    assert opened(dense)[0].groups == found.groups[:1]


@pytest.mark.parametrize("torn", [b"", b"{", b'{"channels": 3}', b"\xff\xfe"])
def test_what_cannot_be_read_is_found_again(
    dense: Artifact[ModelBundle], tmp_path: Path, torn: bytes
) -> None:
    found, _ = opened(dense)
    kept(tmp_path).write_bytes(torn)
    assert opened(dense)[0].groups == found.groups
    assert kept(tmp_path).read_bytes() != torn


def test_head_dimensions_are_another_question(dense: Artifact[ModelBundle], tmp_path: Path) -> None:
    opened(dense)
    open_dense(dense, seed=0, threads=1, head_dimensions=True)
    assert len(list((tmp_path / "work" / "surveys").iterdir())) == 2
