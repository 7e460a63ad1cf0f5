"""OpenSSF Scorecard's checks, as far as the files of a repository answer them: what each finds wrong.

Ours are stricter where a file can tell more: a dependency is pinned by digest, whoever installs it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator
from typing import Any

from tests.ci.test_workflows import WRITES as WRITTEN
from tests.ci.workflows import load

# The repository: path to content. What `reprune init --ci` writes lies below `written/`.
Files = dict[str, bytes]

MAGIC = {
    b"\x7fELF": "ELF",
    b"MZ": "a Windows program",
    b"\xcf\xfa\xed\xfe": "Mach-O",
    b"\xca\xfe\xba\xbe": "Mach-O or a class of Java",
    b"!<arch>": "a static library",
    b"\x00asm": "WebAssembly",
    b"PK\x03\x04": "a zip, wheel or jar",
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
}
COMPILED = re.compile(
    r"\.(so|dll|dylib|exe|o|a|lib|class|jar|pyc|pyo|wasm|whl|egg|deb|rpm|msi|iso)$"
)
# What each job may write; a line more here is a decision. Of what we write, test_workflows.py says it.
WRITES: dict[str, set[str]] = {
    ".github/workflows/ci.yml:check": set(),
    ".github/workflows/codeql.yml:analyse": {"security-events"},
    **{f".github/workflows/nightly.yml:{job}": set() for job in ("deep", "containers", "chart")},
    ".github/workflows/release.yml:check": set(),
    ".github/workflows/release.yml:build": set(),
    ".github/workflows/release.yml:attest": {"id-token", "attestations"},
    ".github/workflows/release.yml:release": {"contents"},
    ".github/workflows/release.yml:publish": {"id-token"},
    **{f"written/reprune-{where.replace('/', '.yml:')}": what for where, what in WRITTEN.items()},
}
# What anybody outside can put words into.
FOREIGN = re.compile(
    r"github\.(event\.(issue|pull_request|comment|review|discussion|pages|commits|head_commit|workflow_run"
    r"|client_payload)|head_ref|base_ref|ref_name)"
)
UNTRUSTED_TRIGGERS = {"pull_request_target", "workflow_run", "issue_comment", "issues"}
# Installs that name no digest, and why: where, what, reason.
BY_VERSION = (
    ("supply/install.sh", "-c constraints.txt torch", "CUDA's libraries, where there is no CPU build"),
    ("supply/install.sh", "--no-deps --no-build-isolation -e .", "it is this repository"),
    ("images/", "--no-deps --no-build-isolation --prefix /out /build/reprune", "it is this repository"),
    ("images/tensorrt.Containerfile", "-c /build/constraints.txt", "CUDA: only the nodes' owner can tell"),
    ("src/reprune/template/Containerfile", '-r "$needs"', "the project's own list"),
    ("written/", '-r "$needs"', "the project's own lists"),
    ("src/reprune/template-ci/", '-r "$needs"', "as above, before it is written"),
    ("written/", '"reprune', "a release cannot hold its own digest; the version is exact"),
    ("src/reprune/template-ci/", '"reprune', "as above, before it is written"),
    ("action.yml", '"$ACTION[$extra]"', "this repository, with the versions of its constraints"),
    ("action.yml", '"$INSTALL"', "the caller's own words"),
)  # fmt: skip
# Bases that have no digest, and why.
BASES = {
    "images/tensorrt.Containerfile": "no default: the driver of the nodes decides",
    "src/reprune/template/Containerfile": "Reprune's own at this version, until its owner names a digest",
}
PIP = re.compile(
    r"(?:\bpip3?|\$\{?HASHED\}?|\$\(HASHED\)) install\b[^\n;&|]*|-m \$\(HASHED\)[^\n]*"
)


def texts(files: Files, *ends: str) -> dict[str, str]:
    """The files whose names end so, as text with continued lines joined."""
    return {
        name: data.decode("utf-8").replace("\\\n", " ")
        for name, data in sorted(files.items())
        if name.endswith(ends)
    }


def workflows(files: Files) -> dict[str, dict[str, Any]]:
    """The workflows, ours and those that we write."""
    found = texts(files, ".yml", ".yaml")
    places = (".github/workflows/", "written/")
    return {name: load(text) for name, text in found.items() if name.startswith(places)}


def jobs(files: Files) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    for name, workflow in workflows(files).items():
        for job, content in workflow["jobs"].items():
            yield f"{name}:{job}", content, workflow


def binary_artifacts(files: Files) -> Iterator[str]:
    """Nothing that only a program can read and another could have put there."""
    for name, data in files.items():
        if COMPILED.search(name):
            yield f"{name}: named as compiled"
        kinds = [kind for magic, kind in MAGIC.items() if data.startswith(magic)]
        yield from (f"{name}: {kind}" for kind in kinds)


def dangerous_workflow(files: Files) -> Iterator[str]:
    """No foreign code where a token is, and no foreign words in a script."""
    for where, job, workflow in jobs(files):
        untrusted = UNTRUSTED_TRIGGERS & set(workflow["on"])
        for step in job["steps"]:
            if untrusted and "checkout" in step.get("uses", ""):
                yield f"{where}: checks out under {', '.join(untrusted)}"
            if "${{" in step.get("run", ""):
                yield f"{where}: an expression inside a script"
            if "github-script" in step.get("uses", "") and FOREIGN.search(str(step)):
                yield f"{where}: foreign words in a script"
        yield from (
            f"{where}: reads all secrets" for _ in re.findall(r"toJSON\(secrets\)", str(job))
        )


def token_permissions(files: Files) -> Iterator[str]:
    """None at the top; each job names what it reads and the little that it writes."""
    for name, workflow in workflows(files).items():
        if workflow.get("permissions") != {}:
            yield f"{name}: permissions at the top"
    for where, job, _ in jobs(files):
        asked = job.get("permissions")
        if not isinstance(asked, dict):
            yield f"{where}: names no permissions"
            continue
        writes = {scope for scope, level in asked.items() if level != "read"}
        if writes != WRITES.get(where):
            yield f"{where}: writes {sorted(writes)}"


def pinned_dependencies(files: Files) -> Iterator[str]:
    """Actions by commit, bases and packages by digest, downloads checked."""
    for name, text in texts(files, ".yml").items():
        for line in re.findall(r"^\s*-? *uses: *(.*)$", text, re.MULTILINE):
            if not re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line):
                yield f"{name}: {line}"
    yield from _bases(files)
    for name, text in texts(files, ".sh", ".yml", "Containerfile", "Makefile", ".ci/run").items():
        for line in PIP.findall(text):
            yield from _install(name, line)
    yield from _fetches(files)


def _bases(files: Files) -> Iterator[str]:
    for name, text in texts(files, "Containerfile").items():
        defaults = dict(re.findall(r"^ARG (\w+)=(\S+)$", text, re.MULTILINE))
        stages = set(re.findall(r"^FROM \S+ AS (\w+)$", text, re.MULTILINE))
        for base in re.findall(r"^FROM (\S+)", text, re.MULTILINE):
            variable = re.fullmatch(r"\$\{(\w+)\}", base)
            named = defaults.get(variable[1], "") if variable else base
            fine = named in stages or re.search(r"@sha256:[0-9a-f]{64}$", named)
            if not fine and name not in BASES:
                yield f"{name}: FROM {named or base}"
    for name, text in texts(files, "gitlab/reprune.yml").items():
        for image in re.findall(r"^ *image: *(\S+)$", text, re.MULTILINE):
            if not re.search(r"@sha256:[0-9a-f]{64}$", image):
                yield f"{name}: image {image}"


def _install(name: str, line: str) -> Iterator[str]:
    hashed = "--require-hashes" in line or "$(HASHED)" in line
    known = any(name.startswith(where) and what in line for where, what, _ in BY_VERSION)
    if not hashed and not known:
        yield f"{name}: {line.strip()}"


def _fetches(files: Files) -> Iterator[str]:
    for name, text in texts(files, ".sh", ".yml", "Containerfile", "Makefile", ".ci/run").items():
        code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
        if re.search(r"\b(curl|wget)\b[^\n]*(\||-o|-O|>)", code):
            yield f"{name}: downloads without a package client"
        if re.search(r"\b(npm (install|i|ci|exec)|npx|yarn|pnpm)\b", code):
            exact = re.search(r"^package=[\w.-]+@\d+\.\d+\.\d+$", code, re.MULTILINE)
            digest = re.search(r"^digest=[0-9a-f]{64}$", code, re.MULTILINE)
            checked = code.count("is_right") >= 3 and "sha256sum" in code
            if not (exact and digest and checked and "--ignore-scripts" in code):
                yield f"{name}: npm without a digest that is checked"
        if re.search(r"\b(go|cargo|gem|conda) install\b", code):
            yield f"{name}: installs without a lock"


def security_policy(files: Files) -> Iterator[str]:
    """Where to report, in private, and what happens then."""
    text = files.get("SECURITY.md", b"").decode()
    for what, pattern in {
        "no SECURITY.md": r"\S",
        "says no place to report": r"Report a vulnerability|mailto:|@[\w-]+\.\w+",
        "promises no time": r"\d+ days",
        "says nothing of disclosure": r"(?i)disclos",
    }.items():
        if not re.search(pattern, text):
            yield what


def licence(files: Files) -> Iterator[str]:
    """The text of an OSI licence at the root, and the same one in the metadata."""
    text = files.get("LICENSE", b"").decode()
    if "Apache License" not in text or "Version 2.0, January 2004" not in text:
        yield "LICENSE is not Apache-2.0's text"
    if "END OF TERMS AND CONDITIONS" not in text:
        yield "LICENSE is cut short"
    project = tomllib.loads(files["pyproject.toml"].decode())["project"]
    if project.get("license") != "Apache-2.0" or "LICENSE" not in project.get("license-files", ()):
        yield "pyproject.toml names another licence, or does not ship it"


# What comes from outside, and the test that throws mutants or generated input at what reads it.
FUZZED = {
    "model files": ("tests/hostile/fuzz.py", r"mutant"),
    "verdicts, receipts and policies": ("tests/monotonic.py", r"random"),
    "requests to the service": ("tests/doors/service/", r"schemathesis"),
    "laws of what is decoded": ("tests/", r"from hypothesis import"),
}


def fuzzing(files: Files) -> Iterator[str]:
    """Each kind of input from outside has a test that invents input for it."""
    for what, (place, pattern) in FUZZED.items():
        found = (data for name, data in files.items() if name.startswith(place))
        if not any(re.search(pattern, data.decode("utf-8", "replace")) for data in found):
            yield f"nothing invents {what}"


def sast(files: Files) -> Iterator[str]:
    """CodeQL at every change, and ruff's rules of security, types and import directions in each check."""
    analysing = [
        workflow
        for workflow in workflows(files).values()
        if "github/codeql-action/analyze@" in str(workflow)
    ]
    if not any({"pull_request", "push"} <= set(workflow["on"]) for workflow in analysing):
        yield "no analysis at every change"
    lint = tomllib.loads(files["pyproject.toml"].decode())["tool"]["ruff"]["lint"]["select"]
    wanted = {"BLE", "S102", "S202", "S301", "S307", "S506", "S602", "S605"}
    yield from (f"ruff does not ask {rule}" for rule in sorted(wanted - set(lint)))
    make = files["Makefile"].decode()
    yield from (
        f"make lint does not run {tool}"
        for tool in ("ruff check", "mypy --strict", "lint-imports")
        if tool not in make
    )


