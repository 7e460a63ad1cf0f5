"""Sets: which versions they have, what a lock pins of them, and the one model that their members make."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from string import ascii_letters, digits

import msgspec
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from reprune.core import store
from reprune.core.artifacts import MemberWeights, ModelBundle
from reprune.core.errors import (
    ChainBroken,
    CheckpointError,
    DocumentError,
    InputError,
    StaleLock,
    VersionNotFound,
)
from reprune.core.lock import label_of, read_lock
from reprune.core.params import read_params
from reprune.core.policy import read_policy
from reprune.core.step import Documents, for_shard, run
from reprune.registry.dense import register_dense
from reprune.registry.open import open_registry
from reprune.registry.protocol import Registry, VersionInfo
from reprune.registry.sets import find_members, join_weights, parts_of, set_versions
from reprune.steps.fetch import fetch_dense
from reprune.steps.fetch_members import fetch_member, join_members
from reprune.steps.update import update
from tests.registry.stand import write_repository, write_set

MEMBERS = {"depth": "depth-net", "detector": "detector"}
names = st.builds(
    str.__add__,
    st.sampled_from(ascii_letters + digits),
    st.text(ascii_letters + digits + "._-", max_size=20),
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository of a set, without any dense version."""
    write_set(tmp_path, MEMBERS)
    return tmp_path


@pytest.fixture
def source(root: Path) -> Registry:
    return open_registry(read_params(root / "params.yaml").registry, root)


def train(source: Registry, root: Path, model: str, value: float = 1.0) -> str:
    """Registers a dense version of one member, all of whose weights are `value`."""
    path = root / "w.safetensors"
    save_file({"first.weight": np.full((2, 3), value, np.float32)}, path)
    return register_dense(source, model, path)


def opened(root: Path) -> Documents:
    return Documents(
        root=root,
        params=read_params(root / "params.yaml"),
        policy=read_policy(root / "policy.yaml"),
        lock=read_lock(root / "reprune.lock.yaml"),
    )


@given(st.dictionaries(names, names, min_size=1, max_size=5))
def test_a_label_names_every_member(versions: dict[str, str]) -> None:
    assert parts_of(label_of(versions)) == versions


@pytest.mark.parametrize("label", ["", "7", "a=", "=1", "a=1+", "a=1+a=2", "a=1 b=2", "a==1"])
def test_what_is_no_label_is_refused(label: str) -> None:
    with pytest.raises(VersionNotFound, match="no version of a set"):
        parts_of(label)


def test_the_newest_of_each_or_those_that_are_named(source: Registry, root: Path) -> None:
    """A label may name only some members; the others are the newest."""
    for model in MEMBERS.values():
        train(source, root, model)
        train(source, root, model)
    newest = find_members(source, MEMBERS)
    assert {member: info.version for member, info in newest.items()} == {
        "depth": "2",
        "detector": "2",
    }
    some = find_members(source, MEMBERS, "detector=1")
    assert {member: info.version for member, info in some.items()} == {
        "depth": "2",
        "detector": "1",
    }
    with pytest.raises(VersionNotFound, match="no member 'detecter'"):
        find_members(source, MEMBERS, "detecter=1")
    with pytest.raises(VersionNotFound, match="no version 9 of 'detector'"):
        find_members(source, MEMBERS, "detector=9")


def test_members_have_one_order() -> None:
    """By their names, however they were given; and of several unknown ones the first is told."""
    registry = Listed({f"model-{n}": [1.0] for n in range(30)})
    members = {f"m{n:02}": f"model-{n}" for n in reversed(range(30))}
    assert list(find_members(registry, members)) == sorted(members)  # type: ignore[arg-type]  # lists only
    unknown = label_of({f"x{n:02}": "1" for n in range(30)})
    with pytest.raises(VersionNotFound, match="no member 'x00'"):
        find_members(registry, members, unknown)  # type: ignore[arg-type]  # as above


class Listed:
    """As much of a registry as versions of a set need: lists of given times."""

    identity = "listed"

    def __init__(self, times: dict[str, list[float | None]]) -> None:
        self.times = times

    def versions(self, name: str) -> tuple[VersionInfo, ...]:
        return tuple(
            VersionInfo(
                name=name, version=str(n), tags={"a": "b"}, stamp=f"{name}{n}", registered_s=at
            )
            for n, at in enumerate(self.times.get(name, []), start=1)
        )


