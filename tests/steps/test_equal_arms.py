"""Arms that are compared were made in the same way, as far as their engines' records tell."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from reprune.core.artifacts import BuildFact
from reprune.core.errors import ChainBroken
from reprune.steps.looking import refuse_unequal


def engines(key: str, **values: str) -> SimpleNamespace:
    """The engines of one target, of which each arm tells `key`."""
    facts = [
        SimpleNamespace(arm=arm, target="t", built=BuildFact(details={key: value} if value else {}))
        for arm, value in values.items()
    ]
    return SimpleNamespace(manifest=SimpleNamespace(engines=tuple(facts)), path=Path("engines"))


@pytest.mark.parametrize("key", ["TF32", "profile", "converter", "quantiser"])
def test_arms_that_were_made_otherwise_are_refused(key: str) -> None:
    """One from the cache and one from after an upgrade: they would differ by more than the compression."""
    refuse_unequal(engines(key, candidate="1", dense="1"))  # type: ignore[arg-type]
    refuse_unequal(engines(key, candidate="1", dense=""))  # type: ignore[arg-type]
    with pytest.raises(ChainBroken, match=rf"{key} is 2 \(candidate\), 1 \(dense\)") as caught:
        refuse_unequal(engines(key, candidate="2", dense="1"))  # type: ignore[arg-type]
    assert "run build again" in caught.value.fix