def sbom(files: Files) -> Iterator[str]:
    """A release has one, made in the run that builds it."""
    release = _release(files)
    if "python -m supply.sbom dist/" not in release:
        yield "a release has no bill of materials"
    if "sbom: env" not in files["Makefile"].decode():
        yield "there is no `make sbom`"
    if "supply/sbom.py" not in files:
        yield "nothing writes it"


# Where pins are, by the ecosystem that reads them.
UPDATED = (
    ("pip", "/"),
    ("pip", "/.ci"),
    ("docker", "/images"),
    ("docker", "/.ci"),
    ("github-actions", "/"),
)


def dependency_update_tool(files: Files) -> Iterator[str]:
    """One that knows every kind of pin there is, and pins that stand where it reads them."""
    text = files.get(".github/dependabot.yml", b"{}").decode()
    entries = load(text).get("updates", ())
    read = {
        (each["package-ecosystem"], place)
        for each in entries
        for place in [each.get("directory"), *each.get("directories", ())]
    }
    for ecosystem, place in UPDATED:
        if (ecosystem, place) not in read:
            yield f"nothing updates {ecosystem} in {place}"
    yield from _unread(files)


def _unread(files: Files) -> Iterator[str]:
    """Images that Dependabot does not read: it takes them from FROM alone, without arguments."""
    seen = set()
    for name, text in texts(files, "Containerfile").items():
        seen |= set(re.findall(r"^FROM (\S+@\S+)", text, re.MULTILINE))
        for argument, image in re.findall(r"^ARG (\w+)=(\S+@\S+)$", text, re.MULTILINE):
            yield f"{name}: nothing updates {argument}, {image}"
    for name, text in texts(files, "gitlab/reprune.yml").items():
        for image in re.findall(r"^ *image: *(\S+)$", text, re.MULTILINE):
            if image not in seen:
                yield f"{name}: nothing updates {image}"