def test_each_registration_of_a_member_is_a_version_of_the_set() -> None:
    """None before every member has one; each has the time of what made it."""
    registry = Listed({"depth-net": [1.0, 5.0], "detector": [2.0, 3.0]})
    found = set_versions(registry, "perception", MEMBERS)  # type: ignore[arg-type]  # lists only
    assert [(each.version, each.registered_s) for each in found] == [
        ("depth=1+detector=1", 2.0),
        ("depth=1+detector=2", 3.0),
        ("depth=2+detector=2", 5.0),
    ]
    assert {each.name for each in found} == {"perception"}
    assert all(each.tags == {} for each in found)
    assert not set_versions(Listed({"detector": [1.0]}), "perception", MEMBERS)  # type: ignore[arg-type]  # as above


times = st.lists(st.floats(0, 10) | st.none(), min_size=1, max_size=5)


@given(times, times)
def test_the_last_version_of_a_set_has_the_newest_of_each(
    depth: list[float | None], detector: list[float | None]
) -> None:
    """Whatever the clocks said: every registration counts once, and labels do not repeat."""
    registry = Listed({"depth-net": depth, "detector": detector})
    found = set_versions(registry, "perception", MEMBERS)  # type: ignore[arg-type]  # lists only
    labels = [each.version for each in found]
    assert labels[-1] == f"depth={len(depth)}+detector={len(detector)}"
    assert len(set(labels)) == len(labels) <= len(depth) + len(detector) - 1


@pytest.mark.slow
def test_the_lock_pins_every_member(source: Registry, root: Path) -> None:
    """A retrain of one member is a new lock in which the others stay as they were."""
    for model in MEMBERS.values():
        train(source, root, model)
    before = update(root).lock
    assert before.dense.version == "depth=1+detector=1"
    assert before.dense.members
    train(source, root, "detector", 2.0)
    after = update(root).lock
    assert after.dense.version == "depth=1+detector=2"
    assert after.dense.members
    assert after.dense.members["depth"] == before.dense.members["depth"]
    assert after.dense.weights != before.dense.weights
    assert after.digest != before.digest
    pinned = update(root, version="detector=1").lock
    assert pinned == before


def test_a_model_of_its_own_has_the_lock_that_it_always_had(tmp_path: Path) -> None:
    """No word about members: digests of old locks stay what they were."""
    write_repository(tmp_path)
    source = open_registry(read_params(tmp_path / "params.yaml").registry, tmp_path)
    train(source, tmp_path, "digits")
    lock = update(tmp_path).lock
    assert b"members" not in msgspec.json.encode(lock)


@pytest.mark.slow
def test_the_bundle_is_all_members_as_one(source: Registry, root: Path) -> None:
    """Every tensor under its member's name, bit for bit; the manifest names each member's digest."""
    train(source, root, "depth-net", 1.0)
    train(source, root, "detector", 2.0)
    lock = update(root).lock
    run(fetch_dense, {}, opened(root), root / "dense", say=lambda _: None)
    bundle = store.read(root / "dense", ModelBundle)
    tensors = load_file(bundle.file("weights.safetensors"))
    assert set(tensors) == {"depth.first.weight", "detector.first.weight"}
    assert (tensors["depth.first.weight"] == 1.0).all()
    assert (tensors["detector.first.weight"] == 2.0).all()
    assert bundle.manifest.members == lock.dense.members
    assert bundle.manifest.dense_version == "depth=1+detector=1"


@pytest.mark.slow
def test_a_member_that_was_swapped_is_no_longer_the_locked_one(
    source: Registry, root: Path
) -> None:
    for model in MEMBERS.values():
        train(source, root, model)
    update(root)
    swapped = root / ".reprune" / "registry"
    (file,) = (swapped).rglob("detector/**/*.safetensors")
    file.chmod(0o644)
    save_file({"first.weight": np.full((2, 3), 9.0, np.float32)}, file)
    with pytest.raises(StaleLock, match="other weights under this version"):
        run(fetch_dense, {}, opened(root), root / "dense", say=lambda _: None)


