"""Weight files are strangers' input: found without guessing, checked within limits, never unpickled here."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from reprune.core.errors import CheckpointError, NonFiniteWeights, PickleRefused
from reprune.core.store import file_digest
from reprune.registry.weights import check_weights, find_weights, take_weights
from tests.registry.stand import write_weights

Folder = Callable[..., Path]


def raw_file(path: Path, header: object, data: bytes, *, text: bytes | None = None) -> Path:
    head = json.dumps(header).encode() if text is None else text
    path.write_bytes(len(head).to_bytes(8, "little") + head + data)
    return path


def test_sound_weights_are_taken_byte_for_byte(tmp_path: Path) -> None:
    """What comes out is the file that was registered: its digest is the lock's."""
    source = write_weights(tmp_path / "in.safetensors")
    take_weights(source, tmp_path / "out.safetensors")
    assert file_digest(tmp_path / "out.safetensors") == file_digest(source)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [np.float64, np.float32, np.float16])
def test_a_value_that_is_not_finite_is_named_by_its_tensor(
    tmp_path: Path, value: float, kind: type[np.floating]
) -> None:
    """One NaN or infinity anywhere is refused, and the tensor that holds it is named."""
    bad = np.ones(1000, kind)
    bad[-1] = value
    save_file({"good": np.ones(3, np.float32), "layer.bad": bad}, tmp_path / "w.safetensors")
    with pytest.raises(NonFiniteWeights, match=r"layer\.bad"):
        check_weights(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("dtype", "bits", "finite"),
    [
        ("BF16", 0x7FC0, False),
        ("BF16", 0x7F80, False),
        ("BF16", 0xFF80, True),
        ("BF16", 0x7F7F, True),
        ("F8_E5M2", 0x7C, False),
        ("F8_E5M2", 0x7B, True),
        ("F8_E5M2", 0xFC, True),
        ("F8_E4M3", 0xFF, False),
        ("F8_E4M3", 0x7E, True),
    ],
)
def test_formats_that_numpy_does_not_know_are_checked_too(
    tmp_path: Path, dtype: str, bits: int, finite: bool
) -> None:
    """NaN and infinity are seen in bfloat16 and the 8-bit floats; the largest numbers are not, nor negative
    infinity beside a zero, which is a mask.
    """
    size = 2 if dtype == "BF16" else 1
    data = (0).to_bytes(size, "little") + bits.to_bytes(size, "little")
    header = {"w": {"dtype": dtype, "shape": [2], "data_offsets": [0, 2 * size]}}
    path = raw_file(tmp_path / "w.safetensors", header, data)
    if finite:
        check_weights(path)
    else:
        with pytest.raises(NonFiniteWeights):
            check_weights(path)


MASK = np.triu(np.full((4, 4), -np.inf, np.float32), 1)


