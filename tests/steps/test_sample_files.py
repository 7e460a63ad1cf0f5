"""Samples of throughput and memory reach the evidence, and none is missing or too many."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from reprune.core import store
from reprune.core.artifacts import BatchSamples, Verdict
from reprune.core.documents import MAX_JSON_BYTES, canonical, decode_json
from reprune.core.errors import ArtifactError, DocumentError, RepruneError
from reprune.core.params import BenchmarkParams, Target
from reprune.core.policy import MemoryRules, MinRatio, Policy, ThroughputRules
from reprune.judge.evidence import Evidence, decode_evidence
from reprune.steps.assemble import assemble
from reprune.steps.batch_sizes import count_batches, other_batch_sizes
from reprune.steps.gate import read_grounds
from reprune.steps.grounds import Grounds
from reprune.steps.samples import ExamplesFile, read_examples, read_memory, read_units
from tests.building import edit, make_evidence
from tests.chain import write_chain

MEMORY, BATCH = "memory/ort-cpu.json", "throughput/ort-cpu-8.json"


@pytest.fixture
def grounds(tmp_path: Path) -> Grounds:
    """A run whose target was sampled at batch 8 too, and the memory of whose arms was taken twice."""
    chain = write_chain(tmp_path / "run")
    chain.judged()
    given = read_grounds(store.read(chain.path("verdict"), Verdict))
    (measured,) = given.benchmarks
    (samples,) = measured.manifest.targets
    folder = tmp_path / "samples"
    for name in measured.manifest.payload:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(measured.file(name).read_bytes())
    units = (folder / samples.file).read_bytes()
    for name, content in ((BATCH, units), (MEMORY, b'{"candidate":[5,6],"dense":[9,9]}')):
        (folder / name).parent.mkdir()
        (folder / name).write_bytes(content)
    batch = BatchSamples(batch_size=8, units=samples.units, file=BATCH)
    more = msgspec.structs.replace(samples, throughput=(batch,), memory=MEMORY)
    payload = {**measured.manifest.payload, BATCH: "sha256:0", MEMORY: "sha256:0"}
    manifest = msgspec.structs.replace(measured.manifest, targets=(more,), payload=payload)
    rules = {"throughput": ThroughputRules(vs_parent=MinRatio(min_ratio=1.1))}
    return replace(
        given,
        benchmarks=[replace(measured, manifest=manifest, folder=folder)],
        policy=msgspec.structs.replace(
            given.policy, memory=MemoryRules(ceiling_bytes=10**9), **rules
        ),
        params=msgspec.structs.replace(
            given.params,
            targets={"ort-cpu": Target(throughput_batch_sizes=(8,))},
            benchmark=BenchmarkParams(memory_processes=2),
        ),
    )


def codes(evidence: Evidence) -> set[str]:
    """Of what is wrong with the samples; the edited params and policy are another state than the lock's."""
    return {problem.code for problem in evidence.problems} & {
        "samples",
        "memory",
        "target",
        "units",
    }


def test_what_was_sampled_is_in_the_evidence(grounds: Grounds) -> None:
    """Batch sizes and memory as they were taken, and nothing to complain of."""
    evidence = assemble(grounds)
    (target,) = evidence.targets
    assert [batch.batch_size for batch in target.throughput] == [8]
    assert canonical(target.throughput[0].units) == canonical(target.units)
    assert target.memory == {"candidate": (5, 6), "dense": (9, 9)}
    assert codes(evidence) == set()


def test_a_file_that_nobody_names_is_a_problem(grounds: Grounds) -> None:
    """So is one that the manifest names and does not vouch for, and one that does not decode."""
    (measured,) = grounds.benchmarks
    extra = {**measured.manifest.payload, "latency/other.json": "sha256:0"}
    manifest = msgspec.structs.replace(measured.manifest, payload=extra)
    strange = replace(grounds, benchmarks=[replace(measured, manifest=manifest)])
    assert codes(assemble(strange)) == {"samples"}
    without = {name: d for name, d in measured.manifest.payload.items() if name != MEMORY}
    manifest = msgspec.structs.replace(measured.manifest, payload=without)
    with pytest.raises(ArtifactError, match="vouches for no"):
        assemble(replace(grounds, benchmarks=[replace(measured, manifest=manifest)]))
    measured.file(MEMORY).write_bytes(b'{"candidate":[5,')
    with pytest.raises(RepruneError, match=r"ort-cpu\.json"):
        assemble(grounds)
    measured.file(MEMORY).unlink()
    with pytest.raises(RepruneError, match=r"ort-cpu\.json"):
        assemble(grounds)


@pytest.mark.parametrize(
    "content", ["{}", '{"candidate":[5,6]}', '{"candidate":[5],"dense":[9,9]}'],
    ids=["none", "an arm", "a process"],
)  # fmt: skip
def test_missing_memory_is_a_problem(grounds: Grounds, content: str) -> None:
    """Every arm, as many processes as params.yaml asks for."""
    grounds.benchmarks[0].file(MEMORY).write_text(content)
    assert codes(assemble(grounds)) == {"memory"}


def test_samples_that_no_rule_asked_for_are_a_problem(grounds: Grounds) -> None:
    """Memory without a rule and batch sizes without one were not taken by this run."""
    quiet = msgspec.structs.replace(grounds.policy, memory=None, throughput=None)
    assert codes(assemble(replace(grounds, policy=quiet))) == {"memory", "target"}


def test_batch_sizes_are_counted_as_the_judge_counts_them() -> None:
    """The target's own size and doubles are not others; advisory targets decide nothing."""
    targets = {
        "a": Target(batch_size=2, throughput_batch_sizes=(8, 2, 4, 8)),
        "b": Target(throughput_batch_sizes=(16,)),
        "c": Target(throughput_batch_sizes=(16,)),
    }
    rules = ThroughputRules(vs_parent=MinRatio(min_ratio=1.1))
    policy = Policy(targets={"a": "required", "b": "advisory"}, throughput=rules)
    assert other_batch_sizes(targets["a"], policy) == (4, 8)
    assert count_batches(targets, policy) == 2
    silent = msgspec.structs.replace(policy, throughput=None)
    assert other_batch_sizes(targets["a"], silent) == ()
    assert count_batches(targets, silent) == 0


def test_samples_that_were_written_can_be_read_again(tmp_path: Path) -> None:
    """Nothing bounds them when they are written; what a document of ours may hold they may exceed."""
    much = MAX_JSON_BYTES + 1
    examples = ExamplesFile(ids=("x" * much,), slices={}, sources=None)
    memory = {"dense": (5, 6)}
    (tmp_path / "examples.json").write_bytes(canonical(examples))
    (tmp_path / "memory.json").write_bytes(canonical(memory) + b" " * much)
    (tmp_path / "latency.json").write_bytes(b"[]" + b" " * much)
    assert read_examples(tmp_path / "examples.json") == examples
    assert read_memory(tmp_path / "memory.json") == memory
    assert read_units(tmp_path / "latency.json") == ()
    evidence = edit(make_evidence(units=1), "seed", "s" * much)
    assert decode_evidence(canonical(evidence), name="evidence.json") == evidence
    with pytest.raises(DocumentError, match="is larger than 64000000 bytes"):
        decode_json(canonical(examples), ExamplesFile, name="examples.json")
