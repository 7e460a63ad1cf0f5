"""The pull-request report: what it says first, what it never leaves out, how long it may be."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from msgspec import structs

from reprune.core.artifacts import RuleResult, Verdict
from reprune.report import advice, markdown, words
from reprune.report.facts import ReportFacts
from reprune.report.html import render_html
from reprune.report.markdown import MAX_BYTES, render_markdown
from reprune.report.phrases import as_markdown, sentence
from tests.report.scenes import (
    BLOCKED,
    HOSTILE,
    PASSED,
    SCENES,
    TRIPPED,
    WAIVER,
    accuracy,
    floor,
    latency,
    slice_result,
)
from tests.report.verdicts import Scene, bare, rule

GOLDEN = Path(__file__).parent / "golden"
PARSER = MarkdownIt("commonmark", {"html": True}).enable("table")
Told = Callable[[str], ReportFacts]


def stable(text: str) -> str:
    """Without what changes when nothing a reader cares about did: digests and our own version."""
    text = re.sub(r"sha256:[0-9a-f]{12}…", "sha256:…", text)
    text = re.sub(r"lock=[0-9a-f]{16}", "lock=…", text)
    return re.sub(r"<sub>Reprune \S+", "<sub>Reprune …", text)


@pytest.mark.parametrize("name", sorted(SCENES))
def test_golden(name: str, told: Told) -> None:
    """The report of each outcome reads as the committed file says.

    To write the files again: REPRUNE_GOLDEN=write python -m pytest tests/report/test_markdown.py
    """
    text = stable(render_markdown(told(name)))
    path = GOLDEN / f"{name}.md"
    if os.environ.get("REPRUNE_GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(set(SCENES) - {"hostile"}))
def test_the_verdict_comes_first(name: str, told: Told) -> None:
    """The marker is line 1, the headline line 2, and what serves now stands above the table."""
    known = told(name)
    text = render_markdown(known)
    lines = text.splitlines()
    assert re.fullmatch(
        rf"<!-- reprune-report/1 key=digits@ort-cpu\S* verdict={known.judgement.outcome}"
        rf"{' mode=dry-run' if known.judgement.dry_run else ''} lock=\w+ -->",
        lines[0],
    )
    assert known.judgement.headline.replace("`", "") in lines[1].replace("`", "")
    above = text.partition("| --- |")[0]
    assert "promoted" in above
    if known.verdict.champion is not None:
        assert f"v{known.verdict.champion.version}" in above


@pytest.mark.parametrize("name", sorted(set(SCENES) - {"hostile", "waived"}))
def test_sixty_words_say_what_was_decided_and_what_serves(name: str, told: Told) -> None:
    """Whoever reads no further knows the verdict, by how much, what was allowed, and what serves now."""
    known = told(name)
    lines = render_markdown(known).splitlines()[1:]
    first = " ".join(" ".join(lines).split()[:60])
    assert as_markdown(sentence(known.judgement.headline)) in first
    assert as_markdown(advice.serving(known)) in first


def test_blocked_rows_come_first(told: Told) -> None:
    """The rows of the table stand worst first, whatever the policy's order is."""
    rows = re.findall(
        r"^\| (\S+) (\w+) \| \w+.* [↑↓]", render_markdown(told("block")), re.MULTILINE
    )
    states = [state for _, state in rows]
    assert states == sorted(states, key=["blocked", "error", "undecided", "ok"].index)
    assert states.count("blocked") == 2


def test_every_row_names_direction_interval_and_limit(told: Told) -> None:
    """Each measured row says which way is better, how sure it is, and what was allowed."""
    text = render_markdown(told("pass"))
    row = next(line for line in text.splitlines() if "Latency" in line and "dense" in line)
    assert "↓" in row
    assert "\u00d70.619 (\u00d70.612 to 0.626)" in row
    assert row.rstrip(" |").endswith("≤ \u00d70.85")


