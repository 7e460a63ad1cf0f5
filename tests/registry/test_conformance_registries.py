"""What every adapter promises, shown on all three; and what the Kubeflow one does when its service fails."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from reprune.core.errors import (
    ChampionForeign,
    DocumentError,
    InputError,
    PayloadCorrupt,
    RegistryError,
    RegistryUnreachable,
    VersionNotFound,
)
from reprune.core.http import Backoff
from reprune.core.params import Registry as Section
from reprune.registry import model_registry_api
from reprune.registry.compressed import champion
from reprune.registry.model_registry import TITLE, TOKEN_FILE, ModelRegistry
from reprune.registry.open import open_registry
from reprune.registry.protocol import Registry, known_versions
from reprune.registry.tags import CLOSED, RECEIPT, RECORD
from tests.model_registry_server import ModelRegistryServer
from tests.registry.promotion import COMPRESSED, promoted, ready, registry_of, with_params

Folder = Callable[..., Path]
KINDS = ["files", "mlflow", "kubeflow"]
QUICK = Backoff(first_s=0.001, longest_s=0.002, tries=2)


@dataclass
class World:
    """A registry of one kind in its own repository."""

    section: Section
    root: Path

    def open(self, **changes: Any) -> Registry:
        opened = open_registry(msgspec.structs.replace(self.section, **changes), self.root)
        if isinstance(opened, ModelRegistry):
            return replace(opened, service=replace(opened.service, backoff=QUICK))
        return opened


@pytest.fixture
def server() -> Iterator[ModelRegistryServer]:
    with ModelRegistryServer() as started:
        yield started


@pytest.fixture(params=KINDS)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    root = tmp_path / "repo"
    if request.param == "mlflow":
        return World(request.getfixturevalue("mlflow_section"), root)
    if request.param == "files":
        return World(Section(kind="files", uri=".reprune/registry"), root)
    return _kubeflow(request.getfixturevalue("server"), root)


@pytest.fixture
def kubeflow(server: ModelRegistryServer, tmp_path: Path) -> ModelRegistry:
    opened = _kubeflow(server, tmp_path / "repo").open()
    assert isinstance(opened, ModelRegistry)
    return opened


def _kubeflow(server: ModelRegistryServer, root: Path) -> World:
    (root / "store").mkdir(parents=True)
    return World(Section(kind="kubeflow", uri=server.url, artifacts="store"), root)


def tree(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_versions_are_listed_and_come_back_whole_or_in_part(
    world: World, folder: Folder, tmp_path: Path
) -> None:
    """Newest last over several pages, tags from the start, files under their own paths."""
    registry, before = world.open(), time.time()
    made = [registry.register("digits", folder(), {"n": str(n)}) for n in range(5)]
    infos = registry.versions("digits")
    assert [(info.version, info.tags["n"]) for info in infos] == list(
        zip(made, "01234", strict=True)
    )
    assert len({info.stamp for info in infos}) == 5
    times = [info.registered_s or 0.0 for info in infos]
    assert times == sorted(times)
    # As the clock of whoever registers has it; a file system's may be a little behind.
    assert before - 60.0 <= times[0] <= times[-1] <= time.time() + 60.0
    registry.fetch("digits", made[0], tmp_path / "whole")
    registry.fetch("digits", made[0], tmp_path / "part", part="sub")
    registry.fetch("digits", made[0], tmp_path / "file", part="sub/b")
    assert tree(tmp_path / "whole") == {"a": b"alpha", "sub/b": b"beta"}
    assert tree(tmp_path / "part") == tree(tmp_path / "file") == {"sub/b": b"beta"}


def test_what_is_not_there_is_said_so(world: World, folder: Folder, tmp_path: Path) -> None:
    """A model, a version, a part, another model's version: VersionNotFound each time."""
    registry = world.open()
    version = registry.register("digits", folder(), {})
    registry.register("letters", folder(), {})
    asked: list[Callable[[], object]] = [
        lambda: registry.versions("digit"),
        lambda: registry.alias("digit", "champion"),
        lambda: registry.fetch("digits", "999", tmp_path / "x"),
        lambda: registry.fetch("digits", version, tmp_path / "x", part="zip"),
        lambda: registry.set_alias("digits", "champion", "999"),
        lambda: registry.set_tags("digits", "999", {"a": "b"}),
    ]
    for ask in asked:
        with pytest.raises(VersionNotFound):
            ask()
    assert registry.alias("digits", "champion") is None


