"""Converters are kept quiet, and what they raise is said in words that name the operator."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import warnings

import pytest

from reprune.runtimes.converters import explained, quiet


def test_nothing_reaches_the_terminal_and_the_reason_is_kept(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with quiet() as said:
        print("printed")
        print("printed as an error", file=sys.stderr)
        os.write(2, b"[method.cpp:1243] the tensor 7 is too large\n")
        logging.getLogger("torch.export").warning("logged")
        warnings.warn("warned", stacklevel=1)
        subprocess.run([sys.executable, "-c", "import os; os.write(2, b'a child')"], check=True)
    assert capfd.readouterr() == ("", "")
    assert said.reason() == "the tensor 7 is too large"
    assert "printed as an error" in said.text
    assert "a child" in said.text
    print("still there")
    os.write(2, b"and this")
    assert capfd.readouterr() == ("still there\n", "and this")


def test_an_error_gives_the_terminal_back_as_well(capfd: pytest.CaptureFixture[str]) -> None:
    level = logging.getLogger("torch").level
    with pytest.raises(ValueError, match="inside"), quiet():
        raise ValueError("inside")
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"
    assert logging.getLogger("torch").level == level


@pytest.mark.parametrize(
    ("text", "operator"),
    [
        (
            "No ONNX function found for <OpOverload(op='aten.fft_rfft', overload='default')>",
            "aten.fft_rfft",
        ),
        ("Missing out variants: {'mine::twice'}", "mine.twice"),
        ("\nOperator torch._ops.aten.median.dim is not in Core ATen opset", "aten.median.dim"),
        ("Operator: <EdgeOpOverload: aten.abs.default>: schema", "aten.abs.default"),
        ("[operator_registry.cpp:1] Missing operator: [3] aten::foo.out", "aten.foo.out"),
    ],
)
def test_an_operator_is_named(text: str, operator: str) -> None:
    found = explained(RuntimeError(text), "ExecuTorch")
    assert found.what == f"the operator {operator} cannot be exported to ExecuTorch"
    assert "replace it" in found.fix


def test_a_cause_further_down_is_found() -> None:
    inner = ValueError("Constraints violated (batch)! For more information")
    outer = RuntimeError("the export failed")
    outer.__cause__ = inner
    assert explained(outer, "ONNX").what.startswith("the model's code fixes its batch size: Constr")
    assert "no reason given" in explained(RuntimeError(""), "ONNX").what
