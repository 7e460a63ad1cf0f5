"""`sensitivity` in shards: merged they are the artefact of the whole step, bit for bit, or are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import pytest
import torch
import yaml

from reprune.compress.sensitivity.observed import Observed
from reprune.core import store
from reprune.core.artifacts import DataReport, Sensitivity, SensitivityShard
from reprune.core.errors import ArtifactError, ChainBroken, CompressionError, InputError
from reprune.core.step import for_shard, run
from reprune.core.store import Artifact
from reprune.doors import cli
from reprune.steps import get_step
from reprune.steps.sensitivity_shards import SEEN
from tests.compress.small_digits import DigitsTask, trained
from tests.compress.test_depth_plan import Net, write_residual_bundle
from tests.compress.test_steps_plan import documents_of, past, quiet, write, write_bundle

pytestmark = pytest.mark.slow

PARAMS = {
    "name": "digits",
    "task": "smalltask.residual:ResidualTask",
    "sensitivity": {"cuts": [0.25, 0.5], "examples": 100},
    "plan": {"fraction": 0.2, "depth": True},
    "prune": {"examples": 100, "criterion": "taylor"},
    "targets": {"cpu": {}},
}
CALIBRATED = {
    "sensitivity": {"cuts": [0.5], "examples": 100, "method": "calibrated", "budget": 0.5}
}
PLAIN = "smalltask.digits:DigitsTask"
MASKS = {"task": PLAIN, "plan": {"method": "weights", "sparsity": 0.8}}
PATTERN = {"task": PLAIN, "plan": {"method": "n:m", "pattern": "2:4"}}


@pytest.fixture(scope="module", autouse=True)
def _one_work_folder(tmp_path_factory):
    """One for all tests, as on one machine: shards must not meet in it."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRUNE_WORK", str(tmp_path_factory.mktemp("work")))
        yield


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """A trained model with groups and blocks, and its data report."""
    root = tmp_path_factory.mktemp("ground")
    dense = write_residual_bundle(root / "dense", trained(DigitsTask(model=Net), epochs=2))
    report = DataReport(task=dense.manifest.task, passed=True, expectations=(), splits={}, power=())
    write(root / "data", report, {"dense": dense.digest})
    write(root / "previous", past(None), {})
    return root


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A trained model for masks, and its data report."""
    root = tmp_path_factory.mktemp("plain")
    dense = write_bundle(root / "dense", trained(DigitsTask(), epochs=2))
    report = DataReport(task=dense.manifest.task, passed=True, expectations=(), splits={}, power=())
    write(root / "data", report, {"dense": dense.digest})
    write(root / "previous", past(None), {})
    return root


@pytest.fixture(scope="module")
def halves(ground):
    """Both shards of two, of the plain knobs."""
    return [shard(ground, f"{i}/2", ground / f"half{i}") for i in range(2)]


def given(ground: Path, **more: Path | list[Path]) -> dict[str, Path | list[Path]]:
    return {"dense": ground / "dense", "data": ground / "data", **more}


def documents(ground: Path, changes: dict | None = None):
    return documents_of(ground, yaml.safe_dump(PARAMS | (changes or {})))


def whole(ground: Path, out: Path, changes: dict | None = None) -> Artifact[Sensitivity]:
    inputs = given(ground, previous=ground / "previous")
    return run(get_step("sensitivity"), inputs, documents(ground, changes), out, say=quiet)


def shard(ground: Path, which: str, out: Path, changes: dict | None = None, say=quiet) -> Path:
    step = for_shard(get_step("sensitivity-shard"), which)
    return run(step, given(ground), documents(ground, changes), out, say=say).path


def merged(
    ground: Path, shards: list[Path], out: Path, changes: dict | None = None
) -> Artifact[Sensitivity]:
    inputs = given(ground, previous=ground / "previous", shards=shards)
    return run(get_step("sensitivity-merge"), inputs, documents(ground, changes), out, say=quiet)


@pytest.mark.parametrize(
    ("changes", "counts"),
    [
        pytest.param({}, (2,), id="full"),
        pytest.param({}, (1, 3, 7, 11), id="full-many", marks=pytest.mark.slow),
        pytest.param(CALIBRATED, (3,), id="calibrated"),
        pytest.param(MASKS, (2, 11), id="masks"),
        pytest.param(PATTERN, (2,), id="pattern"),
    ],
)
def test_any_number_of_shards_makes_the_very_artefact(request, tmp_path, changes, counts):
    """Every byte of the manifest, with its producer and parents; shards may come in any order."""
    ground = request.getfixturevalue("plain" if "task" in changes else "ground")
    expected = whole(ground, tmp_path / "whole", changes)
    for count in counts:
        paths = [
            shard(ground, f"{i}/{count}", tmp_path / f"{count}-{i}", changes) for i in range(count)
        ]
        found = merged(ground, paths[::-1], tmp_path / f"merged{count}", changes)
        assert found.digest == expected.digest
        assert found.manifest == expected.manifest
        assert sorted(file.name for file in found.path.iterdir()) == sorted(
            file.name for file in expected.path.iterdir()
        )


def test_shards_share_the_cuts_between_them(ground, halves, tmp_path):
    """Each cut is made by one shard only, groups and blocks are both there; one of many shards is empty."""
    seen = [
        set(msgspec.json.decode((half / SEEN).read_bytes(), type=Observed).cuts) for half in halves
    ]
    assert not seen[0] & seen[1]
    everything = seen[0] | seen[1]
    assert any(key.startswith("block:") for key in everything)
    assert abs(len(seen[0]) - len(seen[1])) <= 2
    assert sum("@" in key for key in everything) >= 6
    empty = store.read(shard(ground, "60/100", tmp_path / "empty"), SensitivityShard)
    assert empty.manifest.cuts == 0


def test_not_all_shards_are_refused(ground, halves, tmp_path):
    """One missing, one twice, and shards of two different divisions."""
    for wrong, words in (
        ([halves[0]], "not all of 2: 1 missing"),
        ([halves[1], halves[1]], "0 missing; 1 given more than once"),
        ([*halves, halves[0]], "0 given more than once"),
        ([halves[0], shard(ground, "1/3", tmp_path / "third")], "shards of 2 and of 3"),
    ):
        with pytest.raises(CompressionError, match=words):
            merged(ground, wrong, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "changes",
    [{"seed": 5}, {"prune": {"examples": 50, "criterion": "taylor"}}],
    ids=["seed", "knobs"],
)
def test_a_shard_of_other_knobs_is_refused(ground, halves, tmp_path, changes):
    """Even where its base loss is the same to the bit."""
    other = shard(ground, "1/2", tmp_path / "other", changes)
    with pytest.raises(ChainBroken, match="shard 1/2 was measured with other knobs"):
        merged(ground, [halves[0], other], tmp_path / "out")


def test_a_shard_of_another_model_or_data_is_refused(ground, halves, tmp_path):
    """The same weights under another digest of the data, and another model."""
    shutil.copytree(ground, tmp_path / "same")
    report = store.read(ground / "data", DataReport).manifest
    edited = msgspec.structs.replace(
        report, payload={}, parents={}, splits={}, power=(), passed=True
    )
    edited = msgspec.structs.replace(
        edited, task=msgspec.structs.replace(edited.task, data_version="2")
    )
    dense = store.read(ground / "dense", store.KINDS["ModelBundle"])
    write(tmp_path / "same" / "data", edited, {"dense": dense.digest})
    with pytest.raises(ChainBroken, match="shard 0/2 was measured with another data than"):
        merged(tmp_path / "same", halves, tmp_path / "out")
    other = tmp_path / "other"
    write_residual_bundle(other / "dense", trained(DigitsTask(model=Net), epochs=1))
    changed = store.read(other / "dense", store.KINDS["ModelBundle"])
    write(other / "data", report, {"dense": changed.digest})
    write(other / "previous", past(None), {})
    with pytest.raises(ChainBroken, match="another dense and another data"):
        merged(other, halves, tmp_path / "out")


def test_a_shard_that_calculates_differently_is_refused(ground, halves, tmp_path):
    """A machine of another kind may round otherwise: then no whole run gives those bits."""
    seen = msgspec.json.decode((halves[1] / SEEN).read_bytes(), type=Observed)
    losses = (seen.base.losses[0] * (1.0 + 1e-15), *seen.base.losses[1:])
    base = (
        msgspec.structs.replace if False else type(seen.base)(losses=losses, sizes=seen.base.sizes)
    )
    forged = rewritten(halves[1], tmp_path / "forged", msgspec.structs.replace(seen, base=base))
    with pytest.raises(CompressionError, match="losses of the dense model differ"):
        merged(ground, [halves[0], forged], tmp_path / "out")
    lost = dict(list(seen.cuts.items())[1:])
    forged = rewritten(halves[1], tmp_path / "lost", msgspec.structs.replace(seen, cuts=lost))
    with pytest.raises(CompressionError, match="1 cuts were not measured"):
        merged(ground, [halves[0], forged], tmp_path / "out")
    forged = rewritten(halves[1], tmp_path / "broken", {"shard": 1})
    with pytest.raises(ArtifactError, match=r"seen\.json"):
        merged(ground, [halves[0], forged], tmp_path / "out")


def rewritten(half: Path, out: Path, content: object) -> Path:
    """The shard with another payload, its digests correct."""
    found = store.read(half, SensitivityShard)
    with store.drafting(out) as draft:
        (draft / SEEN).write_bytes(msgspec.json.encode(content))
        producer = found.manifest.producer
        return store.write(
            draft,
            found.manifest,
            step=producer.step,
            parents=found.manifest.parents,
            out=out,
            knobs=producer.knobs,
        ).path


class Killed(BaseException):
    pass


def test_a_killed_shard_goes_on_where_it_stopped(ground, halves, tmp_path):
    """What it had finished is not measured again, and the artefact is the same."""
    changes = {"seed": 3}

    def kill(text: str) -> None:
        if ": 2 of" in text:
            raise Killed

    with pytest.raises(Killed):
        shard(ground, "1/2", tmp_path / "out", changes, say=kill)
    assert not (tmp_path / "out").exists()
    told: list[str] = []
    # The other shard of the same knobs beside it finds nothing that is done.
    shard(ground, "0/2", tmp_path / "beside", changes, say=told.append)
    assert not any("already" in text for text in told)
    told.clear()
    resumed = shard(ground, "1/2", tmp_path / "out", changes, say=told.append)
    assert "2 of" in told[0]
    assert "already measured" in told[0]
    found = merged(ground, [tmp_path / "beside", resumed], tmp_path / "merged", changes)
    assert found.digest == whole(ground, tmp_path / "whole", changes).digest


@pytest.mark.parametrize(
    "text", ["2/2", "0/0", "-1/2", "1", "1/2/3", "a/b", "0x1/2", " 0/2", "1e1/20", ""]
)
def test_what_is_no_shard_is_refused(text):
    """Before anything is opened, saying how one is written."""
    with pytest.raises(InputError, match="is no shard"):
        for_shard(get_step("sensitivity-shard"), text)


def test_a_shard_is_given_where_it_is_asked_for_and_only_there(ground, tmp_path):
    """The step in shards never runs whole by mistake, no other step in part."""
    with pytest.raises(InputError, match="needs --shard"):
        run(get_step("sensitivity-shard"), given(ground), documents(ground), tmp_path / "out")
    with pytest.raises(InputError, match="is not done in shards"):
        for_shard(get_step("sensitivity"), "0/2")


def test_the_command_line_asks_for_the_shard(capsys, monkeypatch, tmp_path):
    """Left out it is an error of usage; the help says how it is counted."""
    monkeypatch.chdir(tmp_path)
    words = ["sensitivity-shard", "--dense", "a", "--data", "b", "--out", "c", "--json"]
    assert cli.main(words) == 2
    assert "--shard" in json.loads(capsys.readouterr().out)["what"]
