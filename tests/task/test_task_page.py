"""docs/task.md is run as a reader would: its blocks are files of a task, or typed one after the other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from reprune.compress.bundle import load_module
from reprune.compress.structure.groups import survey
from reprune.core.errors import CheckpointError, PickleRefused, TaskError
from reprune.core.params import read_params
from reprune.registry.open import open_registry
from reprune.registry.weights import find_weights, take_weights
from reprune.task.check import check_task
from reprune.task.load import load_task
from reprune.task.outputs import outputs_of

PAGE = (Path(__file__).parents[2] / "docs" / "task.md").read_text(encoding="utf-8")
PARTS, CHECK, AMONG_TWO, REGISTER, SENTENCES, CHECKPOINT, BY_POSITION = re.findall(
    r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE
)
PARAMS = "name: parts\ntask: task.parts:PartsTask\nregistry: {kind: files, uri: registry}\n"
BERT: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "vocab_size": 40, "num_labels": 3,
}  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with the page's tasks, and data of the shapes that it says."""
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    rows = np.arange(240)
    np.savez(
        "parts.npz", images=draw.integers(0, 256, (240, 1, 16, 16), dtype=np.uint8), labels=rows % 4,
        ids=[f"part-{row}" for row in rows], lines=np.where(rows % 2, "a", "b"),
        lots=[f"lot-{row // 4}" for row in rows],
    )  # fmt: skip
    tokens = draw.integers(1, 40, (240, 8))
    mask = (np.arange(8) < draw.integers(4, 9, (240, 1))).astype(np.int64)
    np.savez(
        "sentences.npz", ids=tokens * mask, mask=mask, labels=rows % 3,
        names=[f"text-{row}" for row in rows],
    )  # fmt: skip
    for name in ("PARTS", "SENTENCES"):
        monkeypatch.setenv(name, f"{name.lower()}.npz")
    monkeypatch.setenv("CHECKPOINT", "checkpoint")
    (tmp_path / "params.yaml").write_text(PARAMS)
    (tmp_path / "task").mkdir()
    (tmp_path / "task/__init__.py").touch()
    (tmp_path / "task/parts.py").write_text(f"{PARTS}\n\n{AMONG_TWO}")
    (tmp_path / "task/sentences.py").write_text(SENTENCES)
    return tmp_path


def fetched(name: str, version: str, out: Path) -> Path:
    registry = open_registry(read_params(Path("params.yaml")).registry, Path())
    registry.fetch(name, version, out)
    return find_weights(out, allow_pickle=False, where=name)


@pytest.mark.slow
def test_the_whole_task_is_one_and_its_version_is_read(here: Path) -> None:
    """Checked, registered, fetched, and bit for bit the module that was saved."""
    known: dict[str, Any] = {}
    exec(CHECK, known)
    exec(REGISTER, known)
    weights = fetched("parts", known["version"], here / "out")
    again = load_module(weights, None, known["task"].model)
    state = known["module"].state_dict()
    assert all(torch.equal(state[name], value) for name, value in again.state_dict().items())
    check_task(load_task("task.parts:AmongTwo", Path()), seed=0)
    task = load_task("task.parts:PartsTask", Path())
    lots = {split: {x for b in task.batches(split, epoch=0, seed=0) for x in b.source or ()}
            for split in ("train", "tune", "calibration", "eval")}  # fmt: skip
    assert sum(map(len, lots.values())) == len(set().union(*lots.values())) == 60


@pytest.mark.slow
def test_a_hugging_face_checkpoint_is_registered_as_it_is(here: Path) -> None:
    """Its folder, unchanged; the task's model then computes what the library's does, and can be cut."""
    transformers = pytest.importorskip("transformers")
    theirs = transformers.BertForSequenceClassification(transformers.BertConfig(**BERT)).eval()
    theirs.save_pretrained("checkpoint")
    (here / "checkpoint/config.json").rename(here / "task/config.json")
    task = load_task("task.sentences:SentencesTask", Path())
    check_task(task, seed=0)
    exec(REGISTER.replace("module.", "task.model()."), known := {"task": task, "Path": Path})
    exec(CHECKPOINT, known | {"os": __import__("os")})
    weights = fetched("sentences", "1", here / "out")
    module = load_module(weights, None, task.model)
    ids, mask = inputs = task.example_inputs(3)
    with torch.no_grad():
        same = theirs(input_ids=ids, attention_mask=mask).logits
        assert torch.equal(module(*inputs), same)
    with pytest.raises(
        TaskError, match=r"SequenceClassifierOutput, not a tensor[^\n]*\n.*task\.md"
    ):
        outputs_of(theirs, inputs)
    units = {group.unit for group in survey(module, inputs, ()).groups}
    assert units >= {"head", "channel"}


def test_a_model_of_dictionaries_is_called_by_position() -> None:
    """And gives a tuple; the names of its weights begin with `model.`, as the page says."""

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(2, 2)

        def forward(self, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {"class": self.inner(given["image"]), "box": given["text"]}

    exec(BY_POSITION, known := {"nn": nn})
    module = known["ByPosition"](Both())
    assert len(outputs_of(module, (torch.ones(1, 2), torch.ones(1, 4)))) == 2
    assert set(module.state_dict()) == {"model.inner.weight", "model.inner.bias"}


@pytest.mark.slow
def test_what_the_page_says_is_refused_is(tmp_path: Path) -> None:
    """A pickled module even where pickles are allowed, a pickled state dict where not; shards."""
    module = nn.Linear(2, 2)
    for name, what in (("module", module), ("state", module.state_dict())):
        (tmp_path / name).mkdir()
        torch.save(what, tmp_path / name / "model.pth")
        with pytest.raises(PickleRefused):
            find_weights(tmp_path / name, allow_pickle=False, where=name)
    found = find_weights(tmp_path / "module", allow_pickle=True, where="module")
    with pytest.raises(CheckpointError, match="more than tensors, as a whole module"):
        take_weights(found, tmp_path / "weights.safetensors")
    take_weights(tmp_path / "state/model.pth", tmp_path / "weights.safetensors")
    assert set(load_file(tmp_path / "weights.safetensors")) == {"weight", "bias"}
    (tmp_path / "shards").mkdir()
    for number in (1, 2):
        save_file({"a": torch.ones(1)}, tmp_path / f"shards/model-{number}.safetensors")
    with pytest.raises(CheckpointError, match=r"several weight files[^\n]*\n.*docs/task\.md"):
        find_weights(tmp_path / "shards", allow_pickle=True, where="shards")
