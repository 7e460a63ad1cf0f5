"""The step `validate`, on real bundles with small tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from reprune import __version__
from reprune.core import store
from reprune.core.artifacts import (
    DataReport,
    Expectation,
    ModelBundle,
    Previous,
    TaskFact,
    VerdictSummary,
)
from reprune.core.documents import decode_yaml
from reprune.core.errors import DocumentError, InputError, TaskError
from reprune.core.lock import DenseRef, Lock
from reprune.core.params import MIN_EXAMPLES, Params
from reprune.core.policy import Policy
from reprune.core.step import Documents, run
from reprune.core.store import Artifact
from reprune.judge.examples import NEWER
from reprune.judge.numeric import rounded
from reprune.measure.attempts import ATTEMPTS_FILE, Look, next_attempt
from reprune.steps import get_step
from reprune.steps.contract import demands
from reprune.task.load import load_task, task_digest
from reprune.task.protocol import SPLITS
from reprune.task.seal import Census

ENTRY = "task.it:It"
DIGEST = f"sha256:{'0' * 64}"
SOURCE = """
import numpy as np
from torch import nn
from reprune.task.bases import Classification, Examples

N = 900

class It(Classification):
    def __init__(self):
        random = np.random.default_rng(0)
        x = random.normal(size=(N, 4)).astype(np.float32)
        y = np.arange(N) % 3
        ids = [f"e{n}" for n in range(N)]
        labels = source = None
        slices = {"side": ["left" if n % 2 else "right" for n in range(N)]}
        splits = {
            "train": range(300), "tune": range(300, 400), "calibration": range(400, 500),
            "eval": range(500, N),
        }
        CHANGE
        examples = Examples(
            inputs=(x,), targets=y, ids=ids, slices=slices, labels=labels, source=source
        )
        super().__init__(examples, splits, batch_size=50)

    def model(self):
        return nn.Linear(4, 3)
