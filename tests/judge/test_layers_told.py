"""A parity failure names the layers that differ most, or says plainly that they cannot be told."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from reprune.core.artifacts import LayerError, Parity
from reprune.judge.verdict import judge
from tests.building import make_evidence, make_policy

FAR = Parity(examples=64, max_abs=2.0, cosine=0.5, agreement=0.5)
WORST = (LayerError(layer="conv1", relative=0.9),)
UNTOLD = "which layers differ cannot be told for engines of"


def said(runtime: str, suffix: str, *, parity: Parity | None = None, layers: bool = False) -> str:
    """All words of the verdict on a candidate whose engine is of that runtime."""
    plain = make_evidence()
    engines = tuple(
        replace(
            one,
            runtime=runtime,
            file=f"cpu/{one.arm}{suffix}",
            parity=parity or one.parity,
            **({"worst_layers": WORST} if layers else {}),
        )
        if one.arm == "candidate"
        else one
        for one in plain.engines
    )
    found = judge(replace(plain, engines=engines), make_policy())
    assert (found.outcome == "block") == (parity is FAR)
    return " ".join([found.headline, *found.reasons, *(rule.words for rule in found.rules)])


@pytest.mark.parametrize(
    ("runtime", "suffix"),
    [("torch", ".pt2"), ("executorch", ".pte"), ("litert", ".tflite"), ("tensorrt", ".engine")],
)
def test_a_runtime_whose_layers_cannot_be_told_says_so(runtime: str, suffix: str) -> None:
    """Only where something is wrong."""
    assert f"{UNTOLD} {runtime}" in said(runtime, suffix, parity=FAR)
    assert UNTOLD not in said(runtime, suffix)


def test_layers_that_are_told_are_named_instead() -> None:
    words = said("onnxruntime", ".onnx", parity=FAR, layers=True)
    assert "conv1 (0.9)" in words
    assert UNTOLD not in words


def test_of_an_onnx_file_it_is_never_said() -> None:
    """It may have no layer to name: what is rounded when it is opened is in none."""
    assert UNTOLD not in said("openvino", ".onnx", parity=FAR)
