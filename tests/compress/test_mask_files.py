"""Masks beside the weights: bit-packed, deterministic, checked when they come back; honest sizes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from reprune.compress.bundle import load_bundle, save_bundle, stored_tensors
from reprune.compress.masks.choosing import apply_masks, choose_masks, plan_sparsity
from reprune.compress.masks.files import masked_bytes, read_masks, write_masks
from reprune.compress.masks.scores import magnitude
from reprune.core import store
from reprune.core.artifacts import MASKS, WEIGHTS, ModelBundle
from reprune.core.errors import CheckpointError
from reprune.core.store import Artifact

NAMES = ("conv.weight", "wide.weight")


def masked_bundle(
    dense: Artifact[ModelBundle], out: Path, *, spoil: bool = False
) -> tuple[Artifact[ModelBundle], dict[str, Tensor]]:
    module = load_bundle(dense).module
    scores = magnitude(module, NAMES)
    masks = choose_masks(scores, plan_sparsity(scores, 0.8))
    with store.drafting(out) as draft:
        save_bundle(draft, apply_masks(module, masks), None, dense, masks)
        if spoil:
            tensors = load_file(draft / WEIGHTS)
            tensors["wide.weight"] = tensors["wide.weight"] + 1.0
            save_file(tensors, draft / WEIGHTS)
        manifest = ModelBundle(name="tiny", dense_version="1", task=dense.manifest.task)
        written = store.write(
            draft, manifest, step="prune", parents={"dense": dense.digest}, out=out
        )
    return written, masks


def test_masks_come_back_with_the_model(dense: Artifact[ModelBundle], tmp_path: Path) -> None:
    bundle, masks = masked_bundle(dense, tmp_path / "masked")
    loaded = load_bundle(bundle)
    assert loaded.masks.keys() == masks.keys()
    for name, mask in masks.items():
        assert torch.equal(loaded.masks[name], mask)
        assert torch.equal(loaded.module.get_parameter(name) != 0, mask)


def test_a_bundle_without_masks_has_no_file(dense: Artifact[ModelBundle], tmp_path: Path) -> None:
    loaded = load_bundle(dense)
    assert loaded.masks == {}
    save_bundle(tmp_path / "plain", loaded.module, None, dense)
    assert not (tmp_path / "plain" / MASKS).exists()


def test_weights_that_came_back_to_life_are_refused(
    dense: Artifact[ModelBundle], tmp_path: Path
) -> None:
    """Loading and saving both: a mask that does not hold is worse than none."""
    bundle, masks = masked_bundle(dense, tmp_path / "masked", spoil=True)
    with pytest.raises(CheckpointError, match="masked weights are not zero"):
        load_bundle(bundle)
    with pytest.raises(CheckpointError, match="masked weights are not zero"):
        save_bundle(tmp_path / "again", load_bundle(dense).module, None, dense, masks)
    assert not (tmp_path / "again").exists()


@given(
    shapes=st.lists(
        st.lists(st.integers(0, 5), min_size=1, max_size=3).map(tuple), min_size=1, max_size=3
    ),
    seed=st.integers(0, 99),
)
@settings(deadline=None)
def test_what_is_read_is_what_was_written(
    shapes: list[tuple[int, ...]], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("masks")
    generator = torch.Generator().manual_seed(seed)
    masks = {f"w{n}": torch.rand(s, generator=generator) < 0.5 for n, s in enumerate(shapes)}
    write_masks(folder / "a", masks)
    write_masks(folder / "b", dict(reversed(masks.items())))
    assert (folder / "a").read_bytes() == (folder / "b").read_bytes()
    found = read_masks(folder / "a")
    assert found.keys() == masks.keys()
    assert all(torch.equal(found[name], mask) for name, mask in masks.items())


def test_bits_lie_as_the_format_says(tmp_path: Path) -> None:
    """Known bytes: the lowest bit is the first weight; one byte for eight weights."""
    mask = torch.tensor([[True, False, False], [True, True, False], [False, False, True]])
    write_masks(tmp_path / "m", {"w": mask})
    assert load_file(tmp_path / "m")["w"].tolist() == [0b00011001, 0b1]
    length = int.from_bytes((tmp_path / "m").read_bytes()[:8], "little")
    header = json.loads((tmp_path / "m").read_bytes()[8 : 8 + length])
    assert json.loads(header["__metadata__"]["shapes"]) == {"w": [3, 3]}


def broken(**changes: object) -> dict[str, object]:
    return {"tensor": np.array([0b1], dtype=np.uint8), "shapes": {"w": [1]}} | changes


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (broken(shapes={"w": [9]}), "one bit a weight"),
        (broken(shapes={"w": [-1, -1]}), "one bit a weight"),
        (broken(tensor=np.array([1.0], dtype=np.float32)), "one bit a weight"),
        (broken(tensor=np.array([0b10], dtype=np.uint8)), "past its last weight"),
        (broken(shapes={"v": [1]}), "not of its masks"),
        (broken(shapes=["w"]), "no file of masks"),
        (None, "no file of masks"),
    ],
)
def test_a_doubtful_file_is_refused(
    tmp_path: Path, content: dict[str, object] | None, what: str
) -> None:
    path = tmp_path / "m"
    if content is None:
        path.write_bytes(b"rubbish")
    else:
        tensor = torch.from_numpy(content["tensor"])
        save_file({"w": tensor}, path, metadata={"shapes": json.dumps(content["shapes"])})
    with pytest.raises(CheckpointError, match=what):
        read_masks(path)


def test_sizes_are_counted_honestly() -> None:
    """100 weights, 90 masked: 13 bytes of bits and 10 values; the bias stays whole; zeros deflate."""
    weight = torch.zeros(10, 10)
    weight[0] = torch.randn(10, generator=torch.Generator().manual_seed(0))
    tensors = {"weight": weight, "bias": torch.ones(10)}
    sizes = masked_bytes(tensors, {"weight": weight != 0})
    assert sizes.dense == 440
    assert sizes.bitmask == 13 + 40 + 40
    assert sizes.compressed < sizes.dense
    assert masked_bytes(tensors, {}).bitmask == 440


def test_masks_do_not_double_a_model(dense: Artifact[ModelBundle], tmp_path: Path) -> None:
    """torch's own masks are stored as floats beside the weights: twice the size."""
    bundle, _ = masked_bundle(dense, tmp_path / "masked")
    whole = (dense.path / WEIGHTS).stat().st_size
    assert (bundle.path / WEIGHTS).stat().st_size == whole
    assert (
        stored_tensors(load_bundle(bundle).module).keys() == load_file(dense.path / WEIGHTS).keys()
    )
    assert (bundle.path / MASKS).stat().st_size < whole / 10
