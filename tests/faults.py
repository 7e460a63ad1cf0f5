"""Forges verdict directories: takes one apart, changes a part, and puts it together again.

A `Forged` is a verdict directory in memory. `signed` corrects every digest that the directory itself
holds; `rebuilt` does what somebody with the whole repository could do: every digest above a changed
part is made again, down to evidence and judgement. So what `rebuilt` shows is not what digests
protect from, but what the gate makes of faulty parts that fit together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from safetensors.numpy import load, save

from reprune.core import store
from reprune.core.artifacts import KINDS, Verdict
from reprune.core.documents import canonical, digest_of
from reprune.core.lock import ChampionRef, Lock
from reprune.core.params import Params
from reprune.core.policy import Policy
from reprune.core.step import knobs_digest
from reprune.core.store import Artifact
from reprune.judge.verdict import judge
from reprune.steps import STEPS, get_step
from reprune.steps.assemble import assemble
from reprune.steps.gate import read_grounds
from reprune.steps.staging import Staged
from tests.chain import Story, write_chain

CHAMPION = ChampionRef(version="7", bundle="sha256:" + "c" * 64, receipt="sha256:" + "d" * 64)
ANCHOR = ChampionRef(version="5", bundle="sha256:" + "a" * 64, receipt="sha256:" + "b" * 64)
POLICY = """
targets: {ort-cpu: required}
latency: {vs_parent: {max_ratio: 0.9}, vs_champion: {max_ratio: 1.1}, vs_anchor: {max_ratio: 1.1}}
quality:
  accuracy:
    vs_parent: {max_drop: 0.05, max_error_ratio: null}
    vs_champion: {max_drop: 0.05, max_error_ratio: null}
    vs_anchor: {max_drop: 0.05, max_error_ratio: null}
    floor: 0.9
    slices: {max_drop: 0.2, min_examples: 50}
throughput: {vs_parent: {min_ratio: 1.1}}
memory: {vs_parent: {max_ratio: 0.9}, vs_champion: {max_ratio: 1.1}, ceiling_bytes: 1000000000}
size: {vs_parent: {max_ratio: 0.8}, vs_champion: {max_ratio: 1.1}}
"""
# The gate's inputs, parents before children.
LINEAGE = (
    "dense",
    "previous",
    "data",
    "profiles.0",
    "table",
    "chosen",
    "pruned",
    "candidate",
    "engines.0",
    "benchmarks.0",
)
UNITS = "samples/0/latency/ort-cpu.json"
RATES = "samples/0/throughput/ort-cpu-4.json"
MEMORY = "samples/0/memory/ort-cpu.json"
EXAMPLES = "samples/0/examples.json"
RECORDS = "samples/0/records.safetensors"
DOCUMENTS: dict[str, type[Any]] = {"lock": Lock, "policy": Policy, "params": Params}


@dataclass(kw_only=True)
class Forged:
    """`manifest` is the verdict's, `files` its payload; `ancestors` the manifests of the gate's inputs.

    `named` holds the digests that policy, params and each step's knobs had when it was opened.
    """

    manifest: dict[str, Any]
    files: dict[str, bytes]
    ancestors: dict[str, Any]
    named: dict[str, str]

    def copy(self) -> Forged:
        return Forged(
            manifest=json.loads(json.dumps(self.manifest)),
            files=dict(self.files),
            ancestors=json.loads(json.dumps(self.ancestors)),
            named=self.named,
        )

    def edit(self, part: str, change: Callable[[Any], Any]) -> None:
        """Changes an ancestor's manifest, a JSON file, or the records (as a dict of arrays)."""
        if part in self.ancestors:
            self.ancestors[part] = change(self.ancestors[part])
        elif part == RECORDS:
            self.files[part] = save(change(load(self.files[part])))
        else:
            self.files[part] = dumped(change(json.loads(self.files[part])))

    def value(self, part: str) -> Any:
        return self.ancestors[part] if part in self.ancestors else json.loads(self.files[part])