@pytest.mark.parametrize(
    "name", ["../digits", "", "a/b", "{{x}}", "${HOME}", "x' OR name LIKE '%", "a\nb"]
)
def test_names_are_names_and_nothing_else(
    world: World, folder: Folder, tmp_path: Path, name: str
) -> None:
    """No name, version or part is ever a path, a template or a filter."""
    registry = world.open()
    version = registry.register("digits", folder(), {})
    with pytest.raises(VersionNotFound):
        registry.versions(name)
    with pytest.raises(VersionNotFound):
        registry.register(name, folder(), {})
    with pytest.raises(VersionNotFound):
        registry.fetch("digits", name, tmp_path / "x")
    for part in (f"../{version}", "/etc", "a/../../x"):
        with pytest.raises(VersionNotFound):
            registry.fetch("digits", version, tmp_path / "x", part=part)
    assert not (tmp_path / "x").exists() or tree(tmp_path / "x") == {}


def test_an_alias_moves_and_tags_add_up(world: World, folder: Folder) -> None:
    """The alias reads as it was set last; tags join those from the creation; both in a fresh reader."""
    registry = world.open()
    first, second = (registry.register("digits", folder(), {"a": "1"}) for _ in range(2))
    registry.set_alias("digits", "champion", first)
    registry.set_alias("digits", "anchor", first)
    registry.set_alias("digits", "champion", second)
    registry.set_tags("digits", first, {"b": "2"})
    registry.set_tags("digits", first, {"b": "3", "c": "{{4}}"})
    again = world.open()
    assert again.alias("digits", "champion") == second
    assert again.alias("digits", "anchor") == first
    assert {"a": "1", "b": "3", "c": "{{4}}"}.items() <= again.versions("digits")[0].tags.items()
    again.fetch("digits", first, world.root / "back")
    assert tree(world.root / "back") == {"a": b"alpha", "sub/b": b"beta"}