@pytest.mark.parametrize("name", sorted(SCENES))
def test_tables_are_whole(name: str, told: Told) -> None:
    """A Markdown parser sees every table with as many cells in each row as in its head."""
    assert_whole(render_markdown(told(name)))


def assert_whole(text: str) -> None:
    tokens = PARSER.parse(text)
    columns = cells = 0
    for token in tokens:
        if token.type == "table_open":
            columns = 0
        if token.type == "th_open":
            columns += 1
        if token.type == "tr_open":
            cells = 0
        if token.type == "td_open":
            cells += 1
        if token.type == "tr_close" and cells:
            assert cells == columns
    # Every line that was meant as a row was taken as one.
    rows = sum(token.type == "tr_open" for token in tokens)
    meant = [line for line in text.splitlines() if line.startswith("| ")]
    assert rows == len([line for line in meant if not set(line) <= set("|-: ")])
    assert text.count("<details>") == text.count("</details>") == text.count("</summary>")
    allowed = r"</?(?:details|summary|sub|code)>|<!--.*-->"
    html = "".join(
        token.content
        for outer in tokens
        for token in (outer, *(outer.children or []))
        if token.type in ("html_block", "html_inline")
    )
    assert "<" not in re.sub(allowed, "", html)


NAMES = st.one_of(
    st.sampled_from(
        [HOSTILE, "day", "|", "`", "x" * 300, "\u202e", "a|b", "</details>", "<!--", "-->"]
    ),
    st.text(max_size=40),
)


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@example(names=[HOSTILE, "day"], slices=10_000, harmed=10_000, rules=300, blocked=120)
@example(names=["day"], slices=10_000, harmed=0, rules=0, blocked=1)
@given(
    names=st.lists(NAMES, min_size=1, max_size=4),
    slices=st.integers(0, 10_000),
    harmed=st.integers(0, 10_000),
    rules=st.integers(0, 300),
    blocked=st.integers(0, 120),
)
def test_never_too_long_and_never_broken(
    names: list[str], slices: int, harmed: int, rules: int, blocked: int
) -> None:
    """Whatever the names and the counts, the report is short enough, whole, and names every blocked rule."""
    scene = crowd(names, slices, harmed, rules, blocked)
    text = render_markdown(bare(scene))
    assert len(text.encode()) <= MAX_BYTES < 60_001
    assert text.splitlines()[0].startswith("<!-- reprune-report/1 key=")
    assert text.splitlines()[0].endswith("-->")
    assert text.count("-->") >= 1
    assert len(re.findall(r"^\| ❌ blocked \|", text, re.MULTILINE)) == blocked
    assert "not promoted" in text
    assert_whole(text)


def crowd(names: list[str], slices: int, harmed: int, rules: int, blocked: int) -> Scene:
    """Many slices and rules with the names in turn."""

    def named(place: int) -> str:
        return f"{names[place % len(names)]}={place}"

    return replace(
        BLOCKED,
        name=names[0],
        headline=f"Blocked: {names[0]} fell; the policy allows less.",
        reasons=tuple(f"{named(place)} fell." for place in range(blocked)),
        rules=(
            *(
                rule(f"m{p}.vs_parent", "dense", "pass", target=named(p), change=0.0)
                for p in range(rules)
            ),
            *(
                rule(f"{named(p)}.vs_parent", "dense", "block", target=named(p), change=-0.1)
                for p in range(blocked)
            ),
        ),
        slices=tuple(
            slice_result(
                named(place),
                outcome="harm" if place < harmed else "ok",
                flips=(1, 0),
                change=-0.1,
                low=-0.2,
                high=0.1,
                detectable=0.2,
            )
            for place in range(slices)
        ),
    )


