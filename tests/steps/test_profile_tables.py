"""profile with `tables`: what it leaves in the artefact, and what a planner makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import UNSET, structs

from reprune.compress.tables.layer_terms import table_of, terms_of
from reprune.core.errors import CompressionError
from reprune.core.machine import this_machine
from reprune.core.params import ProfileParams, TableParams, Target
from tests.measure.test_measuring_steps import PARAMS, World, put_data, put_dense

TARGETS = {"one": Target()}


@pytest.mark.slow
def test_profile_leaves_tables_that_give_a_latency_at_every_rung(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At full widths it is the measured latency; without `tables` there are none, and that is said."""
    monkeypatch.setenv("REPRUNE_WORK", str(tmp_path / "work"))
    world = World(tmp_path)
    dense = put_dense(world, "dense")
    put_data(world, "data", dense)
    tables = TableParams(builds=2, rounds=1, step=64)
    wanted = ProfileParams(calls=20, warmup_calls=2, tables=tables)
    params = structs.replace(PARAMS, targets=TARGETS, profile=wanted)
    found = world.step("profile", "profile", params=params, dense="dense", data="data")
    (fact,) = found.manifest.tables
    table = table_of(found, "one")
    assert (fact.target, fact.key, fact.builds) == ("one", table.key.digest, table.builds)
    assert table.builds <= 2
    rungs = {"0": (64, 128, 192, 256), "2": (64, 128, 192, 256)}
    assert table.key.machine_kind == this_machine(params.threads).kind
    terms = terms_of(table, rungs)
    assert terms({}) == pytest.approx(found.manifest.targets[0].latency_us, rel=0.05)
    assert all(terms({"0": a, "2": b}) < 2 * terms({}) for a in rungs["0"] for b in rungs["2"])
    without = structs.replace(params, profile=PARAMS.profile)
    plain = world.step("profile", "plain", params=without, dense="dense", data="data")
    assert plain.manifest.tables is UNSET
    with pytest.raises(CompressionError, match="no latency table of target 'one'"):
        table_of(plain, "one")
