"""A terminal that lacks characters gets ones that look like them; JSON stays JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reprune.doors import screen
from tests.report.scenes import BLOCKED, PASSED
from tests.report.verdicts import write_verdict


def said(root: Path, encoding: str, *words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "reprune.doors.cli", *words],
        cwd=root,
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_every_encoding_is_written_to(encoding: str, tmp_path: Path) -> None:
    """As wide as in UTF-8, each sign by one that looks like it; an error's words too."""
    write_verdict(PASSED, tmp_path / "a")
    write_verdict(BLOCKED, tmp_path / "b")
    done = said(tmp_path, encoding, "diff", "a/verdict", "b/verdict")
    assert done.returncode == 0
    text = done.stdout.decode(encoding)
    minus = "\u2212" if encoding == "utf-8" else "-"
    assert f"{minus}6.00 pt blocked" in text
    assert "\\u" not in text
    refused = said(tmp_path, encoding, "explain", "\N{SNOWMAN}/x")
    assert refused.returncode == 2
    assert "no such" in refused.stderr.decode(encoding) or "is not there" in refused.stderr.decode(
        encoding
    )


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_json_is_the_same_in_every_encoding(encoding: str, tmp_path: Path) -> None:
    """Also for what lies outside the first plane."""
    found = [
        json.loads(
            said(
                tmp_path, each, "diff", "x/\N{SNOWMAN}\N{GRINNING FACE}\u2212", "y", "--json"
            ).stdout.decode(each)
        )
        for each in (encoding, "utf-8")
    ]
    assert found[0] == found[1]
    assert found[0]["where"].endswith("\N{SNOWMAN}\N{GRINNING FACE}\u2212")


@pytest.mark.parametrize(
    ("asked", "given"), [("60", 60), ("10", 40), ("300", 100), ("", 100), ("x", 100)]
)
def test_lines_are_as_wide_as_the_terminal(
    asked: str, given: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between 40 and 100; a pipe gets 100."""
    monkeypatch.setenv("COLUMNS", asked)
    assert screen.columns() == given
