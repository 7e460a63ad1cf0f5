"""`reprune compile`: our pipelines as the files that Kubeflow Pipelines takes."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from reprune.core.errors import EXIT_DONE, InputError
from reprune.doors.root import enter

if TYPE_CHECKING:
    from reprune.doors.kfp.options import Options

Execute: TypeAlias = Callable[[argparse.Namespace], int]

_QUANTITY = re.compile(r"[1-9]\d*(\.\d+)?(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def define_compile(parser: argparse.ArgumentParser) -> Execute:
    """`reprune compile [PIPELINE ...]`: writes packages, each whole and checked, or nothing."""
    parser.description = (
        "Writes our pipelines as YAML packages, and with --kubernetes as manifests for GitOps, and prints "
        "their digests. Each is checked first: its schema, every reference in it, and the wiring that a "
        "promotion rests on. The same version and options give the same bytes."
    )
    parser.add_argument("pipelines", nargs="*", metavar="PIPELINE", help="all of them if none")
    parser.add_argument("--out", default=".", type=Path, metavar="DIR", help="where to write (.)")
    parser.add_argument(
        "--control-image",
        metavar="IMAGE",
        help="for what touches the registry and judges; a run may still be given another",
    )
    parser.add_argument("--compress-image", metavar="IMAGE", help="for what runs the model")
    parser.add_argument(
        "--workspace", metavar="SIZE", help='a volume that artefacts stay on, as "50Gi"'
    )
    parser.add_argument("--storage-class", metavar="NAME", help="of the workspace")
    parser.add_argument(
        "--data-claim", metavar="NAME", help="a volume claim with the task's data, mounted at /data"
    )
    parser.add_argument(
        "--registry-claim",
        metavar="NAME[:PATH]",
        help="a volume claim with the registry's files, mounted at PATH (/registry) where it is used",
    )
    parser.add_argument(
        "--retries", type=int, metavar="N", help="of tasks that may run twice; 0: none"
    )
    parser.add_argument("--timeout", type=int, metavar="SECONDS", help="that end a task")
    parser.add_argument(
        "--kubernetes",
        action="store_true",
        help="also write Pipeline and PipelineVersion manifests",
    )
    parser.add_argument("--namespace", default="", metavar="NS", help="of these manifests")

    def execute(parsed: argparse.Namespace) -> int:
        enter(parsed.root)
        return _execute(parsed)

    return execute


def _execute(parsed: argparse.Namespace) -> int:
    from reprune.core.store import write_bytes
    from reprune.doors.kfp.catalogue import names
    from reprune.doors.kfp.packages import compile_package, manifests
    from reprune.doors.output import CompiledFile, CompileOutput

    options = _options(parsed)
    packages = [compile_package(name, options) for name in parsed.pipelines or names()]
    written = []
    for package in packages:
        contents = {f"{package.name}.yaml": package.content}
        if parsed.kubernetes:
            contents[f"{package.name}.manifests.yaml"] = manifests(package, parsed.namespace)
        for file, content in contents.items():
            write_bytes(parsed.out / file, content)
            written.append(
                CompiledFile(
                    pipeline=package.name, path=str(parsed.out / file), digest=package.digest
                )
            )
    if parsed.json:
        print(msgspec.json.encode(CompileOutput(written=tuple(written))).decode())
    else:
        for each in written:
            print(f"{each.path}  {each.digest}")
    _tell_of_built_in(options)
    return EXIT_DONE


def _tell_of_built_in(options: Options) -> None:
    from reprune.doors.kfp.images import built_in

    images = {"--control-image": options.control_image, "--compress-image": options.compress_image}
    left = [flag for flag, image in images.items() if built_in(image)]
    if left:
        print(
            f"no {' and '.join(left)}: the default is a name that nobody publishes; each run needs its "
            "images named (`reprune submit --image --control-image`)",
            file=sys.stderr,
        )


def _options(parsed: argparse.Namespace) -> Options:
    """What was asked for, and our defaults for the rest. Raises InputError."""
    from dataclasses import replace

    from reprune.doors.kfp.options import DEFAULT
    from reprune.doors.kfp.wiring import pinned

    if parsed.namespace and not parsed.kubernetes:
        raise InputError("--namespace is for the manifests", fix="add --kubernetes")
    if parsed.namespace and not _LABEL.fullmatch(parsed.namespace):
        raise InputError(f"'{parsed.namespace}' is no name of a namespace", where="--namespace")
    if parsed.workspace and not _QUANTITY.fullmatch(parsed.workspace):
        raise InputError(
            f"'{parsed.workspace}' is no size of a volume", where="--workspace", fix="as 50Gi"
        )
    if parsed.storage_class and not parsed.workspace:
        raise InputError("--storage-class is for the workspace", fix="add --workspace")
    for flag in ("control_image", "compress_image"):
        image = getattr(parsed, flag)
        if image is not None and not pinned(image):
            raise InputError(
                f"'{image}' does not say which image it is",
                where=f"--{flag.replace('_', '-')}",
                fix="name a digest (IMAGE@sha256:...), or at least a tag other than latest",
            )
    for flag, least in (("retries", 0), ("timeout", 1)):
        value = getattr(parsed, flag)
        if value is not None and value < least:
            raise InputError(f"--{flag} takes a whole number from {least} on, not {value}")
    asked: dict[str, str | int | None] = {
        "control_image": parsed.control_image,
        "compress_image": parsed.compress_image,
        "workspace": parsed.workspace,
        "storage_class": parsed.storage_class,
        "data_claim": parsed.data_claim,
        **_registry(parsed.registry_claim),
        "retries": parsed.retries,
        "timeout_s": parsed.timeout,
    }
    given: dict[str, Any] = {key: value for key, value in asked.items() if value is not None}
    return replace(DEFAULT, **given)


def _registry(claim: str | None) -> dict[str, str]:
    """The options of `--registry-claim NAME[:PATH]`. Raises InputError."""
    if claim is None:
        return {}
    from reprune.doors.kfp.options import REGISTRY_FILES

    name, _, path = claim.partition(":")
    place = PurePosixPath(path or REGISTRY_FILES)
    if not name or not place.is_absolute() or place == PurePosixPath("/") or ":" in path:
        raise InputError(
            f"'{claim}' names no claim and folder",
            where="--registry-claim",
            fix="as registry-files, or registry-files:/mnt/versions",
        )
    return {"registry_claim": name, "registry_path": str(place)}
