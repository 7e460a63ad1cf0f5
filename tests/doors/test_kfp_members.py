"""The components that only a set has: each member on its own, then all as one; nothing wrong is taken."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path

import pytest

from reprune.core import store
from reprune.core.artifacts import KINDS, MemberWeights, ModelBundle, Previous
from reprune.core.errors import EXIT_DONE, EXIT_INPUT
from reprune.core.params import read_params
from reprune.doors.kfp.run import Texts
from reprune.registry.dense import register_dense
from reprune.registry.open import open_registry
from reprune.steps.update import update
from tests.artefact_faults import faults_of
from tests.component_run import (
    Ended,
    call,
    complaints,
    component_of,
    copied,
    surroundings,
    texts_of,
)
from tests.killing import server
from tests.registry import stand
from tests.repository import inside

MEMBERS = {"depth": "depth-net", "detector": "detector"}
# By the number of the member, which is that of its name: see component_run.SHARDS.
NUMBERS = ("a", "b")
EVERY = os.environ.get("REPRUNE_DEEP") == "1"


@dataclass(frozen=True)
class Fetched:
    """Two locks of one set, the later with a newer detector, and both members of the first."""

    root: Path
    first: Texts
    second: Texts
    members: list[Path]

    def set_of(self, members: list[Path], out: Path, texts: Texts | None = None) -> Ended:
        return call("fetch_set", texts or self.first, {"members": members}, out, root=self.root)

    def member(self, number: str, out: Path, texts: Texts | None = None) -> Ended:
        return call("fetch_member", texts or self.first, {}, out, root=self.root, machine=number)


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Fetched:
    root = tmp_path_factory.mktemp("members") / "repo"
    stand.write_set(root, MEMBERS)
    registry = open_registry(read_params(root / "params.yaml").registry, root)
    weights = root.parent / "w.safetensors"
    for number, model in enumerate(MEMBERS.values()):
        register_dense(registry, model, stand.write_weights(weights, number))
    with surroundings(root), inside(root):
        update(root)
        first = texts_of(root)
        register_dense(registry, "detector", stand.write_weights(weights, 7.0))
        update(root)
        second = texts_of(root)
    made = Fetched(root, first, second, [])
    for number in NUMBERS:
        out = root.parent / f"member-{number}"
        ended = made.member(number, out)
        assert ended.code == EXIT_DONE, ended.said
        made.members.append(out / "weights")
    return made


@pytest.fixture
def places(tmp_path: Path) -> Iterator[Path]:
    return (tmp_path / f"row-{number}" for number in count())


@pytest.mark.slow
def test_members_fetched_in_tasks_of_their_own_make_the_set(
    fetched: Fetched, tmp_path: Path
) -> None:
    """The very artefacts of the component that fetches all of it at once."""
    ended = fetched.set_of(fetched.members[::-1], tmp_path / "set")
    assert ended.code == EXIT_DONE, ended.said
    ended = call("fetch_model", fetched.first, {}, tmp_path / "model", root=fetched.root)
    assert ended.code == EXIT_DONE, ended.said
    for name, kind in (("dense", ModelBundle), ("previous", Previous)):
        apart, at_once = (store.read(tmp_path / each / name, kind) for each in ("set", "model"))
        assert apart.digest == at_once.digest


@pytest.mark.slow
def test_artefacts_that_stay_in_a_workspace_are_found_there(
    fetched: Fetched, tmp_path: Path
) -> None:
    volume = str(tmp_path / "volume")
    for number in NUMBERS:
        ended = call(
            "fetch_member", fetched.first, {}, tmp_path / number,
            root=fetched.root, machine=number, workspace=volume,
        )  # fmt: skip
        assert ended.code == EXIT_DONE, ended.said
    given = {"members": [tmp_path / number / "weights" for number in NUMBERS]}
    out = tmp_path / "set"
    ended = call("fetch_set", fetched.first, given, out, root=fetched.root, workspace=volume)
    assert ended.code == EXIT_DONE, ended.said
    assert [path.name for path in (out / "dense").iterdir()] == ["reference.json"]


@pytest.mark.slow
def test_no_broken_or_foreign_member_is_taken(
    fetched: Fetched, places: Iterator[Path], tmp_path: Path
) -> None:
    """Half an artefact in every way, other kinds, one left out, one twice; in either place."""
    assert fetched.set_of(fetched.members, tmp_path / "whole").code == EXIT_DONE
    wrong, rows = [], 0
    for place, whole in enumerate(fetched.members):
        cases = {name: copied(whole, next(places) / "given") for name in faults_of(whole)}
        for name, folder in cases.items():
            faults_of(whole)[name](folder)
        cases |= {name: tmp_path / "whole" / name for name in ("dense", "previous")}
        for name, folder in cases.items():
            given = [*fetched.members[:place], folder, *fetched.members[place + 1 :]]
            out = next(places)
            wrong += [
                f"{name}: {e}" for e in complaints(fetched.set_of(given, out), out, str(folder))
            ]
            rows += 1
    first, second = fetched.members
    for given in ([], [first], [second], [first, first], [first, second, first]):
        out = next(places)
        wrong += [
            f"{len(given)}: {e}" for e in complaints(fetched.set_of(given, out), out, "member")
        ]
    assert wrong == []
    assert rows > 30


def test_no_member_of_another_run_is_taken(fetched: Fetched, places: Iterator[Path]) -> None:
    """Neither all of them under a newer lock, nor one that a newer lock pins among those of this one."""
    out = next(places)
    ended = fetched.set_of(fetched.members, out, fetched.second)
    assert complaints(ended, out, "input 'members'") == []
    assert "is of another run" in ended.last
    newer = next(places)
    assert fetched.member("b", newer, fetched.second).code == EXIT_DONE
    out = next(places)
    ended = fetched.set_of([fetched.members[0], newer / "weights"], out)
    assert complaints(ended, out, "is of another run") == []


@pytest.mark.slow
@pytest.mark.parametrize("component", ["fetch_member", "fetch_set"])
def test_a_task_killed_at_a_write_leaves_nothing_or_all(
    fetched: Fetched, tmp_path: Path, component: str
) -> None:
    """Killed before some of its writes, deep before each; then again there, to the same digest."""
    names = ("weights",) if component == "fetch_member" else ("dense", "previous")
    inputs = {} if component == "fetch_member" else {"members": [*map(str, fetched.members)]}
    asked = {
        "name": component,
        "texts": asdict(fetched.first),
        "inputs": inputs,
        "root": str(fetched.root),
        "machine": "a",
    }
    with server() as forks:
        once = forks.die({**asked, "out": str(tmp_path / "once")}, None)
        assert once.code == EXIT_DONE
        wanted = [digest_in(tmp_path / "once" / name) for name in names]
        assert None not in wanted
        last = max(at for at, write in enumerate(once.writes) if write.startswith("os.rename"))
        drawn = random.Random(component).sample(range(last), 6)
        for at in range(len(once.writes)) if EVERY else sorted({*drawn, last}):
            out = tmp_path / f"at-{at}"
            again = {**asked, "out": str(out)}
            assert forks.die(again, at).killed, at
            found = [digest_in(out / name) for name in names]
            assert all(a in (None, b) for a, b in zip(found, wanted, strict=True)), at
            assert forks.die(again, None).code == EXIT_DONE
            assert [digest_in(out / name) for name in names] == wanted, at


def digest_in(folder: Path) -> str | None:
    """Of the artefact in `folder`; None where there is none. Raises for half of one."""
    if not (folder / store.MANIFEST).exists():
        return None
    kind = json.loads((folder / store.MANIFEST).read_bytes())["kind"]
    return store.read(folder, KINDS[kind]).digest


@pytest.mark.parametrize("component", ["fetch_member", "fetch_set"])
@pytest.mark.parametrize("missing", ["lock", "params", "policy", "all exchanged"])
def test_no_wrong_text_is_taken(
    fetched: Fetched, places: Iterator[Path], component: str, missing: str
) -> None:
    lock, params, policy = (getattr(fetched.first, name) for name in ("lock", "params", "policy"))
    given = {"lock": lock, "params": params, "policy": policy} | {missing: ""}
    texts = (
        Texts(params, policy, lock)
        if missing == "all exchanged"
        else Texts(given["lock"], given["params"], given["policy"])
    )
    out = next(places)
    ended = (
        fetched.member("a", out, texts)
        if component == "fetch_member"
        else fetched.set_of(fetched.members, out, texts)
    )
    assert complaints(ended, out) == []


def test_a_member_is_fetched_with_nothing_but_its_own_model(
    fetched: Fetched, tmp_path: Path
) -> None:
    """As with a secret that may read no other: where the others cannot be read, it makes the same."""
    hidden = fetched.root / ".reprune" / "registry"
    others = [path for path in hidden.rglob("*") if path.is_dir() and path.name == "depth-net"]
    assert others
    others[0].rename(others[0].with_name("gone"))
    try:
        ended = fetched.member("b", tmp_path / "out")
        assert ended.code == EXIT_DONE, ended.said
        refused = fetched.member("a", tmp_path / "refused")
    finally:
        others[0].with_name("gone").rename(others[0])
    again = store.read(tmp_path / "out" / "weights", MemberWeights)
    assert again.digest == store.read(fetched.members[1], MemberWeights).digest
    assert refused.code == EXIT_INPUT
    assert "depth-net" in refused.last


@pytest.mark.parametrize(
    ("member", "expected"),
    [
        ({"name": "depth"}, ("0/2", "the-runs")),
        ({"name": "detector", "read_secret": "its-own"}, ("1/2", "its-own")),
        ({"name": "detector", "read_secret": ""}, ("1/2", "the-runs")),
    ],
)
def test_a_member_is_chosen_with_its_secret(
    fetched: Fetched, member: dict[str, str], expected: tuple[str, str]
) -> None:
    chosen = component_of("choose_member").python_func(fetched.first.params, member, "the-runs")
    assert tuple(chosen) == expected


@pytest.mark.parametrize(
    ("member", "params", "said"),
    [
        ({"name": "detecter"}, "", "the set has no member 'detecter'; did you mean 'detector'"),
        ({"secret": "x"}, "", "unknown field `secret`"),
        ({}, "", "missing required field `name`"),
        ({"name": "depth"}, stand.PARAMS, "names no members: this is one model, and no set"),
        ({"name": "depth"}, "members: 3", "error: choose-member: "),
    ],
)
def test_a_wrong_entry_ends_the_task_and_says_why(
    fetched: Fetched,
    member: dict[str, str],
    params: str,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    component = component_of("choose_member")
    with pytest.raises(SystemExit) as ended:
        component.python_func(params or fetched.first.params, member, "the-runs")
    assert ended.value.code == EXIT_INPUT
    last = capsys.readouterr().err.rstrip().rpartition("\n")[2]
    assert said in last
    assert "To fix: " in last