def test_the_order_of_sacrifice(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """With less and less room, ok slices go first, then the plan, then ok rows, then the method."""
    known = told("block")
    seen = []
    text = render_markdown(known)
    while True:
        assert "❌ blocked | Accuracy ↑" in text
        assert "`digit=8`" in text
        assert "reprune check artifacts/verdict --recompute" in text
        parts = ("✅ ok | `digit=5`", "| `conv3` |", "✅ ok | Latency", "How it was measured")
        seen.append([part in text for part in parts])
        if not any(seen[-1]):
            break
        # One byte less than what it took: the next thing has to go.
        monkeypatch.setattr(markdown, "MAX_BYTES", len(text.encode()) - 1)
        text = render_markdown(known)
    assert seen == [[place >= gone for place in range(4)] for gone in range(5)]


def test_what_was_left_out_is_counted() -> None:
    """A report that had to leave rows out says how many, and where they are."""
    text = render_markdown(bare(crowd(["s"], 0, 0, 900, 2)))
    assert "900 more rows are in the HTML report, all ok or advisory." in text


LONG = msgspec.structs.replace(
    WAIVER,
    by="B" * 900,
    reason=HOSTILE * 3,
    rules=tuple(f"m{i}.vs_parent on t" for i in range(300)),
)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3, 25])
def test_an_override_is_never_dropped(count: int) -> None:
    """However little room there is, every reader sees who overrode, and until when."""
    crowded = crowd([HOSTILE], 2000, 2000, 300, 500)
    text = render_markdown(bare(replace(crowded, waivers=(LONG,) * (count - 1) + (WAIVER,))))
    assert len(text.encode()) <= MAX_BYTES
    assert "override of Ada Lovelace (" in text
    assert text.count("**Override:**") == min(count, markdown.MOST_OVERRIDES)
    assert ("15 older overrides hold as well." in text) == (count == 25)
    assert text.count("until 2026-12-24: ") == min(count, markdown.MOST_OVERRIDES)
    assert text.index("**Override:**") < text.index("not promoted")
    assert_whole(text)


@pytest.mark.slow
def test_a_tripped_guard_is_never_dropped(told: Told) -> None:
    """The ones that hold are folded away, and only counted where there is no room."""
    known = told("tripped")
    text = render_markdown(known)
    assert "Waiting on `ort-cpu` tripped: In 38 of 60 units" in text
    assert text.count("stop what else runs on the machine.") == 1
    assert (
        "do what is said of waiting on ort-cpu, then `dvc repro -s -f benchmark` and `dvc repro`."
        in text
    )
    many = tuple(
        msgspec.structs.replace(TRIPPED.guards[1], words=f"{i} " + HOSTILE) for i in range(90)
    )
    short = render_markdown(bare(replace(crowd([HOSTILE], 0, 0, 0, 300), guards=many)))
    assert len(short.encode()) <= MAX_BYTES
    assert " tripped: 0 " in short
    assert re.search(r"and \d+ more tripped, see the HTML report", short)
    assert "Guards of the measurement: 90 tripped." in short
    assert_whole(short)


@pytest.mark.slow
def test_more_blocked_rules_than_fit_are_counted() -> None:
    """Where even the blocked rows do not fit, the first stay and the rest are counted."""
    text = render_markdown(bare(crowd(["\U0001f600" * 300], 0, 0, 0, 500)))
    assert len(text.encode()) <= MAX_BYTES
    assert re.search(r"more rows are in the HTML report, \d+ of them not ok\.", text)
    assert "| ❌ blocked |" in text
    assert_whole(text)


def test_long_sentences_give_way() -> None:
    """However long the judge's sentences are, and however much escaping adds, the report stays short."""
    shout = "@&<" * 1000
    rules = tuple(
        rule(
            f"m{place}.vs_parent", "dense", "block", change=-0.1, low=-0.2, high=-0.1, target=shout
        )
        for place in range(60)
    )
    text = render_markdown(
        bare(replace(BLOCKED, headline=shout, reasons=(f"{shout}.",) * 60, rules=rules))
    )
    assert len(text.encode()) <= MAX_BYTES
    assert len(re.findall(r"^\| ❌ blocked \|", text, re.MULTILINE)) == 60
    assert_whole(text)