def apart(root: Path, which: str, folder: str = "") -> Path:
    """One member, fetched on its own."""
    out = root / (folder or f"member-{which.replace('/', '-of-')}")
    run(for_shard(fetch_member, which), {}, opened(root), out, say=lambda _: None)
    return out


def joined(root: Path, members: list[Path], out: Path) -> ModelBundle:
    run(join_members, {"members": members}, opened(root), out, say=lambda _: None)
    return store.read(out, ModelBundle).manifest


@pytest.mark.slow
def test_members_fetched_apart_make_the_same_bundle(source: Registry, root: Path) -> None:
    """In any order, byte for byte, its producer and parents too; each part holds one member alone."""
    train(source, root, "depth-net", 1.0)
    train(source, root, "detector", 2.0)
    update(root)
    run(fetch_dense, {}, opened(root), root / "whole", say=lambda _: None)
    parts = [apart(root, "1/2"), apart(root, "0/2")]
    kinds = [store.read(part, MemberWeights).manifest for part in parts]
    assert [(each.member, each.model, each.version) for each in kinds] == [
        ("detector", "detector", "1"),
        ("depth", "depth-net", "1"),
    ]
    joined(root, parts, root / "joined")
    for path in store.files(root / "whole"):
        name = path.relative_to(root / "whole")
        assert (root / "joined" / name).read_bytes() == path.read_bytes(), name
    assert len(store.files(root / "joined")) == len(store.files(root / "whole"))


@pytest.mark.slow
def test_members_that_do_not_make_the_locked_set_are_refused(source: Registry, root: Path) -> None:
    """One missing, one twice, one of another version, and one that lies about which it is."""
    for model in MEMBERS.values():
        train(source, root, model, 1.0)
    update(root)
    depth, detector = apart(root, "0/2"), apart(root, "1/2")
    train(source, root, "detector", 2.0)
    update(root)
    newer = apart(root, "1/2", "newer")
    out = root / "out"
    for members, said in (
        ([depth], "the member 'detector' is missing"),
        ([depth, newer, depth], "the member 'depth' is given twice"),
        ([depth, detector], "'detector' is not what the lock pins for it, detector version 2"),
    ):
        with pytest.raises(ChainBroken, match=said):
            joined(root, members, out)
        assert not out.exists()
    found = store.read(newer, MemberWeights)
    with store.drafting(root / "liar") as draft:
        save_file({"first.weight": np.full((2, 3), 3.0, np.float32)}, draft / "weights.safetensors")
        store.write(
            draft,
            found.manifest,
            step="fetch-member",
            parents={},
            out=root / "liar",
            knobs=found.manifest.producer.knobs,
        )
    with pytest.raises(ChainBroken, match="'detector' is not what the lock pins"):
        joined(root, [depth, root / "liar"], out)
    joined(root, [newer, depth], out)


@pytest.mark.slow
def test_a_member_is_one_of_as_many_as_the_lock_pins(source: Registry, root: Path) -> None:
    """No other count, and nothing of what is no set."""
    for model in MEMBERS.values():
        train(source, root, model)
    lock = update(root).lock
    with pytest.raises(InputError, match="the lock pins 2 members, and this is one of 3"):
        apart(root, "0/3")
    single = msgspec.structs.replace(lock.dense, members=msgspec.UNSET)
    documents = replace(opened(root), lock=msgspec.structs.replace(lock, dense=single))
    with pytest.raises(InputError, match="is one model, and has no members"):
        run(for_shard(fetch_member, "0/1"), {}, documents, root / "out", say=lambda _: None)


@pytest.mark.slow
def test_a_lock_whose_members_were_edited_is_refused(source: Registry, root: Path) -> None:
    """The digest of the whole must be theirs, and the version must say which members they are."""
    for model in MEMBERS.values():
        train(source, root, model)
    lock = update(root).lock
    other = msgspec.structs.replace(lock.dense, weights="sha256:" + "0" * 64)
    documents = replace(opened(root), lock=msgspec.structs.replace(lock, dense=other))
    with pytest.raises(StaleLock, match="the members' weights together"):
        run(fetch_dense, {}, documents, root / "dense", say=lambda _: None)
    path = root / "reprune.lock.yaml"
    path.write_text(path.read_text().replace("version: depth=1+detector=1", "version: any=99"))
    with pytest.raises(DocumentError, match="the members are depth=1"):
        read_lock(path)