"""
PARAMS = f"""
name: it
task: {ENTRY}
validate: {{classes: 3, max_class_share: 0.6, min_slice_examples: 20}}
"""
POLICY = "{targets: {ort-cpu: required}, quality: {%s}}"
NEWER_TEXT = f'"{NEWER}"'


class Said(list[str]):
    """What the step told a person."""


def validated(
    root: Path,
    change: str = "pass",
    *,
    drop: float = 0.03,
    quality: str = "accuracy: {vs_parent: {max_drop: %s}}",
    data_version: str = "",
    **previous: Any,
) -> tuple[DataReport, Said]:
    package = root / "task"
    package.mkdir(parents=True)
    package.joinpath("it.py").write_text(
        SOURCE.replace("CHANGE", change.replace("\n", "\n        ")), encoding="utf-8"
    )
    version = data_version or load_task(ENTRY, root).data_version
    fact = TaskFact(entry=ENTRY, digest=task_digest(ENTRY, root), data_version=version)
    bundle = ModelBundle(name="it", dense_version="1", task=fact)
    past = Previous(
        **{
            "name": "it",
            "dense_version": "1",
            "champion": None,
            "anchor": None,
            "attempts": 0,
            "history": (),
        }
        | previous
    )
    with store.drafting(root / "dense") as draft:
        store.write_bytes(draft / "task/task/it.py", package.joinpath("it.py").read_bytes())
        store.write(draft, bundle, step="fetch-dense", parents={}, out=root / "dense")
    with store.drafting(root / "previous") as draft:
        store.write(draft, past, step="fetch-previous", parents={}, out=root / "previous")
    said = Said()
    inputs: dict[str, Path | list[Path]] = {
        "dense": root / "dense",
        "previous": root / "previous",
    }
    made: Artifact[Any] = run(
        get_step("validate"),
        inputs,
        _documents(root, quality.replace("%s", str(drop)), version),
        root / "data",
        say=said.append,
    )
    assert store.read(root / "data", DataReport).manifest == made.manifest
    return made.manifest, said


def _documents(root: Path, quality: str, version: str) -> Documents:
    params = decode_yaml(PARAMS, Params, name="params.yaml")
    policy = decode_yaml(POLICY % quality, Policy, name="policy.yaml")
    lock = Lock(
        reprune=__version__,
        registry="files",
        workspace="default",
        name="it",
        dense=DenseRef(version="1", weights=DIGEST),
        champion="none",
        targets=("ort-cpu",),
        params=DIGEST,
        policy=DIGEST,
        task=DIGEST,
        data_version=version,
    )
    return Documents(root=root, params=params, policy=policy, lock=lock)


@pytest.fixture(autouse=True)
def _own_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPRUNE_WORK", str(tmp_path / "work"))


def failed(report: DataReport) -> dict[tuple[str, str], Expectation]:
    return {(one.name, one.split): one for one in report.expectations if not one.success}


@pytest.mark.slow
def test_good_data_passes_and_is_counted(tmp_path: Path) -> None:
    """Every expectation holds, and the report counts classes, slices and examples of each split."""
    report, said = validated(tmp_path)
    assert report.passed
    assert not failed(report)
    assert report.splits["eval"].examples == 400
    assert report.splits["eval"].slices == {"side": {"left": 200, "right": 200}}
    assert report.splits["train"].classes == {"0": 100, "1": 100, "2": 100}
    assert report.splits["eval"].sources is None
    assert {one.name for one in report.expectations} >= {
        "enough examples",
        "ids unique",
        "labels given",
        "labels in range",
        "no class dominates",
        "classes known from train",
        "slices large enough",
        "no id in two splits",
        "no example in two splits",
        "data as locked",
        "power of accuracy.vs_parent",
    }
    assert any(line.startswith("the data contract holds") for line in said)
    assert any("lost nothing passes with" in line for line in said)


@pytest.mark.slow
def test_the_same_data_gives_the_same_report(tmp_path: Path) -> None:
    """No clock, path or chance gets into the manifest."""
    one, _ = validated(tmp_path / "one")
    two, _ = validated(tmp_path / "two")
    assert one == two


BROKEN = {
    "three eval examples": (
        "splits['eval'] = range(500, 503)",
        ("enough examples", "eval"),
        "3 examples; at least 100 are demanded",
    ),
    "no eval examples": (
        "splits['eval'] = []",
        ("enough examples", "eval"),
        "0 examples",
    ),
    "an id in two splits": (
        "ids[510] = 'e7'",
        ("no id in two splits", "all"),
        "e7 in train and e7 in eval",
    ),
    "an example in two splits": (
        "x[510] = x[7]",
        ("no example in two splits", "all"),
        "e7 in train and e510 in eval",
    ),
    "a split in another": (
        "splits['tune'] = range(100, 200)",
        ("no id in two splits", "all"),
        "100 ids are in two splits",
    ),
    "a source in two splits": (
        "source = [f's{n % 450}' for n in range(N)]",
        ("no source in two splits", "all"),
        "450 sources are in two splits (e0 in train and e450 in calibration",
    ),
    "a label out of range": (
        "y[510] = 7; y[3] = 7",
        ("labels in range", "eval"),
        "e510 has '7'",
    ),
    "a label that is no number": (
        "labels = [str(v) for v in y]; labels[5] = 'cat'",
        ("labels in range", "train"),
        "e5 has 'cat'",
    ),
    "a label missing": (
        "labels = [str(v) for v in y]; labels[5] = 'nan'; labels[6] = ''",
        ("labels given", "train"),
        "2 examples have no label",
    ),
    "a class never seen": (
        "y[:500][y[:500] == 2] = 0",
        ("classes known from train", "eval"),
        "never in train: 2",
    ),
    "an id twice, far apart": (
        "ids[898] = 'e500'; ids[896] = 'e502'",
        ("ids unique", "eval"),
        "more than once: e500, e502, e502, e500",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BROKEN)
def test_broken_data_fails_with_words(tmp_path: Path, name: str) -> None:
    """The step ends, its report says passed False, and the words name what to look at."""
    change, key, words = BROKEN[name]
    report, said = validated(tmp_path, change)
    assert not report.passed
    found = failed(report)[key]
    assert found.severity == "critical"
    assert words in found.observed
    assert any(line.startswith("THE DATA CONTRACT FAILED") for line in said)
    assert any(words in line for line in said)


WARNED = {
    "one class dominates": (
        "y[500:750] = 0",
        ("no class dominates", "eval"),
        "class '0' is 75.0% of the examples",
    ),
    "a small slice": (
        "slices['side'][500] = 'top'",
        ("slices large enough", "eval"),
        "side=top has 1",
    ),
    "an example twice in eval": (
        "x[511] = x[510]",
        ("no example twice", "eval"),
        "e510, e511",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WARNED)
def test_a_warning_does_not_fail_the_contract(tmp_path: Path, name: str) -> None:
    """Great Expectations counts a failed warning as a failure; we do not."""
    change, key, words = WARNED[name]
    report, said = validated(tmp_path, change)
    assert report.passed
    assert failed(report)[key].severity == "warning"
    assert words in failed(report)[key].observed
    assert any(line.startswith("warning: eval") and words in line for line in said)


@pytest.mark.slow
def test_augmented_train_without_plain_is_said(tmp_path: Path) -> None:
    """Equal examples cannot be found there, and the report does not pretend."""
    change = (
        "type(self).plain = None\n"
        "type(self).augment = lambda self, x, y, g: ((x[0] + __import__('torch').rand(4, generator=g),), y)"
    )
    report, _ = validated(tmp_path, change)
    assert report.passed
    assert "plain(split)" in failed(report)["contents comparable", "train"].observed


def test_without_labels_classes_are_not_checked(tmp_path: Path) -> None:
    """A task of masks or boxes has no class labels; the report says what was left out."""
    change = (
        "y = np.stack([y, y], 1)\n"
        "type(self).loss = lambda self, module, batch, generator: module(*batch.inputs).mean()\n"
        "type(self).records = lambda self, outputs, batch: {'correct': np.ones(len(batch), np.int64)}"
    )
    report, _ = validated(tmp_path, change)
    assert report.passed
    assert [one.observed for one in report.expectations if one.name == "labels given"] == [
        "the task gives no labels, so classes are not checked"
    ] * 4


@pytest.mark.slow
def test_data_that_the_lock_does_not_name_fails(tmp_path: Path) -> None:
    """The task reads live data; what changed after the lock was written is another run."""
    report, _ = validated(tmp_path, data_version="sha256:somethingelse")
    assert not report.passed
    assert "run `reprune update`" in failed(report)["data as locked", "all"].observed


SLICES = "vs_parent: {max_drop: 0.1}, slices: {required: [%s]}"


@pytest.mark.parametrize(
    ("rules", "change", "words"),
    [
        ("acuracy: {floor: 0.5}", "pass", "'acuracy' cannot be had: there is no metrics"),
        ("mae: {floor: 0.5}", "pass", "A floor makes no sense for mae"),
        (f"accuracy: {{{SLICES % 'side=lft'}}}", "pass", "slice 'side=lft', which eval has not"),
        (f"accuracy: {{{SLICES % NEWER_TEXT}}}", "pass", "which eval has not"),
        (f"accuracy: {{{SLICES % ''}}}", "slices = {}", "the examples have no slices"),
    ],
)
def test_a_policy_that_no_data_could_answer_is_refused(
    tmp_path: Path, rules: str, change: str, words: str
) -> None:
    """Before anything is cut, and long before the gate: exit 2, with the nearest name."""
    with pytest.raises(DocumentError) as caught:
        validated(tmp_path, change, quality=rules)
    assert words in caught.value.what
    assert caught.value.where.startswith("policy.yaml (quality")
    if "lft" in words:
        assert "did you mean 'side=left'" in caught.value.what


BOXES = (
    "one = lambda self, outputs, batch: np.ones(len(batch), np.int64)\n"
    "type(self).records = lambda *given: {'numerator': one(*given), 'denominator': one(*given)}"
)


def test_a_metric_that_the_task_does_not_record_is_refused(tmp_path: Path) -> None:
    """A detector has no `correct`: said before a look at its sealed examples is spent."""
    with pytest.raises(DocumentError) as caught:
        validated(tmp_path / "a", BOXES)
    assert "'accuracy' is computed from correct" in caught.value.what
    assert "it records denominator, numerator" in caught.value.what
    assert caught.value.where == "policy.yaml (quality.accuracy)"
    assert not (tmp_path / "a" / ATTEMPTS_FILE).exists()
    rules = "f1: {floor: 0.5}, iou: {floor: 0.5}"
    with pytest.raises(DocumentError, match="'iou' is computed from intersection, union"):
        validated(tmp_path / "b", BOXES, quality=rules)
    assert validated(tmp_path / "c", BOXES, quality="f1: {floor: 0.5}")[0].passed


def test_speed_of_an_emulation_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no `reprune update` did: a service writes locks too."""
    monkeypatch.setattr(f"{__name__}.PARAMS", f"{PARAMS}targets: {{mcu: {{runtime: qnn}}}}")
    speed = "{targets: {mcu: required}, latency: {vs_parent: {max_ratio: 0.9}}, quality: {%s}}"
    monkeypatch.setattr(f"{__name__}.POLICY", speed)
    with pytest.raises(InputError, match="the policy demands speed of 'mcu'"):
        validated(tmp_path)


