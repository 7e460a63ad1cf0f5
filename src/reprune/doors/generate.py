"""Writes everything in the tree that is derived from the code, or checks that it is fresh.

`python -m reprune.doors.generate [--check]`: the JSON Schemas of what people write and what commands
print, the dvc.yaml that `reprune init` copies, and of every component and pipeline the README, of every
pipeline its compiled package.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from reprune.core.artifacts import KINDS
from reprune.core.lock import Lock
from reprune.core.overrides import Overrides
from reprune.core.params import Params
from reprune.core.policy import Policy
from reprune.core.store import write_bytes
from reprune.doors.cluster import Machines
from reprune.doors.init import TEMPLATE
from reprune.doors.kfp.catalogue import names
from reprune.doors.kfp.packages import compile_package, same
from reprune.doors.kfp.readmes import every_readme
from reprune.doors.local import DVC_FILE, dvc_text
from reprune.doors.output import OUTPUTS
from reprune.doors.service.config import ServiceConfig
from reprune.orchestrate.notices import Envelope
from reprune.orchestrate.reconcile_watch import Watches
from reprune.steps.project import Project
from reprune.steps.promoter import Promoter

SCHEMAS = Path("docs/schemas")
PIPELINES = Path("pipelines")


def generated() -> dict[Path, bytes]:
    """Path (from the repository's root) to content, for every derived file."""
    found: dict[Path, bytes] = {
        TEMPLATE.relative_to(Path.cwd()) / DVC_FILE: dvc_text().encode(),
    }
    documents: dict[str, Any] = {
        "params": Params,
        "policy": Policy,
        "lock": Lock,
        "overrides": Overrides,
        "promoter": Promoter,
        "machines": Machines,
        "project": Project,
        "serve": ServiceConfig,
        "watches": Watches,
        "notice": Envelope,
    }
    for name, kind in documents.items():
        found[SCHEMAS / f"{name}.schema.json"] = _schema(kind)
    for name, kind in KINDS.items():
        found[SCHEMAS / "manifests" / f"{name}.schema.json"] = _schema(kind)
    for name, output in OUTPUTS.items():
        found[SCHEMAS / "output" / f"{name}.schema.json"] = _schema(output)
    for path, text in every_readme().items():
        found[path] = text.encode()
    for name in names():
        found[PIPELINES / name / f"{name}.yaml"] = compile_package(name).content
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the files, or with `--check` returns 1 and names those that are stale or left over."""
    check = "--check" in (sys.argv[1:] if arguments is None else arguments)
    wanted = generated()
    stale = [path for path, content in wanted.items() if not _fresh(path, content)]
    left_over = [path for path in SCHEMAS.rglob("*.json") if path not in wanted]
    if not check:
        for path in stale:
            write_bytes(path, wanted[path])
            print(f"wrote {path}")
        for path in left_over:
            path.unlink()
            print(f"removed {path}")
        return 0
    for path in (*stale, *left_over):
        print(f"stale: {path} (run `make generate`)", file=sys.stderr)
    return 1 if stale or left_over else 0


def _fresh(path: Path, content: bytes) -> bool:
    if not path.exists():
        return False
    there = path.read_bytes()
    if path.suffix == ".yaml" and path.is_relative_to(PIPELINES):
        # Another patch of kfp, or a comment, is no other pipeline.
        return same(there, content)
    return there == content


def _schema(kind: Any) -> bytes:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **msgspec.json.schema(kind),
    }
    return msgspec.json.format(msgspec.json.encode(schema, order="sorted"), indent=2) + b"\n"


if __name__ == "__main__":
    sys.exit(main())
