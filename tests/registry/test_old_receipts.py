"""Receipts of earlier releases stay what they are: read, verified, with the digest that they had.

The samples were written by the release before receipts said how long their evidence holds.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec import UNSET

from reprune.doors.cli import main
from reprune.registry.receipts import AnyStatement, Statement, public_key, verify_statement
from reprune.registry.records import RollbackStatement

SAMPLES = Path(__file__).parent / "receipts"
KEY = "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"
KINDS: list[tuple[str, type[AnyStatement], str]] = [
    ("first", Statement, "d60d37930d512e895735720d07676c921003550ddb672e7d13f98c71a663d7f6"),
    ("second", Statement, "25c8867fd5d1919a13a80f4322c182cb2e747c19f9ac7d8567c19ae43967d084"),
    (
        "rollback",
        RollbackStatement,
        "19f5981cc29575d4312cc26c7cac91a391fbd3abea9b5671fee85504c2203e27",
    ),
]


@pytest.mark.parametrize(("name", "kind", "digest"), KINDS)
def test_an_old_receipt_is_read(name: str, kind: type[AnyStatement], digest: str) -> None:
    """Under its key, by its digest."""
    raw = (SAMPLES / f"{name}.dsse.json").read_bytes()
    statement, found, _ = verify_statement(raw, kind, [public_key(KEY)], where="r")
    assert found == f"sha256:{digest}"
    if isinstance(statement, Statement):
        assert statement.predicate.promotes
        assert (statement.predicate.samples, statement.predicate.valid_for_days) == (UNSET, UNSET)


@pytest.mark.parametrize("name", ["first", "second", "rollback"])
def test_an_old_receipt_is_explained(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By `reprune check`, with the key on the command line, and not without."""
    monkeypatch.chdir(tmp_path)
    path = str(SAMPLES / f"{name}.dsse.json")
    assert main(["check", "-C", str(tmp_path), "--trust", KEY, "--json", path]) == 0
    said = json.loads(capsys.readouterr().out)
    held = {each["name"]: each["held"] for each in said["checks"]}
    assert (held["form"], held["signature"], held["type"], held["files"]) == (
        True,
        True,
        True,
        None,
    )
    assert held.get("validity") is None
    assert main(["check", "-C", str(tmp_path), path]) == 2
    assert "FAILS" in capsys.readouterr().out


def test_they_are_one_chain() -> None:
    """Each names the one before by the digest of its bytes."""
    named = []
    for name, kind, _ in KINDS:
        raw = (SAMPLES / f"{name}.dsse.json").read_bytes()
        statement, digest, _ = verify_statement(raw, kind, [public_key(KEY)], where="r")
        named.append((statement.predicate.predecessor, digest))  # type: ignore[attr-defined]
    assert [before for before, _ in named] == [None, named[0][1], named[1][1]]