# Targets that take too long for a pull request.
NIGHTLY = ("test-deep", "test-containers", "test-chart-security")


def ci_tests(files: Files) -> Iterator[str]:
    """Each pull request runs the whole check, and each night what takes longer."""
    runs = [
        step.get("run", "").strip()
        for where, job, workflow in jobs(files)
        if where.startswith(".github/") and "pull_request" in workflow["on"]
        for step in job["steps"]
    ]
    if ".ci/run" not in runs:
        yield "no pull request runs .ci/run"
    if "\nmake check " not in files[".ci/run"].decode():
        yield ".ci/run does not run `make check`"
    scheduled = [
        step.get("run", "")
        for where, job, workflow in jobs(files)
        if where.startswith(".github/") and "schedule" in workflow["on"]
        for step in job["steps"]
    ]
    for target in NIGHTLY:
        if not any(each.endswith(f"make {target}") for each in scheduled):
            yield f"nothing runs `make {target}` by itself"


ON_MAIN = "git merge-base --is-ancestor HEAD origin/main"


def packaging(files: Files) -> Iterator[str]:
    """A tag on main is checked, built twice, compared, attested and published without a password."""
    release = _release(files)
    yield from _unchecked(load(release)["jobs"])
    for what, pattern in {
        "nothing publishes": r"pypa/gh-action-pypi-publish@[0-9a-f]{40}",
        "it is not attested": r"actions/attest-build-provenance@[0-9a-f]{40}",
        "two builds are not compared": r"diff -r dist ",
        "not on a tag": r"tags: \[",
        "a build fetches its own tools": r"build --no-isolation",
    }.items():
        if not re.search(pattern, release):
            yield what
    if re.search(r"^[^#\n]*(password|secrets\.)", release, re.MULTILINE):
        yield "a password is used"


