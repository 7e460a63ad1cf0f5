"""What builds in containers are told of packages; no engine is needed for these."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.containers import packages


@pytest.mark.parametrize(
    "configured", [{}, {"index-url": "https://packages.example/simple", "timeout": "9"}]
)
def test_a_pip_conf_can_be_told_from_pips_own_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, configured: dict[str, str]
) -> None:
    """Also where pip is told of no place: then it would be a line that stands in pip as well."""
    monkeypatch.setattr(packages, "configured", lambda: configured)
    with packages.pip_for_builds(tmp_path / "pip.conf") as path:
        assert path.read_text().splitlines()[-1] == f"# {packages.CANARY}"
        listed = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"],
            env={"PIP_CONFIG_FILE": str(path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    assert packages.CANARY not in listed
    assert ("packages.example" in listed) == bool(configured)