def dumped(value: object) -> bytes:
    """JSON text; what JSON has no number for is written as Python does: NaN, Infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def hexed(raw: bytes) -> str:
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


def digest_or_guess(value: object) -> str:
    """The digest of a manifest; of its text where it holds what cannot be encoded."""
    try:
        return digest_of(value)
    except (OverflowError, msgspec.MsgspecError, ValueError, TypeError):
        return hexed(repr(value).encode(errors="replace"))


def opened(folder: Path) -> Forged:
    """The verdict at `folder`, taken apart."""
    manifest = json.loads((folder / store.MANIFEST).read_bytes())
    files = {name: (folder / name).read_bytes() for name in manifest["payload"]}
    ancestors = {}
    for name, digest in manifest["parents"].items():
        copy = f"ancestors/{digest.removeprefix('sha256:')}.json"
        ancestors[name] = json.loads(files[copy])
    kept = {name: raw for name, raw in files.items() if not name.startswith("ancestors/")}
    params = _document(kept["params.json"], "params")
    named = {name: _digest_of_file(kept, name) for name in ("policy", "params")}
    named |= {step: knobs_digest(get_step(step), params) for step in STEPS}
    return Forged(manifest=manifest, files=kept, ancestors=ancestors, named=named)


def signed(forged: Forged, folder: Path) -> Path:
    """Writes the directory with every digest corrected that it holds itself, and no other."""
    payload = dict(forged.files)
    for name, value in forged.ancestors.items():
        # An ancestor keeps the name that the verdict knows it by.
        digest = forged.manifest["parents"][name]
        payload[f"ancestors/{digest.removeprefix('sha256:')}.json"] = dumped(value)
    return _written(forged.manifest, payload, folder)


def rebuilt(forged: Forged, folder: Path) -> str:
    """Writes the directory as if the whole run had been like that, and gives the outcome.

    Raises what the gate raises: then no verdict can be made of these parts.
    """
    renamed = _renamed_documents(forged)
    benchmark = forged.ancestors["benchmarks.0"]
    if isinstance(benchmark, dict) and isinstance(benchmark.get("payload"), dict):
        for name in list(benchmark["payload"]):
            held = forged.files.get(f"samples/0/{name}")
            if held is not None:
                benchmark["payload"][name] = hexed(held)
    payload = dict(forged.files)
    parents = dict(forged.manifest["parents"])
    for name in [each for each in LINEAGE if each in parents]:
        value = _replaced(forged.ancestors[name], renamed)
        digest = digest_or_guess(_decoded(value))
        renamed[parents[name]] = digest
        parents[name] = digest
        payload[f"ancestors/{digest.removeprefix('sha256:')}.json"] = dumped(value)
    for name in DOCUMENTS:
        if f"{name}.json" in payload:
            payload[f"{name}.json"] = _replaced_text(payload[f"{name}.json"], renamed)
    manifest = {**forged.manifest, "parents": parents}
    manifest["lock"] = _digest_of_file(payload, "lock")
    manifest["policy"] = _digest_of_file(payload, "policy")
    path = _written(manifest, payload, folder)
    grounds = read_grounds(store.read(path, Verdict))
    evidence = assemble(grounds)
    judgement = judge(evidence, grounds.policy)
    payload["evidence.json"] = canonical(evidence)
    manifest["judgement"] = json.loads(canonical(judgement))
    _written(manifest, payload, folder)
    return judgement.outcome


def handed(folder: Path) -> Staged:
    """What promote would be handed beside the verdict at `folder`: the very artefacts it names."""
    verdict = store.read(folder, Verdict)
    parents = verdict.manifest.parents

    def artefact(name: str) -> Artifact[Any]:
        digest = parents[name]
        raw = verdict.file(f"ancestors/{digest.removeprefix('sha256:')}.json").read_bytes()
        return Artifact(manifest=store.decode_any(raw, name=name), path=folder, digest=digest)

    return Staged(
        folder=folder,
        verdict=verdict,
        candidate=artefact("candidate"),
        engines=(artefact("engines.0"),),
        plan=artefact("chosen"),
        profiles=(artefact("profiles.0"),),
        table=artefact("table"),
    )


def write_base(folder: Path) -> Forged:
    """One small run that passes, with everything in its evidence that the gate can read today."""
    story = Story(champion=CHAMPION, anchor=ANCHOR, policy=POLICY, units=15, examples=450)
    chain = write_chain(folder, story)
    chain.judged()
    forged = opened(chain.path("verdict"))
    forged.edit(EXAMPLES, _rich_examples)
    forged.edit(UNITS, lambda units: [_rich_unit(unit) for unit in units])
    forged.edit("data", _rich_data)
    forged.edit("benchmarks.0", _rich_benchmark)
    _rich_samples(forged)
    make_set(forged)
    outcome = rebuilt(forged, folder / "base")
    assert outcome == "pass", json.loads((folder / "base" / store.MANIFEST).read_bytes())[
        "judgement"
    ]
    return opened(folder / "base")


def _rich_examples(value: Any) -> Any:
    count = len(value["ids"])
    return {
        "ids": value["ids"],
        "slices": {"light": [("day", "night")[place % 3 == 0] for place in range(count)]},
        "sources": [f"s{place % 150}" for place in range(count)],
        "times": [f"2026-01-{1 + place % 28:02d}" for place in range(count)],
    }


def _rich_unit(unit: Any) -> Any:
    arms = {
        name: {**times, "conditions": _conditions(times)} for name, times in unit["arms"].items()
    }
    return {**unit, "arms": arms}


def _conditions(times: Any) -> list[Any]:
    device = {
        "clock_mhz": 1500,
        "memory_clock_mhz": 2000,
        "power_limit_w": 300.0,
        "throttle": [],
        "other_processes": 0,
    }
    return [
        {
            "wall_ns": sum(block),
            "waited_ns": 0,
            "stolen": 0.0,
            "pulse_ns": 50_000,
            "device": device,
        }
        for block in times["blocks_ns"]
    ]


def _rich_data(value: Any) -> Any:
    split = {
        **value["splits"]["eval"],
        "sources": 150,
        "slices": {"light": {"day": 300, "night": 150}},
    }
    expectation = {
        "name": "overlap",
        "split": "eval",
        "severity": "critical",
        "success": True,
        "observed": "none shared",
    }
    return {**value, "splits": {"eval": split}, "expectations": [expectation]}


def _rich_samples(forged: Forged) -> None:
    """Another batch size and memory, as a benchmark with such rules takes them."""
    forged.files[RATES] = forged.files[UNITS]
    peaks = {
        "candidate": 40_000_000,
        "dense": 80_000_000,
        "champion": 41_000_000,
        "anchor": 41_000_000,
    }
    forged.files[MEMORY] = dumped({arm: [most, most + 4096, most] for arm, most in peaks.items()})
    benchmark = forged.ancestors["benchmarks.0"]
    for name in (RATES, MEMORY):
        benchmark["payload"][name.removeprefix("samples/0/")] = ""
    benchmark["targets"][0] |= {
        "throughput": [{"batch_size": 4, "units": 15, "file": RATES.removeprefix("samples/0/")}],
        "memory": MEMORY.removeprefix("samples/0/"),
    }
    forged.edit(
        "params.json",
        lambda params: {
            **params,
            "targets": {
                name: {**target, "throughput_batch_sizes": [4]}
                for name, target in params["targets"].items()
            },
        },
    )


def make_set(forged: Forged) -> None:
    """The dense model is a set of one member."""
    member = {"name": "lanes-model", "version": "1", "weights": "sha256:" + "9" * 64}
    for name in LINEAGE:
        if "dense_version" in forged.ancestors[name]:
            forged.ancestors[name]["dense_version"] = "lanes=1"
        if forged.ancestors[name]["kind"] == "ModelBundle":
            forged.ancestors[name]["members"] = {"lanes": member}
    forged.manifest["dense_version"] = "lanes=1"
    forged.edit(
        "lock.json",
        lambda lock: {
            **lock,
            "dense": {**lock["dense"], "version": "lanes=1", "members": {"lanes": member}},
        },
    )
    forged.edit("params.json", lambda params: {**params, "members": {"lanes": member["name"]}})


def _rich_benchmark(value: Any) -> Any:
    return {**value, "recorded": {**value["recorded"], "dropped": {"anchor": 0, "champion": None}}}


def _written(manifest: dict[str, Any], payload: Mapping[str, bytes], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, raw in payload.items():
        path = folder / name
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)
    manifest = {**manifest, "payload": {name: hexed(raw) for name, raw in payload.items()}}
    (folder / store.MANIFEST).write_bytes(dumped(manifest))
    (folder / store.DIGEST).write_text(digest_or_guess(_decoded(manifest)) + "\n")
    return folder


def _decoded(manifest: Any) -> Any:
    """The manifest as the store sees it, with defaults filled in; as it is where it does not decode."""
    try:
        return msgspec.convert(manifest, KINDS[manifest["kind"]])
    except (msgspec.ValidationError, KeyError, TypeError, ValueError):
        return manifest


def _document(raw: bytes, name: str) -> Any:
    """The typed document; the plain value where it does not decode."""
    try:
        return msgspec.json.decode(raw, type=DOCUMENTS[name])
    except msgspec.MsgspecError:
        return raw.decode(errors="replace")


def _digest_of_file(payload: Mapping[str, bytes], name: str) -> str:
    raw = payload.get(f"{name}.json", b"")
    return digest_or_guess(_document(raw, name))


def _renamed_documents(forged: Forged) -> dict[str, str]:
    """What the digests of policy, params and of every step's knobs were, and what they are now."""
    renamed = {}
    for name in ("policy", "params"):
        renamed[forged.named[name]] = _digest_of_file(forged.files, name)
    params = _document(forged.files.get("params.json", b""), "params")
    if isinstance(params, Params):
        for step in STEPS:
            old = forged.named[step]
            renamed[old] = knobs_digest(get_step(step), params)
    return renamed


def _replaced(value: Any, renamed: Mapping[str, str]) -> Any:
    """The value with every digest in it that was renamed; keys are left as they are."""
    if isinstance(value, dict):
        return {key: _replaced(item, renamed) for key, item in value.items()}
    if isinstance(value, list):
        return [_replaced(item, renamed) for item in value]
    return renamed.get(value, value) if isinstance(value, str) else value


def _replaced_text(raw: bytes, renamed: Mapping[str, str]) -> bytes:
    try:
        return dumped(_replaced(json.loads(raw), renamed))
    except ValueError:
        return raw