@pytest.mark.slow
def test_the_lock_names_the_weights_as_the_bundle_has_them(source: Registry, root: Path) -> None:
    """Which the gate compares."""
    for model in MEMBERS.values():
        train(source, root, model)
    lock = update(root).lock
    run(fetch_dense, {}, opened(root), root / "dense", say=lambda _: None)
    bundle = store.read(root / "dense", ModelBundle)
    assert bundle.manifest.payload["weights.safetensors"] == lock.dense.weights
    assert update(root).lock == lock


@pytest.mark.parametrize("odd", [np.float32, np.float16, np.int8])
def test_joined_weights_keep_every_bit(tmp_path: Path, odd: type[np.generic]) -> None:
    """Tensors of all sizes and kinds, also where one part does not end on a multiple of eight bytes."""
    first = {"a": np.arange(7, dtype=odd), "b": np.arange(3, dtype=np.float32)}
    save_file(first, tmp_path / "one.safetensors")
    save_file({"a": np.arange(5, dtype=np.float64)}, tmp_path / "two.safetensors")
    parts = {"one": tmp_path / "one.safetensors", "two": tmp_path / "two.safetensors"}
    join_weights(parts, tmp_path / "all.safetensors")
    found = load_file(tmp_path / "all.safetensors")
    for name, tensor in first.items():
        assert np.array_equal(found[f"one.{name}"], tensor)
    assert np.array_equal(found["two.a"], np.arange(5, dtype=np.float64))


@pytest.mark.parametrize("member", ["a", "ab", "abc", "abcd", "abcde"])
def test_the_data_begins_on_a_multiple_of_eight(tmp_path: Path, member: str) -> None:
    """As the format wants it, with no more spaces than that takes."""
    save_file({"w": np.ones(3, np.float32)}, tmp_path / "one.safetensors")
    join_weights({member: tmp_path / "one.safetensors"}, tmp_path / "all.safetensors")
    raw = (tmp_path / "all.safetensors").read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = raw[8 : 8 + size]
    assert size % 8 == 0
    assert 0 <= size - len(header.rstrip()) < 8
    assert len(raw) == 8 + size + 12


def test_tensors_lie_as_their_offsets_say(tmp_path: Path) -> None:
    """Not in the order in which a header names them."""
    header = (
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]},'
        b'"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    )
    header += b" " * (-len(header) % 8)
    data = np.array([1.0, 2.0], np.float32).tobytes()
    part = tmp_path / "one.safetensors"
    part.write_bytes(len(header).to_bytes(8, "little") + header + data)
    assert load_file(part)["b"] == 1.0
    join_weights({"one": part}, tmp_path / "all.safetensors")
    found = load_file(tmp_path / "all.safetensors")
    assert (found["one.a"], found["one.b"]) == (2.0, 1.0)


def test_together_they_have_the_limits_of_one_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reprune.registry.weights.MAX_TENSORS", 1)
    save_file({"a": np.ones(2, np.float32)}, tmp_path / "one.safetensors")
    parts = {"one": tmp_path / "one.safetensors", "two": tmp_path / "one.safetensors"}
    with pytest.raises(CheckpointError, match="holds 2 tensors"):
        join_weights(parts, tmp_path / "all.safetensors")


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({}, "names no member"),
        ({"a": "digits", "b": "b"}, "a member of itself"),
        ({"a": "x", "b": "x"}, "names the model 'x' twice"),
        ({"a.b": "x"}, "has a dot in its name"),
        ({"latency": "x"}, "as a section of the policy is"),
    ],
)
def test_sets_that_make_no_sense_are_refused(
    root: Path, members: dict[str, str], words: str
) -> None:
    path = root / "params.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"members": members}))
    with pytest.raises(DocumentError, match=words) as refused:
        read_params(path)
    assert "members" in str(refused.value)