@pytest.mark.parametrize("world", ["files", "kubeflow"], indirect=True)
def test_registrations_at_once_all_arrive(world: World, folder: Folder) -> None:
    """Writers at the same time get a version each; none is lost and none is mixed."""
    content = [folder(f"c{n}", a=str(n).encode()) for n in range(4)]
    world.open().register("digits", folder(), {})
    found: list[str] = []

    def register(n: int) -> None:
        found.append(world.open().register("digits", content[n], {"n": str(n)}))

    threads = [threading.Thread(target=register, args=(n,)) for n in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    registry = world.open()
    infos = registry.versions("digits")[1:]
    assert sorted(info.version for info in infos) == sorted(found)
    for info in infos:
        registry.fetch("digits", info.version, world.root / info.version)
        assert tree(world.root / info.version) == {"a": info.tags["n"].encode()}


def test_too_large_and_too_many_is_refused_before_anything_is_written(
    world: World, folder: Folder, tmp_path: Path
) -> None:
    """On the way in and on the way out; a file that claims terabytes is refused by its size alone."""
    content = folder(a=b"x" * 3000, b=b"y")
    version = world.open().register("digits", content, {})
    for changes, word in (
        ({"max_bytes": 2000}, "larger than 2000"),
        ({"max_files": 1}, "more than 1"),
    ):
        small = world.open(**changes)
        with pytest.raises(RegistryError, match=word):
            small.fetch("digits", version, tmp_path / "x")
        with pytest.raises(RegistryError, match=word):
            small.register("digits", content, {})
    bomb = folder("bomb", w=b"")
    os.truncate(bomb / "w", 2**42)
    with pytest.raises(RegistryError, match="larger than"):
        world.open().register("digits", bomb, {})
    assert not (tmp_path / "x").exists()
    assert len(world.open().versions("digits")) == 1


def test_links_and_devices_in_a_version_are_refused(
    world: World, folder: Folder, tmp_path: Path
) -> None:
    """What somebody put into the store is not followed, as a file, as a folder or above the part."""
    registry = world.open()
    version = registry.register("digits", folder(x__y=b"1"), {})
    (stored,) = world.root.rglob("x")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "y").write_text("secret")
    (stored / "y").unlink()
    (stored / "y").symlink_to(tmp_path / "outside" / "y")
    with pytest.raises(RegistryError, match="links"):
        registry.fetch("digits", version, tmp_path / "out")
    (stored / "y").unlink()
    stored.rmdir()
    stored.symlink_to(tmp_path / "outside")
    with pytest.raises(RegistryError, match="links"):
        registry.fetch("digits", version, tmp_path / "out", part="x/y")
    stored.unlink()
    os.mkfifo(stored)
    with pytest.raises(RegistryError, match="plain files"):
        registry.fetch("digits", version, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_promoted_twice_is_promoted_once_and_a_hand_moved_alias_is_foreign(
    world: World, monkeypatch: pytest.MonkeyPatch, folder: Folder
) -> None:
    """End to end: the second promote changes nothing; an alias on a version without receipt is refused."""
    section = msgspec.json.encode(world.section).decode()
    with_params(monkeypatch, f"name: digits\ntask: task.digits:DigitsTask\nregistry: {section}\n")
    ready(world.root)
    first = promoted(world.root)
    again = promoted(world.root)
    assert (first.promoted, again.promoted, again.already_done) == (True, True, True)
    assert first.compressed_version == again.compressed_version == again.champion_after
    registry = registry_of(world.root)
    assert len(registry.versions(COMPRESSED)) == 1
    holder = champion(registry, "digits")
    assert holder is not None
    assert holder.info.version == first.compressed_version
    registry.set_alias(COMPRESSED, "champion", registry.register(COMPRESSED, folder(), {}))
    with pytest.raises(ChampionForeign):
        champion(registry, "digits")


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 409, 429, 500, 503])
def test_a_refusal_is_never_read_as_none(
    server: ModelRegistryServer, kubeflow: ModelRegistry, folder: Folder, status: int
) -> None:
    """Whatever the status, reading is unreachable, also a 404 that is not the registry's own word."""
    kubeflow.register("digits", folder(), {})
    for ask in (kubeflow.versions, lambda name: kubeflow.alias(name, "champion")):
        server.fail("GET", "/registered_model", times=2, status=status)
        with pytest.raises(RegistryUnreachable):
            ask("digits")
        server.faults.clear()
    server.fail("GET", "/versions", times=2, status=status)
    with pytest.raises(RegistryUnreachable):
        known_versions(kubeflow, "digits")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}",
        b"[]",
        b"<html>",
        b"\xff",
        b'{"items": null}',
        b'{"id": "../1", "name": "digits"}',
    ],
)
def test_garbage_is_unreachable(
    server: ModelRegistryServer, kubeflow: ModelRegistry, folder: Folder, raw: bytes
) -> None:
    """An empty object or a login page with status 200 is no answer."""
    kubeflow.register("digits", folder(), {})
    for path in ("/registered_model", "/versions"):
        server.fail("GET", path, raw=raw)
        with pytest.raises(RegistryUnreachable):
            kubeflow.versions("digits")
        server.faults.clear()


