"""What a registry keeps stays readable for ever: one sample of each stored kind and schema."""

from __future__ import annotations

from pathlib import Path

import pytest

from reprune.core import store
from reprune.core.artifacts import KINDS
from reprune.core.documents import digest_of

SAMPLES = Path(__file__).parent / "samples"
STORED = {"ModelBundle", "Plan", "Profile", "Sensitivity", "Verdict", "Receipt"}


@pytest.mark.parametrize("path", sorted(SAMPLES.rglob("*.json")), ids=lambda path: path.stem)
def test_a_stored_manifest_is_still_read_as_what_it_was(path: Path) -> None:
    """Written by a real run; its kind, its fields and its digest are still understood."""
    manifest = store.decode_any(path.read_bytes(), name=path.name)
    assert type(manifest) is KINDS[path.stem]
    assert digest_of(manifest) == path.with_suffix(".digest").read_text().strip()


@pytest.mark.parametrize("kind", sorted(STORED))
def test_every_stored_schema_has_a_sample(kind: str) -> None:
    """Raising a schema without keeping a sample of the old one fails here."""
    for schema in range(1, KINDS[kind].SCHEMA + 1):
        assert (SAMPLES / f"v{schema}" / f"{kind}.json").exists()
