"""policy.yaml: what demands nothing or says what nobody knows is an error, with the way out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from reprune.core.errors import DocumentError
from reprune.core.policy import read_policy

TARGETS = "targets: {ort-cpu: required}\n"
RULE = "size: {vs_parent: {max_ratio: 0.9}}\n"


def read(folder: Path, text: str) -> None:
    path = folder / "policy.yaml"
    path.write_text(text)
    read_policy(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "latency: {}\n",
        "throughput: {}\nmemory: {}\nsize: {}\n",
        "quality: {accuracy: {}}\n",
        "latency: {tail: {percentile: 99}}\n",
        "guards: {control: true}\neval: {max_uses: 3}\nmode: dry-run\non_inconclusive: block\n",
    ],
)
def test_a_policy_that_demands_nothing_is_an_error(tmp_path: Path, text: str) -> None:
    """Guards, modes and empty sections are no demand: every model would pass."""
    with pytest.raises(DocumentError, match="demands nothing") as caught:
        read(tmp_path, TARGETS + text)
    assert "throughput" in caught.value.fix


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("latency: {tial: {}}\n", "unknown key 'tial'; did you mean 'tail'"),
        ("latency: {tail: {vs_parnt: {max_ratio: 1}}}\n", "did you mean 'vs_parent'"),
        ("latency: {objective: {max_us: 3}}\n", "did you mean 'max_ms'"),
        ("throughput: {vs_parent: {max_ratio: 1}}\n", "unknown key 'max_ratio'"),
        ("memory: {ceiling: 3}\n", "did you mean 'ceiling_bytes'"),
        ("guards: {controll: true}\n", "did you mean 'control'"),
        ("eval: {uses: 3}\n", "did you mean 'max_uses'"),
        ("on_inconclusve: block\n", "did you mean 'on_inconclusive'"),
        ("on_inconclusive: pass\n", "Invalid enum value 'pass'"),
        ("mode: off\n", "mode"),
        ("latency: {tail: {percentile: 97, vs_parent: {max_ratio: 1}}}\n", "97"),
        ("latency: {vs_parent: {max_ratio: 1}, tail: {units: 60}}\n", "with nobody"),
        ("guards: {max_clock_change: 1.0}\n", "max_clock_change"),
    ],
)
def test_what_nobody_knows_is_refused_with_the_nearest(
    tmp_path: Path, text: str, words: str
) -> None:
    """An unknown rule, a wrong word and a tail that is compared with nobody, each with its place."""
    with pytest.raises(DocumentError) as caught:
        read(tmp_path, TARGETS + RULE + text)
    assert words in str(caught.value)
    assert "policy.yaml" in caught.value.where


@pytest.mark.parametrize(
    ("text", "fewest"),
    [
        ("looks: [5]\nlatency: {vs_parent: {max_ratio: 0.9}}\n", 6),
        ("looks: [5, 6]\nthroughput: {vs_champion: {}}\n", 7),
        ("looks: [8]\nalpha: 0.001\nlatency: {vs_anchor: {}}\n", 11),
    ],
)
def test_looks_that_can_decide_nothing_are_refused(tmp_path: Path, text: str, fewest: int) -> None:
    """Not even a first attempt; without rules on the typical call, looks may be as they are."""
    with pytest.raises(DocumentError, match="no rule on speed could be decided") as caught:
        read(tmp_path, TARGETS + text)
    assert caught.value.fix == f"end with a look at {fewest} units or more"
    read(tmp_path, TARGETS + re.sub(r"\d+\]", f"{fewest}]", text))
    read(tmp_path, TARGETS + RULE + "looks: [5]\nlatency: {objective: {max_ms: 9}}\n")


@pytest.mark.parametrize("section", ["latency", "throughput", "memory", "quality.accuracy"])
def test_a_section_that_demands_nothing_is_refused(tmp_path: Path, section: str) -> None:
    """Beside other rules too: who wrote it thinks that it is judged."""
    name, _, metric = section.partition(".")
    text = f"{name}: {{{metric}: {{}}}}\n" if metric else f"{name}: {{}}\n"
    with pytest.raises(DocumentError, match="would not be judged") as caught:
        read(tmp_path, TARGETS + RULE + text)
    assert caught.value.where.endswith(f"policy.yaml ({section})")


@pytest.mark.parametrize(
    "text",
    [
        "latency: {objective: {max_ms: 20}}\n",
        "latency: {tail: {vs_anchor: {max_ratio: 1.1}}}\n",
        "throughput: {vs_parent: {min_ratio: 1.2}}\n",
        "memory: {ceiling_bytes: 64000000}\n",
        "quality: {accuracy: {floor: 0.9}}\n",
    ],
)
def test_one_rule_of_any_kind_is_enough(tmp_path: Path, text: str) -> None:
    """Each kind of rule makes a policy by itself, with every mode and guard."""
    read(tmp_path, TARGETS + text)
    read(
        tmp_path,
        TARGETS + text + "guards: {max_waiting: null, max_interval: null}\nmode: dry-run\n",
    )
