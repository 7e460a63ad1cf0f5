"""fetch-previous hands on a champion or an anchor only if its receipt is signed: later steps run its code."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from reprune.core.documents import digest_of
from reprune.core.errors import ChampionForeign, PromotionRefused
from reprune.core.lock import ChampionRef
from reprune.core.params import Registry
from reprune.core.step import Documents, run
from reprune.registry.compressed import champion
from reprune.steps.fetch import fetch_previous
from reprune.steps.promoter import make_promoter, read_promoter
from tests.chain import Story
from tests.registry.promotion import COMPRESSED, copy_repository, promoted, ready, registry_of

STRANGER = "is not signed by a key"
STRANGERS_KEY = "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"


@pytest.fixture
def root(template: Path, tmp_path: Path) -> Path:
    """A repository with a champion, and who promoted it."""
    made = copy_repository(template, tmp_path / "repo")
    promoted(made)
    return made


def serving(root: Path) -> ChampionRef:
    holder = champion(registry_of(root), "digits")
    assert holder is not None
    return holder.ref


def another_promoter(root: Path) -> Path:
    shutil.rmtree(root / ".reprune" / "promoter")
    return make_promoter(root)


def trust(config: Path, key: str) -> None:
    config.write_text(config.read_text().replace("[]", f"['{key}']", 1))


def key_of(root: Path) -> str:
    found: str = read_promoter(root).signer.public_key.keyval["public"]
    return found


def fetched(documents: Documents) -> list[str]:
    """What the step warned of; its artefact lies in `previous`."""
    said: list[str] = []
    run(fetch_previous, {}, documents, documents.root / "previous", say=said.append)
    return [line for line in said if "warning" in line]


def test_a_champion_that_a_stranger_signed_is_not_fetched(root: Path) -> None:
    """Nothing of it is written where a later step would run it."""
    documents = ready(root, Story(dense_version="2", champion=serving(root))).documents
    theirs = key_of(root)
    config = another_promoter(root)
    with pytest.raises(ChampionForeign, match=STRANGER):
        fetched(documents)
    assert not (root / "previous").exists()
    trust(config, theirs)
    assert fetched(documents) == []
    assert (root / "previous" / "champion").is_dir()


def test_an_anchor_needs_a_signature_of_its_own(root: Path) -> None:
    anchor, theirs = serving(root), key_of(root)
    config = another_promoter(root)
    strict = config.read_text()
    trust(config, theirs)
    ready(root, Story(dense_version="2", champion=anchor))
    assert promoted(root).champion_after == "2"
    registry_of(root).set_alias(COMPRESSED, "anchor", "1")
    story = Story(dense_version="3", champion=serving(root), anchor=anchor)
    documents = ready(root, story).documents
    assert fetched(documents) == []
    config.write_text(strict)
    with pytest.raises(ChampionForeign, match="the anchor, version 1"):
        fetched(documents)


def test_where_no_promoter_is_the_keys_of_params_count(root: Path) -> None:
    """As in a cluster, where only promote mounts the promoter. Without any key the log says so."""
    documents = ready(root, Story(dense_version="2", champion=serving(root))).documents
    ours = key_of(root)
    another_promoter(root)
    stranger = key_of(root)
    shutil.rmtree(root / ".reprune" / "promoter")
    assert "whose code runs in later steps" in fetched(documents)[0]
    assert fetched(trusting(documents, ours)) == []
    with pytest.raises(ChampionForeign, match=STRANGER):
        fetched(trusting(documents, stranger))


def trusting(documents: Documents, key: str) -> Documents:
    """The same documents with this key in params.yaml."""
    registry = msgspec.structs.replace(documents.params.registry, trusted_keys=(key,))
    changed = msgspec.structs.replace(documents.params, registry=registry)
    lock = msgspec.structs.replace(documents.lock, params=digest_of(changed))
    return replace(documents, params=changed, lock=lock)


def test_params_without_keys_digest_as_they_did() -> None:
    """So no lock becomes stale by a field that it does not use."""
    assert b"trusted_keys" not in msgspec.json.encode(Registry())


@pytest.mark.parametrize("out_of_reach", ["env:REPRUNE_NO_SUCH_KEY", "plugin:nobody:x", "gone.pem"])
def test_who_only_reads_needs_no_private_key(root: Path, out_of_reach: str) -> None:
    """A configuration whose key only promote can open: public keys that are named do, and none refuses."""
    documents = ready(root, Story(dense_version="2", champion=serving(root))).documents
    ours = key_of(root)
    config = root / ".reprune" / "promoter" / "config.yaml"
    config.write_text(config.read_text().replace("key: key.pem", f"key: {out_of_reach}"))
    with pytest.raises(PromotionRefused) as caught:
        fetched(documents)
    assert "public key" in caught.value.fix
    assert fetched(trusting(documents, ours)) == []
    shutil.rmtree(root / "previous")
    trust(config, ours)
    assert fetched(documents) == []
    config.write_text(config.read_text().replace(ours, STRANGERS_KEY))
    with pytest.raises(ChampionForeign, match=STRANGER):
        fetched(documents)