def test_hostile_names_everywhere(told: Told) -> None:
    """Names that try to be markup, mentions or direction overrides are shown, and nothing else."""
    text = render_markdown(told("hostile"))
    assert_whole(text)
    assert "<script" not in text
    assert not re.search(r"@everyone", text)
    assert "\u202e" not in text
    assert "\x1b" not in text
    assert "U+202E" in text


def test_advice_for_a_block_by_compression(told: Told) -> None:
    """Where the cut did it, the report names the slice, the layers and a knob with its value now."""
    text = render_markdown(told("block"))
    assert "Slice `digit=8`" in text
    assert "The cut of `conv1` (16 to 8 channels)" in text
    assert "`plan.fraction: 0.65` (now 0.5)" in text
    assert "**Is it noise?**" in text


def test_advice_for_a_bad_retraining(told: Told) -> None:
    """Where the dense parent itself got worse, the report says so and proposes no knob of the cut."""
    text = render_markdown(told("retrained"))
    assert "Compression is not the cause" in text
    assert "plan.fraction" not in text


def test_advice_where_the_dense_parent_fails_the_floor(told: Told) -> None:
    """A floor that the dense parent itself misses: no knob of the cut helps, and none is proposed."""
    rules = (accuracy("dense", "inconclusive", (330, 355), 0.02), floor("block", 330))
    text = render_markdown(replace(told("block"), verdict=judged(BLOCKED, rules)))
    assert "Compression is not the cause: the dense parent v3 is itself at 78.89\u00a0%" in text
    assert "plan.fraction" not in text
    fine = (accuracy("dense", "block", (330, 441), 0.02), floor("block", 330))
    assert "`plan.fraction: 0.65`" in render_markdown(
        replace(told("block"), verdict=judged(BLOCKED, fine))
    )


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        # Of 3.3 points to the champion 2.9 are the cut's; both within and beyond what is allowed.
        ((("dense", "pass", (400, 413)), ("champion", "block", (400, 415))), ""),
        ((("dense", "inconclusive", (400, 413)), ("champion", "block", (400, 415))), ""),
        # The cut gained: no share of it is told.
        ((("dense", "pass", (400, 391)), ("champion", "block", (400, 441))), "not the cause: "),
        ((("dense", "pass", (400, 401)), ("champion", "block", (400, 441))), "share is 0.22"),
        # The cut alone is too much as well.
        ((("dense", "block", (400, 420)), ("champion", "block", (400, 441))), ""),
    ],
)
def test_the_parent_is_blamed_only_for_what_it_lost(told: Told, rules: Any, words: str) -> None:
    """At most half of what was lost is the cut's, of the same metric on the same target."""
    made = tuple(accuracy(*one, 0.005) for one in rules)
    text = render_markdown(replace(told("block"), verdict=judged(BLOCKED, made)))
    assert ("Compression is not the cause" in text) == bool(words)
    assert ("plan.fraction" in text) != bool(words)
    assert words.replace(" pt", "\u00a0pt") in text
    elsewhere = (structs.replace(made[0], target="other"), made[1])
    moved = render_markdown(replace(told("block"), verdict=judged(BLOCKED, elsewhere)))
    assert "Compression is not the cause" not in moved


def test_a_floor_that_the_parent_reaches_is_the_cuts(told: Told) -> None:
    """Within what may be lost to the parent, and below the floor, which the parent is above."""
    rules = (accuracy("dense", "pass", (400, 432), 0.005), floor("block", 400))
    text = render_markdown(replace(told("block"), verdict=judged(BLOCKED, rules)))
    assert "Compression is not the cause" not in text
    assert "Cut less" in text


def test_slices_of_an_advisory_target_ask_for_nothing(told: Told) -> None:
    """What is required is too slow: the cut is made deeper, whatever an advisory target's slices say."""
    slow = latency("dense", "block", 1.0, 0.95)
    advisory = tuple(
        structs.replace(one, required=False, target="other")
        for one in BLOCKED.rules
        if ".slices." in one.rule
    )
    slices = tuple(structs.replace(one, target="other") for one in BLOCKED.slices)
    scene = replace(BLOCKED, rules=(slow, *advisory), slices=slices)
    verdict = bare(scene).verdict
    text = render_markdown(replace(told("block"), verdict=verdict))
    assert "Cut more" in text
    assert "Cut less" not in text