def test_slow_dead_and_huge_are_unreachable(
    server: ModelRegistryServer, kubeflow: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bounded in time and in size, and a host that is not there is named."""
    hasty = replace(kubeflow, service=replace(kubeflow.service, timeout_s=0.1))
    server.fail("GET", "/registered_model", times=2, slow_s=5.0)
    with pytest.raises(RegistryUnreachable, match="does not answer"):
        hasty.versions("digits")
    monkeypatch.setattr(model_registry_api, "MAX_REPLY_BYTES", 1000)
    server.fail("GET", "/registered_model", raw=b'{"a": "' + b"x" * 2000 + b'"}')
    with pytest.raises(RegistryUnreachable, match="more than 1000"):
        kubeflow.versions("digits")
    dead = replace(kubeflow, service=replace(kubeflow.service, host="http://127.0.0.1:9"))
    with pytest.raises(RegistryUnreachable) as caught:
        dead.versions("digits")
    assert caught.value.where == "http://127.0.0.1:9"


@pytest.mark.parametrize("path", ["/registered_models", "/model_versions", "/artifacts"])
@pytest.mark.parametrize("done", [False, True])
def test_a_lost_answer_makes_no_second_version(
    server: ModelRegistryServer, kubeflow: ModelRegistry, folder: Folder, path: str, done: bool
) -> None:
    """A request whose answer was lost, done or not, is looked up and made again: one version, one file."""
    server.fail("POST", path, drop=True, done=done)
    version = kubeflow.register("digits", folder(), {"a": "1"})
    assert [info.version for info in kubeflow.versions("digits")] == [version]
    assert (len(server.models), len(server.versions), len(server.artifacts)) == (1, 1, 1)


@pytest.mark.parametrize("path", ["/registered_models", "/model_versions", "/artifacts"])
def test_a_proxys_page_after_the_deed_is_looked_behind(
    server: ModelRegistryServer, kubeflow: ModelRegistry, folder: Folder, path: str
) -> None:
    """An answer that is none, after the registry did as it was asked: what was made is found."""
    server.fail("POST", path, raw=b"<html>", done=True)
    version = kubeflow.register("digits", folder(), {})
    assert [info.version for info in kubeflow.versions("digits")] == [version]


def test_a_registration_cut_short_leaves_nothing_visible(
    server: ModelRegistryServer, kubeflow: ModelRegistry, folder: Folder
) -> None:
    """Refused at the version: no version; and the next one is whole."""
    kubeflow.register("digits", folder(), {})
    server.fail("POST", "/model_versions", status=403)
    with pytest.raises(RegistryUnreachable):
        kubeflow.register("digits", folder(), {})
    assert len(kubeflow.versions("digits")) == 1
    kubeflow.register("digits", folder(), {})
    assert len(kubeflow.versions("digits")) == 2
    assert not list(kubeflow.root.rglob(".*"))


def lose_the_token(kubeflow: ModelRegistry, patched: pytest.MonkeyPatch) -> None:
    """Its file is taken away once the version was made: who looks whether it was has none."""
    token = kubeflow.root / "token"
    token.write_text("t")
    patched.setenv(TOKEN_FILE, str(token))
    object.__setattr__(kubeflow, "service", replace(kubeflow.service, token_file=token))
    patched.setattr(model_registry_api, "_pause", lambda *_: token.unlink())


def interrupt(kubeflow: ModelRegistry, patched: pytest.MonkeyPatch) -> None:
    """Somebody presses Ctrl-C while the answer comes."""

    def pause(*_: object) -> None:
        raise KeyboardInterrupt

    patched.setattr(model_registry_api, "_pause", pause)


@pytest.mark.parametrize(
    ("cut_short", "error"), [(lose_the_token, InputError), (interrupt, KeyboardInterrupt)]
)
def test_a_version_that_was_made_keeps_its_files(
    server: ModelRegistryServer,
    kubeflow: ModelRegistry,
    folder: Folder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cut_short: Callable[[ModelRegistry, pytest.MonkeyPatch], None],
    error: type[BaseException],
) -> None:
    """However a registration ends after the registry was asked for the version: what is listed is whole."""
    server.fail("POST", "/model_versions", drop=True, done=True)
    with monkeypatch.context() as patched:
        cut_short(kubeflow, patched)
        with pytest.raises(error):
            kubeflow.register("digits", folder(), {"a": "1"})
    healthy = replace(kubeflow, service=replace(kubeflow.service, token_file=None))
    (info,) = healthy.versions("digits")
    healthy.fetch("digits", info.version, tmp_path / "x")
    assert tree(tmp_path / "x") == {"a": b"alpha", "sub/b": b"beta"}


def test_files_that_no_version_was_asked_for_do_not_stay(
    server: ModelRegistryServer, kubeflow: ModelRegistry, folder: Folder
) -> None:
    """Refused before: nothing is left of them."""
    server.fail("POST", "/registered_models", status=403)
    with pytest.raises(RegistryUnreachable):
        kubeflow.register("digits", folder(), {})
    assert [path for path in kubeflow.root.rglob("*") if path.is_file()] == []


def test_the_artifact_that_serving_needs_is_made_before_a_version_is_champion(
    server: ModelRegistryServer, kubeflow: ModelRegistry, folder: Folder
) -> None:
    """A version whose artifact was lost is whole for us; becoming champion it gets one, with its lineage."""
    server.fail("POST", "/artifacts", status=403)
    with pytest.raises(RegistryUnreachable):
        kubeflow.register("digits", folder(), {"reprune.parent": "7", "reprune.run": "https://k/1"})
    (info,) = kubeflow.versions("digits")
    assert server.artifacts == {}
    kubeflow.set_alias("digits", "champion", info.version)
    (made,) = server.artifacts.values()
    assert (made["modelSourceId"], made["modelSourceName"]) == ("7", "https://k/1")
    assert made["uri"].startswith(kubeflow.root.resolve().as_uri())


def test_properties_of_others_are_kept_and_a_foreign_write_is_seen(
    server: ModelRegistryServer, kubeflow: ModelRegistry, folder: Folder
) -> None:
    """Setting an alias sends the rest back; what another writer put in its place is an error."""
    first, second = (kubeflow.register("digits", folder(), {}) for _ in range(2))
    model = server.model_named("digits")
    theirs = {"metadataType": "MetadataIntValue", "int_value": "3"}
    model["customProperties"] = {"team": theirs}
    kubeflow.set_alias("digits", "champion", first)
    assert model["customProperties"]["team"] == theirs
    stolen = {"metadataType": "MetadataStringValue", "string_value": first}
    server.after_patch = lambda: model["customProperties"].update(
        {"reprune.alias.champion": stolen}
    )
    with pytest.raises(RegistryError, match="reads as"):
        kubeflow.set_alias("digits", "champion", second)


def test_a_token_is_read_anew_and_never_shown(
    server: ModelRegistryServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Folder
) -> None:
    """A refreshed token file works at once; an old token's refusal does not repeat it."""
    token = tmp_path / "token"
    token.write_text("first-secret")
    monkeypatch.setenv(TOKEN_FILE, str(token))
    server.token = "first-secret"
    registry = _kubeflow(server, tmp_path / "repo").open()
    registry.register("digits", folder(), {})
    server.token = "second-secret"
    with pytest.raises(RegistryUnreachable, match="401") as caught:
        registry.versions("digits")
    assert "first-secret" not in str(caught.value)
    token.write_text("second-secret\n")
    assert len(registry.versions("digits")) == 1


def test_versions_of_others_are_fetched_from_below_the_root(
    server: ModelRegistryServer, kubeflow: ModelRegistry, folder: Folder, tmp_path: Path
) -> None:
    """A folder and a single file, by file:// address; archived and unfinished versions are none."""
    made = folder("repo/store/their model", w=b"1")
    whole = server.add_version("digits", "2.0/final {{x}}", made.as_uri())
    single = server.add_version("digits", "b", (made / "w").as_uri())
    server.add_version("digits", "old", made.as_uri(), state="ARCHIVED")
    server.add_version("digits", "coming", None)
    infos = kubeflow.versions("digits")
    assert [info.version for info in infos] == [whole, single]
    assert infos[0].tags[TITLE] == "2.0/final {{x}}"
    for version in (whole, single):
        kubeflow.fetch("digits", version, tmp_path / version)
        assert tree(tmp_path / version) == {"w": b"1"}
    with pytest.raises(VersionNotFound):
        kubeflow.fetch("digits", single, tmp_path / "x", part="other")


@pytest.mark.parametrize("tag", [RECEIPT, RECORD, CLOSED])
def test_what_we_put_on_record_is_not_hidden_by_archiving_it(
    server: ModelRegistryServer, kubeflow: ModelRegistry, folder: Folder, tag: str
) -> None:
    """A verdict, a rollback, an adoption and what was given up count for ever; other versions do not."""
    ours = kubeflow.register(COMPRESSED, folder(), {tag: "x"})
    theirs = kubeflow.register(COMPRESSED, folder("their"), {"team": "x"})
    for version in (ours, theirs):
        server.versions[version]["state"] = "ARCHIVED"
    assert [info.version for info in kubeflow.versions(COMPRESSED)] == [ours]


@pytest.mark.parametrize(
    "uri",
    [
        "http://169.254.169.254/latest/meta-data", "https://host/model", "s3://bucket/key", "pvc://c/p",
        "file:///etc", "file:///etc/passwd", "file://otherhost/store/m", "/etc/passwd", "store/m", "",
        "file://{root}", "file://{root}/m/../../../etc", "file://{root}/%2e%2e/%2e%2e/etc",
        "file://{root}/link", "file://{root}/m%00", "file://[bad",
    ],
)  # fmt: skip
def test_addresses_that_lead_elsewhere_are_refused(
    server: ModelRegistryServer, kubeflow: ModelRegistry, folder: Folder, tmp_path: Path, uri: str
) -> None:
    """Metadata services, object stores, the file system outside the root: refused, nothing is read."""
    folder("repo/store/m", w=b"1")
    (tmp_path / "outside").mkdir()
    (kubeflow.root / "link").symlink_to(tmp_path / "outside")
    version = server.add_version("digits", "a", uri.replace("{root}", str(kubeflow.root)))
    with pytest.raises(RegistryError):
        kubeflow.fetch("digits", version, tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("place", ["../../etc", "/etc", "", "digits/../../x"])
def test_a_place_that_was_tampered_with_is_refused(
    server: ModelRegistryServer, kubeflow: ModelRegistry, folder: Folder, tmp_path: Path, place: str
) -> None:
    """The property that says where our files lie can be edited by anybody; it leads nowhere else."""
    version = kubeflow.register("digits", folder(), {})
    server.versions[version]["customProperties"]["reprune.files"]["string_value"] = place
    with pytest.raises(RegistryError):
        kubeflow.fetch("digits", version, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_link_on_the_way_to_a_version_is_not_followed(
    kubeflow: ModelRegistry, folder: Folder, tmp_path: Path
) -> None:
    """Whoever may write into the folder leads nobody out of it, in reading or in writing."""
    version = kubeflow.register("digits", folder(), {})
    outside = (kubeflow.root / "digits").rename(tmp_path / "outside")
    (kubeflow.root / "digits").symlink_to(outside)
    with pytest.raises(RegistryError, match="links are not followed"):
        kubeflow.fetch("digits", version, tmp_path / "x")
    assert not (tmp_path / "x").exists()
    before = tree(outside)
    with pytest.raises(RegistryError, match="links are not followed"):
        kubeflow.register("digits", folder(), {})
    assert tree(outside) == before


def test_changed_bytes_and_a_missing_root_are_noticed(
    kubeflow: ModelRegistry, folder: Folder, tmp_path: Path
) -> None:
    """The digest from the registration holds; a root that is not mounted is unreachable, not empty."""
    version = kubeflow.register("digits", folder(), {})
    (stored,) = kubeflow.root.rglob("a")
    stored.write_bytes(b"other")
    with pytest.raises(PayloadCorrupt):
        kubeflow.fetch("digits", version, tmp_path / "x")
    kubeflow.root.rename(tmp_path / "away")
    with pytest.raises(RegistryUnreachable, match="not here"):
        kubeflow.fetch("digits", version, tmp_path / "y")


@pytest.mark.parametrize(
    "changes",
    [
        {"uri": "sqlite:///x"}, {"uri": "http://me:secret@host"}, {"artifacts": ""},
        {"artifacts": "s3://bucket"}, {"workspace": "team"},
    ],
)  # fmt: skip
def test_sections_that_cannot_work_are_refused(tmp_path: Path, changes: dict[str, str]) -> None:
    """Each says what to write instead, and shows no password."""
    given = {"kind": "kubeflow", "uri": "http://host", "artifacts": "store", **changes}
    with pytest.raises(DocumentError) as caught:
        open_registry(msgspec.convert(given, Section), tmp_path)
    assert caught.value.fix
    assert "secret" not in str(caught.value)
