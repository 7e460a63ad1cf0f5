"""The CIFAR-10 loader: its splits, orders and augmentation, on images made here."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from benchmarks.cifar import PAD, CifarTask, Images, cropped, decoded
from reprune.core.errors import EvalIsSealed
from reprune.task.seal import Sealed

SIDE = 32


def small(train=40, test=12):
    random = np.random.default_rng(0)
    count = train + test
    return Images(
        pixels=random.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8),
        labels=random.integers(0, 10, count),
        train=train,
    )


def task(images=None, **more):
    return CifarTask(
        images or small(), nn.Identity, **{"tune": 8, "calibration": 6, "batch_size": 9} | more
    )


def seen(found, split, *, epoch=0, seed=0):
    return {
        name: pixels
        for batch in found.batches(split, epoch=epoch, seed=seed)
        for name, pixels in zip(batch.ids, batch.inputs[0], strict=True)
    }


def test_jpegs_lying_behind_each_other_are_decoded_in_order():
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    parts = []
    for colour in colours:
        stream = io.BytesIO()
        Image.new("RGB", (8, 8), colour).save(stream, "JPEG")
        parts.append(stream.getvalue())
    offsets = np.cumsum([0, *map(len, parts)])
    images = decoded(b"".join(parts), offsets)
    assert images.shape == (3, 8, 8, 3)
    np.testing.assert_allclose(images.mean(axis=(1, 2)), colours, atol=6)


def test_the_splits_share_no_example_and_cover_all():
    found = task()
    names = [seen(found, split) for split in ("train", "tune", "calibration", "eval")]
    assert [len(part) for part in names] == [26, 8, 6, 12]
    assert len(set().union(*names)) == 52


def test_the_test_set_is_sealed_for_everything_but_a_final_evaluation():
    with pytest.raises(EvalIsSealed):
        Sealed(task()).batches("eval", epoch=0, seed=0)


def test_an_example_is_augmented_by_seed_epoch_and_id_alone():
    whole, part = (
        seen(task(), "train", epoch=3, seed=7),
        seen(task(examples=10), "train", epoch=3, seed=7),
    )
    assert len(part) == 10
    for name, pixels in part.items():
        assert torch.equal(pixels, whole[name])
    other = seen(task(), "train", epoch=4, seed=7)
    assert any(not torch.equal(other[name], pixels) for name, pixels in whole.items())


def test_only_train_is_shuffled_and_augmented():
    found = task()
    assert list(seen(found, "tune", epoch=1)) == list(seen(found, "tune", epoch=2))
    for name, pixels in seen(found, "tune", epoch=1).items():
        assert torch.equal(pixels, seen(found, "tune", epoch=2)[name])
    assert list(seen(found, "train", epoch=1)) != list(seen(found, "train", epoch=2))


def test_batches_go_on_where_they_are_told_to():
    found = task()
    whole = list(found.batches("train", epoch=1, seed=0))
    rest = list(found.batches("train", epoch=1, seed=0, start=2))
    assert [batch.ids for batch in rest] == [batch.ids for batch in whole[2:]]
    assert torch.equal(rest[0].inputs[0], whole[2].inputs[0])


def test_the_ranks_hold_every_example_once():
    found = task()
    ids = [
        name
        for rank in range(3)
        for batch in found.batches("train", epoch=1, seed=0, rank=rank, world=3)
        for name in batch.ids
    ]
    assert sorted(ids) == sorted(seen(found, "train"))


def test_inputs_are_normalised_images_in_channels_last_memory():
    batch = next(task().batches("tune", epoch=0, seed=0))
    (pixels,) = batch.inputs
    assert pixels.shape == (8, 3, SIDE, SIDE)
    assert pixels.is_contiguous(memory_format=torch.channels_last)
    raw = small().pixels[26] / 255
    expected = (raw - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    np.testing.assert_allclose(pixels[0].permute(1, 2, 0).numpy(), expected, atol=1e-5)


def test_crops_are_those_of_one_image_at_a_time():
    images = torch.from_numpy(small().pixels[:20])
    random = np.random.default_rng(1)
    down, right = (torch.from_numpy(random.integers(0, 2 * PAD + 1, 20)) for _ in range(2))
    mirrored = torch.from_numpy(random.random(20) < 0.5)
    found = cropped(images, down, right, mirrored)
    for number in range(20):
        padded = np.pad(images[number].numpy(), ((PAD, PAD), (PAD, PAD), (0, 0)))
        part = padded[down[number] : down[number] + SIDE, right[number] : right[number] + SIDE]
        expected = part[:, ::-1] if mirrored[number] else part
        np.testing.assert_array_equal(found[number].numpy(), expected)
