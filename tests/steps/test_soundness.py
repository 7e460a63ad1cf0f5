"""Parts that contradict each other: each sentence is told for just its contradiction, and for no other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace as other

from reprune.core.artifacts import (
    WEIGHTS,
    BatchSamples,
    EngineFact,
    Recorded,
    Verdict,
)
from reprune.core.documents import canonical
from reprune.core.policy import MemoryRules, Policy
from reprune.core.store import read
from reprune.judge.evidence import ArmRecords, BatchUnits, Evidence, QualityEvidence, TargetEvidence
from reprune.steps.gate import read_grounds
from reprune.steps.grounds import Grounds, Measured
from reprune.steps.soundness import _dropped, soundness_problems
from tests.chain import write_chain


@dataclass(frozen=True)
class Run:
    """What one run wrote, and the evidence that was assembled of it."""

    grounds: Grounds
    quality: QualityEvidence
    targets: tuple[TargetEvidence, ...]

    def told(self) -> list[tuple[str, str]]:
        found = soundness_problems(self.grounds, self.quality, self.targets)
        return [(each.code, each.words) for each in found]

    def codes(self) -> list[str]:
        return [code for code, _ in self.told()]

    def but(self, **changes: Any) -> Run:
        """The same with other grounds."""
        return replace(self, grounds=replace(self.grounds, **changes))

    def changed(self, part: str, **changes: Any) -> Run:
        """The same with another `part` of the grounds."""
        return self.but(**{part: other(getattr(self.grounds, part), **changes)})

    @property
    def measured(self) -> Measured:
        return self.grounds.benchmarks[0]

    def benchmark(self, **changes: Any) -> Run:
        manifest = other(self.measured.manifest, **changes)
        return self.but(benchmarks=[replace(self.measured, manifest=manifest)])

    def samples(self, **changes: Any) -> Run:
        (first,) = self.measured.manifest.targets
        return self.benchmark(targets=(other(first, **changes),))

    def recorded(self, **changes: Any) -> Run:
        return self.benchmark(recorded=other(self.measured.manifest.recorded, **changes))

    def engines(self, facts: tuple[EngineFact, ...], **changes: Any) -> Run:
        """The facts as they were built and as they were measured."""
        built = [other(self.grounds.engines[0], engines=facts, **changes)]
        return self.benchmark(engines=facts).but(engines=built)

    def fact(self, arm: str, **changes: Any) -> Run:
        facts = self.grounds.engines[0].engines
        return self.engines(
            tuple(other(one, **changes) if one.arm == arm else one for one in facts)
        )

    def target(self, **changes: Any) -> Run:
        """params.yaml says something else of the target."""
        params = self.grounds.params
        return self.changed(
            "params", targets={"ort-cpu": other(params.targets["ort-cpu"], **changes)}
        )

    def held(self, **changes: Any) -> Run:
        (first,) = self.targets
        return replace(self, targets=(other(first, **changes),))

    def split(self, **changes: Any) -> Run:
        splits = self.grounds.data.splits
        return self.changed("data", splits={**splits, "eval": other(splits["eval"], **changes)})

    def with_quality(self, **changes: Any) -> Run:
        return replace(self, quality=other(self.quality, **changes))


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("REPRUNE_WORK", str(tmp_path_factory.mktemp("work")))
        chain = write_chain(tmp_path_factory.mktemp("run"))
        chain.judged()
    verdict = read(chain.path("verdict"), Verdict)
    evidence = msgspec.json.decode(verdict.file("evidence.json").read_bytes(), type=Evidence)
    return Run(read_grounds(verdict), evidence.quality, evidence.targets)


def test_one_run_does_not_contradict_itself(run: Run) -> None:
    assert run.told() == []


PARTS = ("dense", "pruned", "candidate", "previous")


@pytest.mark.parametrize("part", PARTS)
def test_every_part_is_of_the_locked_model(run: Run, part: str) -> None:
    assert run.changed(part, name="letters").told() == [
        ("name", f"The {part} is of 'letters', another model.")
    ]


@pytest.mark.parametrize("part", PARTS)
def test_every_part_is_of_the_locked_dense_version(run: Run, part: str) -> None:
    words = f"The {part} belongs to dense version 7, the lock pins 1."
    assert run.changed(part, dense_version="7").told() == [("dense_version", words)]


def test_every_benchmark_is_of_the_locked_dense_version(run: Run) -> None:
    """Each by its place, and none hides another."""
    late = replace(run.measured, manifest=other(run.measured.manifest, dense_version="7"))
    found = list(
        soundness_problems(replace(run.grounds, benchmarks=[late]), run.quality, run.targets)
    )
    assert [each.words for each in found] == [
        "The benchmark 0 belongs to dense version 7, the lock pins 1."
    ]
    both = replace(run.grounds, benchmarks=[run.measured, late])
    found = list(soundness_problems(both, run.quality, run.targets * 2))
    assert [each.words for each in found] == [
        "The benchmark 1 belongs to dense version 7, the lock pins 1."
    ]


@pytest.mark.parametrize(
    ("part", "words"), [("pruned", "pruned"), ("candidate", "candidate"), ("data", "data report")]
)
def test_every_part_is_of_one_state_of_the_task(run: Run, part: str, words: str) -> None:
    task = other(run.grounds.dense.task, digest="sha256:" + "0" * 64)
    assert run.changed(part, task=task).told() == [
        ("task", f"The {words} was made with another state of the task.")
    ]
    assert run.changed("dense", task=task).codes() == ["task"] * 3


@pytest.mark.parametrize(
    ("before", "attempt", "codes"),
    [(0, 1, []), (1, 1, ["attempt"]), (1, 2, []), (3, 1, ["attempt"]), (-1, 1, ["attempt"])],
)
def test_a_look_counts_more_than_were_before_it(
    run: Run, before: int, attempt: int, codes: list[str]
) -> None:
    assert run.changed("previous", attempts=before).benchmark(attempt=attempt).codes() == codes


@pytest.mark.parametrize("part", ["dense", "pruned", "candidate"])
def test_every_model_holds_weights(run: Run, part: str) -> None:
    payload = {k: v for k, v in getattr(run.grounds, part).payload.items() if k != WEIGHTS}
    found = run.changed(part, payload=payload).told()
    assert found[0] == ("weights", f"The {part} model holds no weights.")
    assert [code for code, _ in found[1:]] == ([] if part == "pruned" else ["engine"])


def test_what_was_measured_was_built(run: Run) -> None:
    """Fact by fact; every number of it counts."""
    (first, *rest) = run.measured.manifest.engines
    found = run.benchmark(engines=(other(first, bytes=first.bytes + 1), *rest)).told()
    words = f"The {first.arm}'s engine for ort-cpu was not built as it was measured."
    assert found == [("engine", words)]


@pytest.mark.parametrize("arm", ["candidate", "dense"])
def test_an_engine_holds_the_weights_of_its_bundle(run: Run, arm: str) -> None:
    words = f"The {arm}'s engine for ort-cpu holds other weights than its bundle."
    assert run.fact(arm, weights="sha256:" + "0" * 64).told() == [("engine", words)]


def test_the_weights_of_other_arms_are_not_here_to_compare(run: Run) -> None:
    (first, *_) = run.grounds.engines[0].engines
    champion = other(first, arm="champion", weights="sha256:" + "0" * 64)
    facts = (*run.grounds.engines[0].engines, champion)
    assert run.engines(facts).told() == []


def test_an_engine_is_built_once(run: Run) -> None:
    facts = run.grounds.engines[0].engines
    assert run.engines((*facts, facts[0])).told() == [("engine", "An engine was built twice.")]


def test_an_engine_is_a_file_of_the_artefact(run: Run) -> None:
    assert run.fact("dense", file="gone.onnx").told() == [
        ("engine", "No engine file is called 'gone.onnx'.")
    ]


@pytest.mark.parametrize(
    "change", [{"target": "cuda"}, {"runtime": "tensorrt"}, {"precision": "fp16"}], ids=str
)
def test_an_engine_is_built_as_its_target_says(run: Run, change: dict[str, str]) -> None:
    target = change.get("target", "ort-cpu")
    words = f"The dense's engine for {target} was not built as params.yaml describes that target."
    assert run.fact("dense", **change).told() == [("engine", words)]


def copies(run: Run, builds: int, *, rebuilt: bool, names: tuple[str, ...] | None) -> Run:
    """The dense model's engine with further builds; the other arm's has as many as are asked for."""
    facts, payload = [], dict(run.grounds.engines[0].payload)
    for fact in run.grounds.engines[0].engines:
        wanted = tuple(f"{fact.arm}{i}" for i in range(1, builds if rebuilt else 1))
        payload |= dict.fromkeys(wanted, "sha256:" + "0" * 64)
        mine = names if fact.arm == "dense" and names is not None else wanted
        facts.append(other(fact, copies=mine))
    build = other(run.grounds.params.build, builds=builds)
    asked = run.target(rebuilt=rebuilt).changed("params", build=build)
    return asked.engines(tuple(facts), payload=payload)


@pytest.mark.parametrize(
    ("builds", "rebuilt", "names", "told"),
    [
        (1, False, None, []),
        (3, False, None, []),
        (2, True, None, []),
        (3, True, None, []),
        (3, True, (), ["built 1 times, and params.yaml asks for 3"]),
        (3, True, ("dense1",), ["built 2 times, and params.yaml asks for 3"]),
        (3, True, ("dense1", "dense1"), ["not files of their own"]),
        (3, True, ("dense1", "gone"), ["not files of their own"]),
        (2, True, ("dense1", "dense1"), ["built 3 times", "not files of their own"]),
        (3, False, ("dense1",), ["built 2 times, and params.yaml asks for 1", "not files"]),
    ],
)
def test_a_target_has_as_many_builds_as_are_asked_for(
    run: Run, builds: int, rebuilt: bool, names: tuple[str, ...] | None, told: list[str]
) -> None:
    """Each a file of its own; a target that no device rebuilds has one."""
    found = copies(run, builds, rebuilt=rebuilt, names=names).told()
    assert len(found) == len(told)
    for (code, words), part in zip(found, told, strict=True):
        assert code == "builds"
        assert part in words
        assert "dense's engine for ort-cpu" in words


def test_the_first_build_is_no_copy_of_itself(run: Run) -> None:
    file = next(f.file for f in run.grounds.engines[0].engines if f.arm == "dense")
    found = copies(run, 2, rebuilt=True, names=(file,)).told()
    assert [code for code, _ in found] == ["builds"]
    assert "not files of their own" in found[0][1]


# --- targets -------------------------------------------------------------------------------------


def test_a_target_is_timed_as_params_say(run: Run) -> None:
    words = "Target ort-cpu was not measured as params.yaml describes it."
    assert run.samples(batch_size=8).told() == [("target", words)]
    assert run.target(batch_size=8).told() == [("target", words)]
    assert ("target", "Target cuda was not measured as params.yaml describes it.") in run.samples(
        target="cuda"
    ).told()


def test_a_file_holds_the_units_that_were_taken(run: Run) -> None:
    taken = len(run.targets[0].units)
    for told in (taken - 1, taken + 1):
        words = f"The latency samples of ort-cpu are {taken} units, and {told} were taken."
        assert run.samples(units=told).told() == [("units", words)]


THROUGHPUT = msgspec.convert(
    {
        "targets": {"ort-cpu": "required"},
        "throughput": {"vs_parent": {"min_ratio": 1.0}},
        "size": {"ceiling_bytes": 10},
    },
    Policy,
)


def at_batches(run: Run, wanted: tuple[int, ...], held: tuple[int, ...], units: int) -> Run:
    """Throughput is demanded at `wanted`, was taken at `held`, and `units` are told of each."""
    taken = tuple(BatchUnits(batch_size=size, units=run.targets[0].units[:3]) for size in held)
    told = tuple(BatchSamples(batch_size=s, units=units, file=f"throughput/{s}") for s in held)
    files = {one.file: "sha256:" + "0" * 64 for one in told}
    payload = {**run.measured.manifest.payload, **files}
    made = run.target(throughput_batch_sizes=wanted).but(policy=THROUGHPUT)
    return made.samples(throughput=told).benchmark(payload=payload).held(throughput=taken)


@pytest.mark.parametrize(
    ("wanted", "held", "units", "codes"),
    [
        ((4, 8), (4, 8), 3, []),
        ((8, 4, 1), (4, 8), 3, []),
        ((4, 8), (4,), 3, ["target"]),
        ((4, 8), (8, 4), 3, ["target"]),
        ((4,), (4, 8), 3, ["target"]),
        ((4, 8), (4, 8), 4, ["units", "units"]),
        ((4,), (4,), 2, ["units"]),
    ],
)
def test_throughput_is_taken_at_the_batch_sizes_that_are_asked_for(
    run: Run, wanted: tuple[int, ...], held: tuple[int, ...], units: int, codes: list[str]
) -> None:
    assert at_batches(run, wanted, held, units).codes() == codes


# --- files ---------------------------------------------------------------------------------------


def with_files(run: Run, *names: str) -> Run:
    payload = {**run.measured.manifest.payload, **dict.fromkeys(names, "sha256:" + "0" * 64)}
    return run.benchmark(payload=payload)


@pytest.mark.parametrize("folder", ["latency", "throughput", "memory", "starts"])
def test_every_sample_file_is_named_by_a_target(run: Run, folder: str) -> None:
    words = "The sample files of a benchmark are not those that its targets name."
    assert with_files(run, f"{folder}/more.json").told() == [("samples", words)]


def test_other_files_are_no_samples(run: Run) -> None:
    assert with_files(run, "shown.json", "operators/ort-cpu.json").told() == []


def test_a_file_that_a_target_names_is_there(run: Run) -> None:
    """Each kind of file; one that two names share is missed once."""
    assert run.samples(file="latency/gone.json").codes() == ["samples"]
    assert run.samples(memory="memory/gone.json").codes() == ["samples"]
    assert with_files(run, "memory/a.json").samples(memory="memory/a.json").told() == []
    assert with_files(run, "latency/b").samples(file="latency/b").codes() == ["samples"]


def with_memory(run: Run, peaks: dict[str, int], *, demanded: bool) -> Run:
    rules = MemoryRules(ceiling_bytes=5) if demanded else None
    return run.changed("policy", memory=rules).held(
        memory={arm: (1,) * n for arm, n in peaks.items()}
    )


@pytest.mark.parametrize(
    ("peaks", "demanded", "codes"),
    [
        ({}, False, []),
        ({"candidate": 3, "dense": 3}, False, ["memory"]),
        ({"candidate": 3, "dense": 3}, True, []),
        ({"candidate": 3, "dense": 2}, True, ["memory"]),
        ({"candidate": 3}, True, ["memory"]),
        ({"candidate": 3, "dense": 3, "champion": 3}, True, ["memory"]),
        ({}, True, ["memory"]),
    ],
)
def test_memory_is_that_of_each_arms_processes(
    run: Run, peaks: dict[str, int], demanded: bool, codes: list[str]
) -> None:
    made = run.changed("params", benchmark=other(run.grounds.params.benchmark, memory_processes=3))
    found = with_memory(made, peaks, demanded=demanded).told()
    assert [code for code, _ in found] == codes
    assert all("The memory of ort-cpu" in words for _, words in found)


def test_without_processes_there_is_no_memory(run: Run) -> None:
    """A demand that nobody was to measure: none held is what was asked for."""
    made = run.changed("params", benchmark=other(run.grounds.params.benchmark, memory_processes=0))
    assert with_memory(made, {}, demanded=True).told() == []
    assert with_memory(made, {"candidate": 1}, demanded=True).codes() == ["memory"]


@pytest.mark.parametrize(
    ("starts", "codes"),
    [
        ({"candidate": 2, "dense": 2}, []),
        ({"candidate": 2}, ["starts"]),
        ({"candidate": 2, "dense": 1}, ["starts"]),
        ({}, ["starts"]),
    ],
)
def test_starts_are_those_of_each_arm(
    run: Run, tmp_path: Path, starts: dict[str, int], codes: list[str]
) -> None:
    """Where they are told at all."""
    one = {"load_ns": 1, "first_call_ns": 1, "peak_bytes": 1}
    (tmp_path / "starts").mkdir()
    content = {arm: [one] * count for arm, count in starts.items()}
    (tmp_path / "starts" / "a.json").write_bytes(canonical(content))
    made = run.changed("params", benchmark=other(run.grounds.params.benchmark, memory_processes=2))
    made = with_files(made, "starts/a.json").samples(starts="starts/a.json")
    made = made.but(benchmarks=[replace(made.measured, folder=tmp_path)])
    found = made.told()
    assert [code for code, _ in found] == codes
    assert all("The starts of ort-cpu" in words for _, words in found)


def test_one_target_without_starts_hides_no_other(run: Run, tmp_path: Path) -> None:
    (tmp_path / "starts").mkdir()
    (tmp_path / "starts" / "a.json").write_bytes(b"{}")
    (first,) = run.measured.manifest.targets
    made = with_files(run, "starts/a.json").benchmark(
        targets=(first, other(first, target="b", starts="starts/a.json"))
    )
    made = made.but(benchmarks=[replace(made.measured, folder=tmp_path)])
    assert "starts" in replace(made, targets=run.targets * 2).codes()


# --- examples ------------------------------------------------------------------------------------


def test_as_many_examples_are_there_as_the_split_holds(run: Run) -> None:
    whole = run.measured.manifest.recorded.examples
    assert run.recorded(examples=whole - 1).codes() == ["examples"]
    assert run.with_quality(ids=run.quality.ids[1:]).codes() == ["examples"]
    assert run.split(examples=whole + 1).codes() == ["examples"]
    assert run.split(examples=whole - 1).codes() == ["examples"]
    splits = {k: v for k, v in run.grounds.data.splits.items() if k != "eval"}
    assert run.changed("data", splits=splits).codes() == ["examples"]
    assert (
        run.changed("data", splits=splits)
        .told()[0][1]
        .endswith("the eval split holds 0, of which 0 may be left out.")
    )


@pytest.mark.parametrize(
    ("dropped", "beyond", "codes"),
    [
        ({"candidate": 5}, 5, []),
        ({"candidate": 5}, 4, ["examples"]),
        ({"candidate": 5}, 6, ["examples"]),
        ({"candidate": 5, "dense": 3}, 5, []),
        ({"candidate": 5, "dense": 3}, 8, []),
        ({"candidate": 5, "dense": 3}, 4, ["examples"]),
        ({"candidate": 5, "dense": 3}, 9, ["examples"]),
        ({"candidate": None}, 0, []),
        ({"candidate": None}, 1, ["examples"]),
        ({"anchor": 0}, 0, ["dropped"]),
        ({"candidate": -1}, 0, ["dropped", "examples"]),
        ({"candidate": -1, "dense": 1}, 0, ["dropped"]),
    ],
    ids=str,
)
def test_examples_may_be_left_out_of_arms_that_were_made_with_them(
    run: Run, dropped: dict[str, int | None], beyond: int, codes: list[str]
) -> None:
    """Of two arms at least as many as the larger, at most as many as both: they may share some."""
    whole = run.measured.manifest.recorded.examples
    found = run.recorded(dropped=dropped).split(examples=whole + beyond)
    assert [code for code in found.codes() if code in ("dropped", "examples")] == codes


def test_how_many_were_left_out() -> None:
    for dropped, expected in (
        ({}, (0, 0)),
        ({"a": None}, (0, 0)),
        ({"a": 2, "b": 3}, (3, 5)),
        ({"a": 0, "b": 3}, (3, 3)),
        ({"a": None, "b": 3}, (3, 3)),
        ({"a": -2, "b": 3}, (-2, 1)),
        (msgspec.UNSET, (0, 0)),
    ):
        recorded = Recorded(examples=1, eval_digest="", columns=(), dropped=dropped)  # type: ignore[arg-type]
        assert _dropped(recorded) == expected


@pytest.mark.parametrize("key", ["dense", "candidate@ort-cpu", "dense@ort-cpu"])
def test_records_are_of_the_columns_that_are_named(run: Run, key: str) -> None:
    arms = {**run.quality.arms, key: ArmRecords(columns={"other": ()})}
    words = f"The records of {key} are of other columns."
    assert run.with_quality(arms=arms).told() == [("columns", words)]
    assert run.with_quality(arms={"x@y": ArmRecords(columns={}), **run.quality.arms}).told() == []


def test_records_are_told_in_order(run: Run) -> None:
    """By their keys; the columns of each have no order."""
    arms = {**run.measured.manifest.arms, "champion": "x", "anchor": "y"}
    more = dict.fromkeys(("champion@ort-cpu", "anchor@ort-cpu"), run.quality.arms["dense"])
    whole = run.benchmark(arms=arms).with_quality(arms={**run.quality.arms, **more})
    found = whole.recorded(columns=("b", "a")).told()
    assert [words.split()[3] for _, words in found] == [
        "anchor@ort-cpu",
        "candidate@ort-cpu",
        "champion@ort-cpu",
        "dense",
        "dense@ort-cpu",
    ]
    for columns in ({"b": (), "a": ()}, {"a": (), "b": ()}):
        same = dict.fromkeys(run.quality.arms, ArmRecords(columns=columns))
        assert run.recorded(columns=("b", "a")).with_quality(arms=same).told() == []


def sourced(run: Run, here: int | None, there: int | None) -> Run:
    count = len(run.quality.ids)
    sources = None if here is None else tuple(f"s{i % here}" for i in range(count))
    return run.with_quality(sources=sources).split(sources=there)


def left_out(run: Run, count: int = 1) -> Run:
    whole = run.measured.manifest.recorded.examples
    return run.recorded(dropped={"candidate": count}).split(examples=whole + count)


@pytest.mark.parametrize(
    ("here", "there", "codes", "some"),
    [
        (None, None, [], []),
        (3, 3, [], []),
        (3, 4, ["sources"], []),
        (3, 2, ["sources"], ["sources"]),
        (None, 3, ["sources"], ["sources"]),
        (3, None, ["sources"], ["sources"]),
    ],
)
def test_sources_are_those_of_the_split(
    run: Run, here: int | None, there: int | None, codes: list[str], some: list[str]
) -> None:
    """All of them; a part of them where examples were left out."""
    assert sourced(run, here, there).codes() == codes
    assert sourced(left_out(run), here, there).codes() == some


def test_one_benchmark_that_left_examples_out_is_enough(run: Run) -> None:
    """Then the sources of the split need not all be there."""
    made = sourced(run, 3, 4)
    some = replace(made.measured, manifest=left_out(run).measured.manifest)
    for both in ([made.measured, some], [some, made.measured]):
        found = replace(made.but(benchmarks=both), targets=run.targets * 2)
        assert "sources" not in found.codes()


def test_sources_are_told_in_words(run: Run) -> None:
    (found,) = sourced(run, None, 3).told()
    assert found[1] == "The examples are of no sources, the eval split holds 3."
    (found,) = sourced(run, 3, None).told()
    assert found[1] == "The examples are of 3 sources, the eval split holds no."


def sliced(run: Run, here: dict[str, int], there: dict[str, int], family: str = "light") -> Run:
    values = tuple(value for value, count in here.items() for _ in range(count))
    return run.with_quality(slices={"light": values}).split(slices={family: there})


def test_slices_are_those_of_the_split(run: Run) -> None:
    """The same families, and as many of each value; fewer where examples were left out, never more."""
    count = len(run.quality.ids)
    whole = {"day": count - 10, "night": 10}
    assert sliced(run, whole, whole).told() == []
    words = "The examples' slices are not those of the eval split."
    assert sliced(run, whole, whole, family="weather").told() == [("slices", words)]
    more = {"day": count - 9, "night": 10}
    assert sliced(run, whole, more).told() == [("slices", words)]
    some = left_out(run)
    assert sliced(some, whole, more).told() == []
    assert sliced(some, more, whole).told() == [("slices", words)]
    assert sliced(some, whole, whole, family="weather").told() == [("slices", words)]
    assert run.split(slices={"light": whole}).codes() == ["slices"]