def test_a_required_slice_that_eval_has_is_none_of_it(tmp_path: Path) -> None:
    rules = f"accuracy: {{{SLICES % 'side=left'}}}"
    assert validated(tmp_path, quality=rules)[0].passed


@pytest.mark.slow
def test_power_is_that_of_the_next_look(tmp_path: Path) -> None:
    """Of the registry and the ledger beside params.yaml the larger count holds, as for the benchmark."""
    look = Look(name="it", dense_version="1", weights="", eval_digest="e", candidate="c")
    for place, (local, registered, attempt) in enumerate(((0, 0, 1), (2, 0, 3), (2, 3, 4))):
        root = tmp_path / str(place)
        for _ in range(local):
            next_attempt(root / ATTEMPTS_FILE, look)
        next_attempt(root / ATTEMPTS_FILE, structs.replace(look, dense_version="0"))
        report, _ = validated(root, attempts=registered)
        assert {one.alpha for one in report.power} == {rounded(0.05 / (attempt * (attempt + 1)))}


@pytest.mark.slow
def test_a_policy_that_cannot_pass_is_refused_beforehand(tmp_path: Path) -> None:
    """Too small a margin for the examples is critical; a larger one warns; a fair one passes."""
    hopeless, said = validated(tmp_path / "a", drop=0.004)
    power = failed(hopeless)["power of accuracy.vs_parent", "eval"]
    assert not hopeless.passed
    assert power.severity == "critical"
    assert "this policy cannot pass" in power.observed
    assert "(max_drop: 0." in power.observed
    assert any("this policy cannot pass" in line for line in said)
    weak, _ = validated(tmp_path / "b", drop=0.014)
    power = failed(weak)["power of accuracy.vs_parent", "eval"]
    assert weak.passed
    assert power.severity == "warning"
    assert 0.2 <= weak.power[0].pass_if_equal < 0.5
    assert validated(tmp_path / "c", drop=0.05)[0].power[0].pass_if_equal > 0.9