def _unchecked(release: dict[str, Any]) -> Iterator[str]:
    """Jobs that do not wait for one that ran the whole check on a commit of main, or may go on without."""
    passed = {
        name
        for name, job in release.items()
        if {".ci/run", ON_MAIN} <= {step.get("run", "").strip() for step in job["steps"]}
        and not any("if" in each or "continue-on-error" in each for each in [job, *job["steps"]])
    }
    # One that stands before what it waits for is named too.
    for name, job in release.items():
        needs = job.get("needs", [])
        if passed & set([needs] if isinstance(needs, str) else needs) and "if" not in job:
            passed.add(name)
        elif name not in passed:
            yield f"{name} waits for no check of a commit on main"


def _release(files: Files) -> str:
    return files.get(".github/workflows/release.yml", b"").decode()


CHECKS: dict[str, Callable[[Files], Iterator[str]]] = {
    "Binary-Artifacts": binary_artifacts,
    "Dangerous-Workflow": dangerous_workflow,
    "Token-Permissions": token_permissions,
    "Pinned-Dependencies": pinned_dependencies,
    "Security-Policy": security_policy,
    "License": licence,
    "Fuzzing": fuzzing,
    "SAST": sast,
    "SBOM": sbom,
    "Dependency-Update-Tool": dependency_update_tool,
    "CI-Tests": ci_tests,
    "Packaging": packaging,
}