def test_an_undecided_slice_is_called_so(told: Told) -> None:
    """Neither harmed nor ok; the first of those that are folded away, a ring in the figure."""
    slices = tuple(
        structs.replace(one, outcome="undecided") if one.slice == "digit=8" else one
        for one in BLOCKED.slices
    )
    known = replace(told("block"), verdict=bare(replace(BLOCKED, slices=slices)).verdict)
    text, page = render_markdown(known), render_html(known)
    assert "<summary>Slices: 9 ok, 0 harmed, 1 not judged, 1 undecided</summary>" in text
    assert "Slices that moved" not in text
    assert text.index("❔ undecided | `digit=8`") < text.index("✅ ok | `digit=")
    assert '<span class="chip inconclusive">undecided</span>' in page
    assert "0 of 11 slices harmed, 1 undecided, 1 too small to be judged alone." in page
    rings = [text.count("mark open") for text in (page, render_html(told("block")))]
    assert rings[0] == rings[1] + 1


def test_no_fraction_is_proposed_that_cuts_less(told: Told) -> None:
    slow = replace(told("block"), verdict=judged(BLOCKED, (latency("dense", "block", 1.0, 0.95),)))
    assert slow.params is not None
    plan = structs.replace(slow.params.plan, fraction=0.04)
    text = render_markdown(replace(slow, params=structs.replace(slow.params, plan=plan)))
    assert "Cut more" not in text


def test_advice_never_says_cut_less_and_cut_more(told: Told) -> None:
    """Worse and slower at once: no advice takes back another; what is only undecided asks for no knob."""
    worse = accuracy("dense", "block", (414, 441), 0.02)
    for outcome, timed in (("block", True), ("inconclusive", False)):
        rules = (worse, latency("dense", outcome, 0.08, 0.95))
        text = render_markdown(replace(told("block"), verdict=judged(BLOCKED, rules)))
        assert "Cut less" in text
        assert "Cut more" not in text
        assert ("Plan by measured time" in text) == timed


def judged(scene: Scene, rules: tuple[RuleResult, ...]) -> Verdict:
    """The verdict of a scene with other results."""
    return bare(replace(scene, rules=rules, slices=())).verdict


def test_advice_for_an_undecided_one(told: Told) -> None:
    """An undecided verdict says what would decide it, and that a re-run alone does not."""
    text = render_markdown(told("inconclusive"))
    assert "About 620 more examples" in text
    assert "a mere re-run decides nothing" in text


def test_advice_for_a_slow_one() -> None:
    """Where time is short, the knobs proposed are those that cut more."""
    scene = replace(BLOCKED, slices=(), rules=(latency("dense", "block", 0.08, 0.95),))
    text = render_markdown(bare(scene))
    assert "Cut more" in text
    assert "Recover longer" not in text


def test_an_advisory_target_cannot_look_decisive() -> None:
    """A rule of an advisory target that failed has no cross, and does not stand above what decides."""
    advisory = msgspec.structs.replace(
        latency("dense", "block", 0.08, 1.2), target="phone", required=False
    )
    scene = replace(PASSED, rules=(advisory, *PASSED.rules), slices=())
    text = render_markdown(bare(scene))
    row = next(line for line in text.splitlines() if "phone" in line)
    assert row.startswith("| \u2796 blocked, advisory: does not decide |")
    assert "❌" not in text


def test_a_version_of_a_set_is_short_in_tables_and_whole_where_it_is_named() -> None:
    """One number of every member in a column's head; with their names where the verdict is told."""
    label = "depth=7+detector=4"
    assert words.version(label) == "v7+4"
    assert words.full_version(label) == label
    assert words.version("12") == words.full_version("12") == "v12"
