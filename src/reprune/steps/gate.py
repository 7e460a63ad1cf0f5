"""gate: judges the candidate and writes a directory from which anybody can judge it again."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from reprune.core import store
from reprune.core.artifacts import (
    PAST_PLAN,
    Benchmark,
    DataReport,
    Engines,
    Judgement,
    ModelBundle,
    Plan,
    Previous,
    Producer,
    Profile,
    Sensitivity,
    Verdict,
)
from reprune.core.documents import canonical, decode_json, digest_of, read_bounded
from reprune.core.errors import ArtifactError, ChainBroken, PayloadCorrupt
from reprune.core.lock import Lock
from reprune.core.params import Params
from reprune.core.policy import Policy, check_policy
from reprune.core.step import Context, knobs_digest, step
from reprune.core.store import Artifact
from reprune.judge.verdict import judge
from reprune.steps.assemble import assemble
from reprune.steps.grounds import Grounds, Measured
from reprune.steps.past import check_past_plan, copy_past_plan

T = TypeVar("T")

SINGLE = ("candidate", "pruned", "dense", "previous", "data", "chosen", "table")
LISTS = ("benchmarks", "engines", "profiles")


@step("gate")
def gate(
    benchmarks: list[Artifact[Benchmark]],
    engines: list[Artifact[Engines]],
    profiles: list[Artifact[Profile]],
    candidate: Artifact[ModelBundle],
    pruned: Artifact[ModelBundle],
    dense: Artifact[ModelBundle],
    previous: Artifact[Previous],
    data: Artifact[DataReport],
    chosen: Artifact[Plan],
    table: Artifact[Sensitivity],
    lock: Lock,
    policy: Policy,
    params: Params,
    ctx: Context,
) -> Verdict:
    """Judges the candidate against its parent and the champion, and says why in words.

    The step succeeds whatever the outcome; `reprune check` carries the exit code.
    """
    singles: dict[str, Artifact[Any]] = {
        "candidate": candidate,
        "pruned": pruned,
        "dense": dense,
        "previous": previous,
        "data": data,
        "chosen": chosen,
        "table": table,
    }
    lists: dict[str, list[Artifact[Any]]] = {
        "benchmarks": benchmarks,
        "engines": engines,
        "profiles": profiles,
    }
    grounds = _grounds(singles, lists, {"lock": lock, "policy": policy, "params": params})
    evidence = assemble(grounds)
    judgement = judge(evidence, policy)
    ancestors = [*singles.values(), *(item for items in lists.values() for item in items)]
    _write_payload(ctx.out, grounds, ancestors, canonical(evidence))
    copy_past_plan(previous, ctx.out)
    ctx.say(f"{judgement.outcome}: {judgement.headline}")
    return Verdict(
        name=lock.name,
        dense_version=lock.dense.version,
        lock=lock.digest,
        policy=digest_of(policy),
        champion=previous.manifest.champion,
        judgement=judgement,
    )


def _grounds(
    singles: Mapping[str, Artifact[Any]],
    lists: Mapping[str, Sequence[Artifact[Any]]],
    documents: Mapping[str, Any],
) -> Grounds:
    digests = {name: item.digest for name, item in singles.items()}
    for name, items in lists.items():
        digests |= {f"{name}.{index}": item.digest for index, item in enumerate(items)}
    manifests: dict[str, Any] = {name: item.manifest for name, item in singles.items()}
    return Grounds(
        digests=digests,
        benchmarks=[
            Measured(digest=item.digest, manifest=item.manifest, folder=item.path)
            for item in lists["benchmarks"]
        ],
        engines=[item.manifest for item in lists["engines"]],
        profiles=[item.manifest for item in lists["profiles"]],
        **documents,
        **manifests,
    )


def recompute(verdict: Artifact[Verdict]) -> Judgement:
    """The judgement made again from the verdict directory alone; it should equal the recorded one.

    Raises ChainBroken or PayloadCorrupt if the directory's own parts do not belong together. The
    caller compares the result with `verdict.manifest.judgement`.
    """
    grounds = read_grounds(verdict)
    check_past_plan(verdict, grounds.previous)
    _check_listed(verdict, grounds)
    if digest_of(grounds.lock) != verdict.manifest.lock:
        raise ChainBroken("its lock.json is not the lock that it names", where=str(verdict.path))
    if digest_of(grounds.policy) != verdict.manifest.policy:
        raise ChainBroken("its policy.json is not the policy it names", where=str(verdict.path))
    evidence = assemble(grounds)
    if canonical(evidence) != verdict.file("evidence.json").read_bytes():
        raise PayloadCorrupt(
            "evidence.json is not what the samples give",
            where=str(verdict.path),
            fix="run `dvc repro` again; do not edit a verdict",
        )
    return judge(evidence, grounds.policy)


def confirm(verdict: Artifact[Verdict]) -> Judgement:
    """The recorded judgement, after it was made again and found equal. Raises ChainBroken otherwise.

    Holds for all that the verdict says: it is of the model, version and champion that its lock names.
    """
    again = recompute(verdict)
    _check_identity(verdict)
    if canonical(again) != canonical(verdict.manifest.judgement):
        raise ChainBroken(
            f"the recorded judgement ({verdict.manifest.judgement.outcome}) is not what its own "
            f"samples give ({again.outcome})",
            where=str(verdict.path),
            fix="run `dvc repro` again; do not edit a verdict",
        )
    return again


def _write_payload(
    out: Path, grounds: Grounds, ancestors: list[Artifact[Any]], evidence: bytes
) -> None:
    (out / "evidence.json").write_bytes(evidence)
    for name in ("lock", "policy", "params"):
        (out / f"{name}.json").write_bytes(canonical(getattr(grounds, name)))
    folder = out / "ancestors"
    folder.mkdir()
    for ancestor in ancestors:
        copy = folder / f"{ancestor.digest.removeprefix('sha256:')}.json"
        copy.write_bytes(canonical(ancestor.manifest))
    for index, measured in enumerate(grounds.benchmarks):
        for name in measured.manifest.payload:
            target = out / "samples" / str(index) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(measured.folder / name, target)


def _check_identity(verdict: Artifact[Verdict]) -> None:
    """Raises ChainBroken for a verdict that says it is about something else than its lock."""
    manifest = verdict.manifest
    lock = _document(verdict, "lock", Lock)
    champion = None if lock.champion == "none" else lock.champion
    knobs = knobs_digest(gate, _document(verdict, "params", Params))
    stated = (manifest.name, manifest.dense_version, manifest.champion, manifest.producer)
    made = Producer(step=gate.name, version=lock.reprune, knobs=knobs)
    if stated != (lock.name, lock.dense.version, champion, made):
        raise ChainBroken(
            "names another model, dense version, champion or Reprune than its lock",
            where=str(verdict.path),
            fix="run `dvc repro` again; do not edit a verdict",
        )


def _check_listed(verdict: Artifact[Verdict], grounds: Grounds) -> None:
    """Raises ChainBroken for a file that no gate writes: promote registers whatever a verdict lists."""
    known = {"evidence.json", "lock.json", "policy.json", "params.json", PAST_PLAN}
    known |= {
        f"ancestors/{digest.removeprefix('sha256:')}.json"
        for digest in verdict.manifest.parents.values()
    }
    known |= {
        f"samples/{index}/{name}"
        for index, measured in enumerate(grounds.benchmarks)
        for name in measured.manifest.payload
    }
    extra = sorted(set(verdict.manifest.payload) - known)
    if extra:
        raise ChainBroken(
            f"lists what is no part of a verdict: {', '.join(extra[:3])}", where=str(verdict.path)
        )


def read_grounds(verdict: Artifact[Verdict]) -> Grounds:
    """What the verdict rests on, from the copies in its directory, every digest checked.

    Raises ChainBroken, PayloadCorrupt, ArtifactError or DocumentError.
    """
    parents = verdict.manifest.parents
    counts = {name: sum(key.startswith(f"{name}.") for key in parents) for name in LISTS}
    expected = {*SINGLE, *(f"{name}.{i}" for name in LISTS for i in range(counts[name]))}
    if set(parents) != expected or not all(counts.values()):
        raise ChainBroken("does not name all that it rests on", where=str(verdict.path))
    kinds: dict[str, Any] = {
        "candidate": ModelBundle,
        "pruned": ModelBundle,
        "dense": ModelBundle,
        "previous": Previous,
        "data": DataReport,
        "chosen": Plan,
        "table": Sensitivity,
    }
    single: dict[str, Any] = {name: ancestor(verdict, name, kinds[name]) for name in SINGLE}
    benchmarks = [
        _measured(verdict, f"benchmarks.{index}", index) for index in range(counts["benchmarks"])
    ]
    documents: dict[str, Any] = {
        name: _document(verdict, name, kind)
        for name, kind in (("lock", Lock), ("policy", Policy), ("params", Params))
    }
    check_policy(documents["policy"], where=str(verdict.path / "policy.json"))
    return Grounds(
        **documents,
        **single,
        digests=dict(parents),
        benchmarks=benchmarks,
        engines=[ancestor(verdict, f"engines.{i}", Engines) for i in range(counts["engines"])],
        profiles=[ancestor(verdict, f"profiles.{i}", Profile) for i in range(counts["profiles"])],
    )


def _document(verdict: Artifact[Verdict], name: str, kind: type[T]) -> T:
    path = verdict.file(f"{name}.json")
    return decode_json(read_bounded(path), kind, name=str(path))


def ancestor(verdict: Artifact[Verdict], name: str, kind: type[store.M]) -> store.M:
    """The manifest of the gate's input `name`, from its copy in the verdict directory, digest checked."""
    digest = verdict.manifest.parents[name]
    path = verdict.file(f"ancestors/{digest.removeprefix('sha256:')}.json")
    manifest = store.decode_any(read_bounded(path), name=str(path))
    if not isinstance(manifest, kind):
        raise ArtifactError(f"is no {kind.__name__}", where=str(path))
    if digest_of(manifest) != digest:
        raise ChainBroken("its content does not have the digest that names it", where=str(path))
    return manifest


def _measured(verdict: Artifact[Verdict], name: str, index: int) -> Measured:
    manifest = ancestor(verdict, name, Benchmark)
    folder = verdict.path / "samples" / str(index)
    for file, digest in manifest.payload.items():
        if verdict.manifest.payload.get(f"samples/{index}/{file}") != digest:
            raise PayloadCorrupt(
                "is not the file that the benchmark wrote", where=str(folder / file)
            )
    return Measured(digest=verdict.manifest.parents[name], manifest=manifest, folder=folder)


def verdict_facts(verdict: Artifact[Verdict]) -> dict[str, object]:
    """The judgement and its identity as plain data, for `--json`."""
    body = msgspec.to_builtins(verdict.manifest.judgement)
    return {
        "name": verdict.manifest.name,
        "dense_version": verdict.manifest.dense_version,
        "verdict": verdict.digest,
        "lock": verdict.manifest.lock,
        **body,
    }