@pytest.mark.slow
def test_power_uses_the_flips_and_attempts_of_the_past(tmp_path: Path) -> None:
    """Flips seen are averaged with the assumed ones, and a later attempt is tested more strictly."""

    def seen(flips: float | None) -> VerdictSummary:
        return VerdictSummary(
            dense_version="0",
            compressed_version="1",
            outcome="pass",
            verdict=DIGEST,
            reasons=(),
            promoted=True,
            flips=flips,
        )

    assumed = validated(tmp_path / "a")[0].power[0]
    known = validated(tmp_path / "b", history=(seen(0.03), seen(0.04), seen(None)), attempts=1)[0]
    none = validated(tmp_path / "c", history=(seen(0.0),))[0]
    assert assumed.flips == pytest.approx(0.02)
    assert known.power[0].flips == pytest.approx(0.03)
    assert known.power[0].alpha < assumed.alpha
    assert known.power[0].pass_if_equal < assumed.pass_if_equal
    assert none.power[0].flips == pytest.approx(0.01)


def test_a_task_that_breaks_its_promises_is_an_error(tmp_path: Path) -> None:
    """No report is written about a task whose numbers would mean nothing."""
    with pytest.raises(TaskError, match="float64"):
        validated(tmp_path, "x = x.astype(np.float64)")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("given", [{}, {"eval": 300}, {"train": 7, "tune": 8}])
def test_a_split_that_is_not_named_keeps_its_default(given: dict[str, int]) -> None:
    """One split with a number of its own says nothing of the others."""
    text = f"name: it\ntask: {ENTRY}\nvalidate: {{min_examples: {given}}}\n"
    params = decode_yaml(text, Params, name="params.yaml")
    empty = Census(ids=(), contents=(), labels=None, slices={}, sources=None, times=None)
    found, _ = demands(dict.fromkeys(SPLITS, empty), params.validate)
    least = {one.split: one.arguments for one in found if one.name == "enough examples"}
    assert least == {name: {"min_value": n} for name, n in (MIN_EXAMPLES | given).items()}
