"""One commit, two builds: the same bytes, whatever the folder, clock, umask, time zone and locale.

The second makes its wheel of the tree, the first of its own archive of sources: so that archive is whole.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EPOCH = "1700000000"


def tracked() -> list[str]:
    """What git knows of."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    return [name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).exists()]


def copied(to: Path, names: list[str], when: int, mask: int) -> Path:
    """The tracked files there, in that order, with that time and without those permissions."""
    for name in names:
        target = to / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
        target.chmod((0o777 if os.access(ROOT / name, os.X_OK) else 0o666) & ~mask)
        os.utime(target, (when, when))
    return to


def built(source: Path, *how: str, **environment: str) -> dict[str, bytes]:
    """File name to content of what a build makes."""
    out = source.parent / f"{source.name}-out"
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), *how, str(source)],
        env={"PATH": os.environ["PATH"], "SOURCE_DATE_EPOCH": EPOCH, **environment},
        umask=0o022 if not environment else 0o077,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], dict[str, bytes]]:
    names = tracked()
    root = tmp_path_factory.mktemp("builds")
    first = copied(root / "a", sorted(names), 1_000_000_000, 0o022)
    second = copied(root / "elsewhere" / "b" / "c", sorted(names)[::-1], 1_600_000_001, 0o077)
    elsewhere = {"TZ": "Pacific/Chatham", "LC_ALL": "C", "PYTHONHASHSEED": "7", "HOME": str(root)}
    return built(first), built(second, "--sdist", "--wheel", **elsewhere)


@pytest.mark.slow
def test_two_builds_are_the_same_bytes(
    pair: tuple[dict[str, bytes], dict[str, bytes]],
) -> None:
    first, second = pair
    digests = [
        {name: hashlib.sha256(data).hexdigest() for name, data in each.items()} for each in pair
    ]
    assert sorted(name.rpartition(".")[2] for name in first) == ["gz", "whl"]
    assert digests[0] == digests[1]
    print(f"2 files of 2 builds, {sum(map(len, second.values()))} bytes, the same")


def laid(files: dict[str, bytes], suffix: str, folder: Path) -> Path:
    """The one of these files that ends so, in the folder."""
    (name,) = [name for name in files if name.endswith(suffix)]
    (folder / name).write_bytes(files[name])
    return folder / name


@pytest.mark.slow
def test_the_archive_holds_all_that_is_tracked(
    pair: tuple[dict[str, bytes], dict[str, bytes]], tmp_path: Path
) -> None:
    """So whoever has it alone has the tests, the locks, SECURITY.md, the images and the docs."""
    file = laid(pair[0], ".tar.gz", tmp_path)
    with tarfile.open(file) as archive:
        held = {Path(*Path(each.name).parts[1:]).as_posix() for each in archive if each.isfile()}
    assert held == {*tracked(), "PKG-INFO"}


@pytest.mark.slow
def test_the_wheel_holds_the_package_alone(
    pair: tuple[dict[str, bytes], dict[str, bytes]], tmp_path: Path
) -> None:
    """No test, no lock, nothing at the top but the package and its metadata; and the licence."""
    with zipfile.ZipFile(laid(pair[0], ".whl", tmp_path)) as wheel:
        held = wheel.namelist()
        dates = {entry.date_time for entry in wheel.infolist()}
    assert {each.partition("/")[0].partition("-")[0] for each in held} == {"reprune"}
    assert any(each.endswith(".dist-info/licenses/LICENSE") for each in held)
    assert "reprune/catalogue/components/gate/component.py" in held
    assert len(dates) == 1


@pytest.mark.slow
def test_the_archive_alone_gives_the_same_bytes(
    pair: tuple[dict[str, bytes], dict[str, bytes]], tmp_path: Path
) -> None:
    """`make dist` there, where no git tells the commit's time."""
    file = laid(pair[0], ".tar.gz", tmp_path)
    with tarfile.open(file) as archive:
        archive.extractall(tmp_path, filter="data")
    source = tmp_path / file.name.removesuffix(".tar.gz")
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    (tmp_path / "venv" / ".stamp").touch()
    done = subprocess.run(
        ["make", "dist", f"VENV={tmp_path / 'venv'}"],
        cwd=source,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (source / "dist" / "sbom.cdx.json").exists()
    assert {each: (source / "dist" / each).read_bytes() for each in pair[0]} == pair[0]