def test_a_mask_is_sound_whatever_it_is_read_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zeros and negative infinities alone, as a bundle has it; one other number, and it is none."""
    path = tmp_path / "w.safetensors"
    monkeypatch.setattr("reprune.registry.weights._CHUNK", 3)
    save_file({"mask": MASK}, path)
    check_weights(path)
    for place, other in ((0, 1.0), (15, 1.0), (5, np.nan), (5, np.inf)):
        bad = MASK.copy()
        bad.flat[place] = other
        save_file({"mask": bad}, path)
        with pytest.raises(NonFiniteWeights, match="mask") as caught:
            check_weights(path)
        assert "`reprune update --dense-version N`" in caught.value.fix


def test_integers_are_left_alone(tmp_path: Path) -> None:
    """A counter may hold any bits: only floating point can be not finite."""
    save_file({"n": np.array([-1, 2**62], np.int64)}, tmp_path / "w.safetensors")
    check_weights(tmp_path / "w.safetensors")


FINE = {"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
MANY = {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(10_001)}


@pytest.mark.parametrize(
    ("header", "data", "text"),
    [
        ({}, b"", None),
        (MANY, b"", None),
        (FINE, b"\0\0\0", None),
        (FINE, b"\0" * 8, None),
        ({"w": {**FINE["w"], "shape": [2]}}, b"\0" * 4, None),
        ({"w": {**FINE["w"], "dtype": "F4"}}, b"\0" * 4, None),
        ({"w": {**FINE["w"], "extra": 1}}, b"\0" * 4, None),
        ({"w": [1]}, b"", None),
        ([], b"", None),
        (None, b"", b'{"w": NaN}'),
        (None, b"\0" * 4, b'{"w":' + json.dumps(FINE["w"]).encode() + b',"w":'
         + json.dumps(FINE["w"]).encode() + b"}"),
        (None, b"", b"x" * 10),
    ],
)  # fmt: skip
def test_malformed_files_are_refused(
    tmp_path: Path, header: object, data: bytes, text: bytes | None
) -> None:
    """Too many tensors, holes, wrong lengths, doubled names, headers that are no headers."""
    path = raw_file(tmp_path / "w.safetensors", header, data, text=text)
    with pytest.raises(CheckpointError):
        check_weights(path)


def test_a_huge_header_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """A header that claims more than 8 MiB costs nothing."""
    path = tmp_path / "w.safetensors"
    path.write_bytes((2**40).to_bytes(8, "little") + b"{}")
    with pytest.raises(CheckpointError, match="claims"):
        check_weights(path)


@settings(max_examples=200, deadline=None)
@given(position=st.integers(0, 10_000), byte=st.integers(0, 255), cut=st.integers(0, 50))
def test_damage_is_an_error_of_ours_or_nothing(
    tmp_path_factory: pytest.TempPathFactory, position: int, byte: int, cut: int
) -> None:
    """Any changed byte, any truncation: the file still checks, or it is a CheckpointError."""
    path = write_weights(tmp_path_factory.mktemp("w") / "w.safetensors")
    content = bytearray(path.read_bytes())
    content[position % len(content)] = byte
    path.write_bytes(content[: len(content) - cut])
    try:
        check_weights(path)
    except CheckpointError:
        return
    assert set(load_file(path))


def test_a_name_is_never_a_path(tmp_path: Path) -> None:
    """A tensor called ../../x is only a name."""
    save_file({"../../evil": np.ones(2, np.float32)}, tmp_path / "in.safetensors")
    out = tmp_path / "a" / "b" / "out.safetensors"
    out.parent.mkdir(parents=True)
    take_weights(tmp_path / "in.safetensors", out)
    found = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert found == ["in.safetensors", "out.safetensors"]


def test_the_one_weight_file_is_found_wherever_it_lies(folder: Folder) -> None:
    """safetensors in a subfolder of a model directory is found, and preferred to a pickle beside it."""
    made = folder(MLmodel=b"x", data__weights_safetensors=b"1")
    (made / "data" / "weights_safetensors").rename(made / "data" / "w.safetensors")
    (made / "data" / "model.pth").write_bytes(b"2")
    found = find_weights(made, allow_pickle=True, where="here")
    assert found == made / "data" / "w.safetensors"


@pytest.mark.parametrize("suffix", ["pt", "pth", "bin", "pkl", "pt2", "ckpt"])
def test_pickles_are_refused_unless_allowed(tmp_path: Path, suffix: str) -> None:
    """Only pickled weights: refused with the risk and both ways out; allowed, they are found."""
    path = tmp_path / f"model.{suffix}"
    path.write_bytes(b"x")
    with pytest.raises(PickleRefused, match="runs code") as caught:
        find_weights(tmp_path, allow_pickle=False, where="here")
    assert "safetensors" in caught.value.fix
    assert "allow_pickle" in caught.value.fix
    assert find_weights(tmp_path, allow_pickle=True, where="here") == path


def test_none_and_several_are_errors_that_say_so(tmp_path: Path) -> None:
    """A folder without weights, and one with two candidates, are not guessed at."""
    (tmp_path / "readme.md").write_text("x")
    with pytest.raises(CheckpointError, match="no weights"):
        find_weights(tmp_path, allow_pickle=True, where="here")
    for name in ("a.safetensors", "b.safetensors"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"a\.safetensors, b\.safetensors"):
        find_weights(tmp_path, allow_pickle=True, where="here")


class Boom:
    """Unpickled without care, it writes a file."""

    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return (os.system, (f"touch {self.target}",))


@pytest.mark.slow
def test_a_pickled_state_dict_is_read_in_a_child(tmp_path: Path) -> None:
    """Allowed: tied and sliced tensors arrive as safetensors with equal values."""
    import torch

    weight = torch.arange(12.0).reshape(3, 4)
    torch.save({"a": weight, "tied": weight, "b": weight[:, 1]}, tmp_path / "model.pt")
    take_weights(tmp_path / "model.pt", tmp_path / "out.safetensors")
    found = load_file(tmp_path / "out.safetensors")
    assert np.array_equal(found["a"], weight.numpy())
    assert np.array_equal(found["tied"], weight.numpy())
    assert np.array_equal(found["b"], weight[:, 1].numpy())


@pytest.mark.slow
def test_hostile_and_foreign_pickles_run_no_code(tmp_path: Path) -> None:
    """A pickle that would run a command, a whole module and a NaN are each refused, in words."""
    import torch

    canary = tmp_path / "canary"
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"w": Boom(str(canary))}))
    with pytest.raises(CheckpointError, match="state dict"):
        take_weights(path, tmp_path / "out.safetensors")
    assert not canary.exists()
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pt")
    with pytest.raises(CheckpointError, match="state dict"):
        take_weights(tmp_path / "whole.pt", tmp_path / "out.safetensors")
    torch.save({"epoch": 3, "w": torch.ones(1)}, tmp_path / "mixed.pt")
    with pytest.raises(CheckpointError, match="'epoch' is no tensor"):
        take_weights(tmp_path / "mixed.pt", tmp_path / "out.safetensors")
    torch.save({"w": torch.tensor([float("nan")])}, tmp_path / "nan.pt")
    with pytest.raises(NonFiniteWeights):
        take_weights(tmp_path / "nan.pt", tmp_path / "out.safetensors")
