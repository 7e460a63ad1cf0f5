"""profile with `tables`: what it leaves in the artefact, and what a planner makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import UNSET, UnsetType, structs

from reprune.compress.tables.layer_terms import table_of, terms_of
from reprune.core import store
from reprune.core.artifacts import ModelBundle, Previous, TimesReuse, VerdictSummary
from reprune.core.errors import CompressionError
from reprune.core.lock import ChampionRef
from reprune.core.machine import this_machine
from reprune.core.params import GenerationsParams, ProfileParams, TableParams, Target
from reprune.steps.known_times import earlier_table
from tests.measure.test_measuring_steps import (
    NO_DIGEST,
    PARAMS,
    World,
    put_data,
    put_dense,
    put_previous,
)

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
    put_previous(world, "none")
    given = {"dense": "dense", "data": "data", "previous": "none"}
    tables = TableParams(builds=2, rounds=1, step=64)
    wanted = ProfileParams(calls=20, warmup_calls=2, tables=tables)
    params = structs.replace(PARAMS, targets=TARGETS, profile=wanted)
    found = world.step("profile", "profile", params=params, **given)
    (fact,) = found.manifest.tables
    table = table_of(found, "one")
    assert (fact.target, fact.key, fact.builds) == ("one", table.key.digest, table.builds)
    assert table.builds <= 2
    assert fact.reuse is UNSET
    rungs = {"0": (64, 128, 192, 256), "2": (64, 128, 192, 256)}
    assert table.key.machine_kind == this_machine(params.threads).kind
    terms = terms_of(table, rungs)
    assert terms({}) == pytest.approx(found.manifest.targets[0].latency_us, rel=0.05)
    assert all(terms({"0": a, "2": b}) < 2 * terms({}) for a in rungs["0"] for b in rungs["2"])
    without = structs.replace(params, profile=PARAMS.profile)
    plain = world.step("profile", "plain", params=without, **given)
    assert plain.manifest.tables is UNSET
    with pytest.raises(CompressionError, match="no latency table of target 'one'"):
        table_of(plain, "one")


@pytest.mark.slow
def test_a_later_generation_takes_the_champions_tables_over_or_says_why_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a busy machine times decides whether they hold, so only what follows from it is asked here."""
    monkeypatch.setenv("REPRUNE_WORK", str(tmp_path / "work"))
    world = World(tmp_path)
    put_data(world, "data", put_dense(world, "dense"))
    put_data(world, "later-data", put_dense(world, "later", seed=1, version="2"))
    put_previous(world, "none")
    tables = TableParams(builds=1, rounds=1, step=64)
    params = structs.replace(
        PARAMS,
        targets=TARGETS,
        profile=ProfileParams(calls=20, warmup_calls=2, tables=tables),
        generations=GenerationsParams(latency_tolerance=0.9),
    )
    given = {"dense": "dense", "data": "data", "previous": "none"}
    first = world.step("profile", "first", params=params, **given)
    (fact,) = first.manifest.tables
    assert isinstance(fact.reuse, TimesReuse)
    assert (fact.reuse.how, fact.reuse.full_builds) == ("measured", fact.builds)
    assert fact.reuse.why == "there is no champion yet"

    ref = ChampionRef(version="1", bundle=NO_DIGEST, receipt=NO_DIGEST)
    manifest = Previous(
        name="tiny", dense_version="2", champion=ref, anchor=None, attempts=0, history=()
    )
    world.put("previous", manifest, lambda out: store.copy_into(first, out / "profile/0"))
    given = {"dense": "later", "data": "later-data", "previous": "previous"}
    second = world.step("profile", "second", params=params, **given)
    (later,) = second.manifest.tables
    reuse = later.reuse
    assert len(reuse.checked) == 1
    assert (reuse.how == "reused") == (reuse.checked[0].off <= 0.9)
    if reuse.how == "reused":
        assert (reuse.age, reuse.source, reuse.built) == (1, first.digest, 1)
        assert later.key == fact.key
        mine, theirs = (table_of(one, "one") for one in (second, first))
        assert mine.times == theirs.times
        rungs = {"0": (64, 256), "2": (64, 256)}
        told = second.manifest.targets[0].latency_us
        assert terms_of(mine, rungs)({}) == pytest.approx(told, rel=0.05)

    def found(name: str, knobs: GenerationsParams | UnsetType, target: str = "one") -> object:
        dense, given = (
            store.read(world.path(each), kind)
            for each, kind in (("later", ModelBundle), (name, Previous))
        )
        return earlier_table(given, dense, target, knobs)

    judged = structs.replace(manifest, history=(_judged("1"), _judged("1a")))
    world.put("aged", judged, lambda out: store.copy_into(first, out / "profile/0"))
    cold = found("aged", GenerationsParams(cold_every=2))
    assert cold == "that was last done 2 generations ago (generations.cold_every)"
    world.put("lost", manifest, lambda out: None)
    warm = GenerationsParams()
    for name, target in (("lost", "one"), ("previous", "two")):
        assert (
            found(name, warm, target)
            == "the registry holds no latency tables of the champion's for it"
        )
    assert found("previous", UNSET) is UNSET
    assert found("previous", GenerationsParams(reuse=False)) is UNSET


def _judged(version: str) -> VerdictSummary:
    return VerdictSummary(
        dense_version=version,
        compressed_version=version,
        outcome="pass",
        verdict=NO_DIGEST,
        reasons=(),
        promoted=version == "1",
    )
