"""What the report says of what was taken over, and of a model that gets harder to compress."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec

from reprune.core.artifacts import (
    ChampionStart,
    CutCheck,
    JointTrial,
    KnownRecovery,
    Previous,
    Profile,
    RateChoice,
    Recovery,
    RecoveryEpoch,
    RowCheck,
    TableFact,
    TableReuse,
    TimesReuse,
    TriedRate,
    VerdictSummary,
)
from reprune.report.facts import ReportFacts
from reprune.report.html import render_html
from reprune.report.markdown import render_markdown
from reprune.report.taken_over import (
    difficulty,
    rate_words,
    recovery_words,
    table_words,
    taken_over,
    times_words,
    trends_here,
)
from tests.report.scenes import PASSED
from tests.report.verdicts import facts

ROW = RowCheck(
    unit="conv2", why="near", keep=4, before=0.1, before_error=0.01, now=0.2, now_error=0.01
)
REUSED = TableReuse(
    how="reused", why="its rows hold", age=2, source="sha256:1", checked=(ROW,), check_cost=6_000,
    full_cost=48_000,
)  # fmt: skip
MEASURED = TableReuse(
    how="measured", why="the champion does worse", check_cost=6_000, full_cost=48_000
)


def told_of(tmp_path: Path, *drops: float) -> ReportFacts:
    """A pass whose generations before lost so much."""
    given = facts(PASSED, tmp_path)
    history = tuple(
        VerdictSummary(
            dense_version=f"old{number}",
            compressed_version=f"{number}",
            outcome="pass",
            verdict="sha256:1",
            reasons=(),
            promoted=True,
            quality_drop=drop,
        )
        for number, drop in enumerate(drops)
    )
    before = Previous(
        name="digits", dense_version="9", champion=None, anchor=None, attempts=0, history=history
    )
    return replace(given, previous=before)


def tabled(profile: Profile) -> Profile:
    """The profile with tables that were measured."""
    reuse = TimesReuse(how="measured", why="another runtime", full_builds=24)
    fact = TableFact(target="cpu", key="sha256:1", builds=24, error=0.01, reuse=reuse)
    return msgspec.structs.replace(profile, tables=(fact,))


def test_a_table_says_whose_it_is_and_what_that_saved():
    assert "conv2 measured again" in table_words(REUSED, 6_000)
    assert "saved 42" in table_words(REUSED, 6_000)
    told = table_words(MEASURED, 54_000).replace("\u00a0", " ")
    assert "measured whole" in told
    assert "the check took 6" in told
    assert "for the champion does worse" in told


def test_latency_tables_say_whose_they_are_and_what_that_saved():
    check = CutCheck(widths={"a": 8}, before=0.5, now=0.51, moved=0.03)
    reuse = TimesReuse(
        how="reused", why="2 cuts hold", age=3, source="sha256:1", checked=(check, check), full_builds=24
    )  # fmt: skip
    told = times_words("cpu", reuse).replace("\u00a0", " ")
    assert told == (
        "Latency tables of cpu: the champion's, 3 generations old: 2 cuts hold. It saved 22 of 24 engines."
    )
    reuse = TimesReuse(how="measured", why="another runtime", full_builds=24)
    told = times_words("cpu", reuse).replace("\u00a0", " ")
    assert told == "Latency tables of cpu: measured with 24 engines, for another runtime."


def test_recovery_says_its_epochs_and_its_second_teacher():
    known = KnownRecovery(champion="c", asked=8, epochs=5, needed=5)
    assert "5 of 8 epochs" in recovery_words(known)
    assert "taught" not in recovery_words(known)
    assert "saved" not in recovery_words(known)
    assert "It saved about" in recovery_words(known, 42_000)
    assert "25" in recovery_words(msgspec.structs.replace(known, second="c", weight=0.25))
    assert "ago" not in recovery_words(known)
    told = recovery_words(msgspec.structs.replace(known, age=3)).replace("\u00a0", " ")
    assert told.endswith("The last one that took nothing over was 3 generations ago.")


def test_recovery_says_that_it_began_with_the_champion_and_only_where_it_did():
    start = ChampionStart(taken=True, champion_loss=0.125, cut_loss=0.5, cost=600)
    known = KnownRecovery(champion="c", asked=8, epochs=2, needed=5, start=start)
    told = recovery_words(known).replace("\u00a0", " ")
    assert told == (
        "Recovery: 2 of 8 epochs, begun with the champion's weights (loss on tune 0.125, of the cut model "
        "0.5)."
    )
    stayed = msgspec.structs.replace(known, start=msgspec.structs.replace(start, taken=False))
    assert "begun" not in recovery_words(stayed)


def test_what_a_shorter_recovery_saves_is_counted_at_what_its_epochs_took():
    """Less what asking took; trying rates is no part of an epoch."""
    epochs = tuple(
        RecoveryEpoch(epoch=place, train_loss=0.1, tune_loss=0.1, learning_rate=0.1)
        for place in (1, 2)
    )
    start = ChampionStart(taken=True, champion_loss=0.1, cut_loss=0.5, cost=100)
    known = KnownRecovery(champion="c", asked=5, epochs=2, needed=2)
    rate = RateChoice(learning_rate=0.1, how="tried", optimizer="sgd", examples=700)
    one = Recovery(epochs=epochs, best_epoch=2, examples=2_000, teacher="t")
    assert one.saved == 0
    assert msgspec.structs.replace(one, known=known).saved == 3_000
    asked = msgspec.structs.replace(known, start=start)
    assert msgspec.structs.replace(one, known=asked, rate=rate).saved == 1_700


def test_a_learning_rate_says_where_it_comes_from_unless_it_was_given():
    tried = tuple(TriedRate(learning_rate=rate, tune_loss=0.1) for rate in (0.003, 0.01, 0.03))
    rate = RateChoice(learning_rate=0.01, how="tried", optimizer="sgd", tried=tried, examples=3_000)
    (told,) = rate_words(rate)
    assert "0.01, the best on tune of 3 that were tried" in told
    assert "with 3" in told
    (told,) = rate_words(msgspec.structs.replace(rate, how="champion", age=2))
    assert (
        told.replace("\u00a0", " ")
        == "Learning rate: 0.01, the champion's, found 2 generations ago."
    )
    assert rate_words(msgspec.structs.replace(rate, how="given")) == []


def test_every_form_of_the_report_tells_it_and_nothing_where_nobody_asked(tmp_path):
    given = facts(PASSED, tmp_path)
    assert taken_over(given) == []
    assert given.table is not None
    assert given.plan is not None
    widths = {group.group: group.keep for group in given.plan.groups}
    tried = JointTrial(
        known=widths, fresh={"other": 1}, unit="share", worse=0.001, standard_error=0.002,
        allowed=0.002, examples=500, cost=1,
    )  # fmt: skip
    asked = replace(
        given,
        table=msgspec.structs.replace(given.table, reuse=REUSED, cost=6_000),
        plan=msgspec.structs.replace(given.plan, tried=tried),
        profiles=(tabled(given.profiles[0]),),
    )
    assert "Latency tables of cpu" in taken_over(asked)[1][0]
    assert "the champion's were kept" in taken_over(asked)[2][0]
    for render in (render_markdown, render_html):
        assert "2 generations old" in render(asked).replace("\u00a0", " ")
        assert "Taken over" in render(asked)
        assert "Taken over" not in render(given)
    unsure = msgspec.structs.replace(tried, worse_low=-0.017)
    doubtful = replace(asked, plan=msgspec.structs.replace(given.plan, tried=unsure))
    assert "(cannot tell: may be up to 1.9 points worse)" in taken_over(doubtful)[2][0]
    fresh = msgspec.structs.replace(tried, known={"other": 1}, fresh=widths)
    other = replace(asked, plan=msgspec.structs.replace(given.plan, tried=fresh))
    assert "fresh ones were taken" in taken_over(other)[2][0]


def rising(tmp_path: Path, **old: object) -> ReportFacts:
    """Five generations whose last ones lost more and more, as records of before the further figures."""
    known = told_of(tmp_path, -0.05, -0.04, -0.03, -0.02, -0.01)
    assert known.previous is not None
    history = tuple(
        msgspec.structs.replace(one, **{name: told(place) for name, told in old.items()})  # type: ignore[operator]
        for place, one in enumerate(known.previous.history)
    )
    return replace(known, previous=msgspec.structs.replace(known.previous, history=history))


def test_a_model_that_gets_harder_is_told_with_when_the_gate_would_stop_it(tmp_path):
    """A rise that this generation's own drop goes on; level ones and short ones say nothing."""
    assert difficulty(told_of(tmp_path)) == []
    assert difficulty(told_of(tmp_path / "level", 0.0, 0.0, 0.0, 0.0)) == []
    (told,) = [one[0] for one in difficulty(rising(tmp_path / "rising"))]
    assert "Harder to compress: what accuracy loses rises by 1.0" in told
    assert "6 of them" in told
    assert "if that goes on, the gate stops it in about" in told


def test_every_metric_target_and_layer_is_watched(tmp_path):
    """Not the first metric alone: what rises is told of each that this verdict is about."""
    known = rising(
        tmp_path,
        quality_drops=lambda place: {"accuracy": 0.0, "zeal": 0.001 * place},
        latency_ratios=lambda place: {"ort-cpu": 0.4 + 0.04 * place},
        predicted_loss=lambda place: 0.01 + 0.001 * place,
        kept=lambda place: {"conv1": 0.9 - 0.05 * place, "conv2": 0.5},
    )
    other = msgspec.structs.replace(
        next(one for one in known.judgement.rules if one.rule == "accuracy.vs_parent"),
        rule="zeal.vs_parent",
        change=-0.006,
    )
    judgement = msgspec.structs.replace(known.judgement, rules=(*known.judgement.rules, other))
    known = replace(known, verdict=msgspec.structs.replace(known.verdict, judgement=judgement))
    told = [one[0].replace("\u00a0", " ") for one in difficulty(known)]
    assert [(one.what, one.name) for one in trends_here(known)] == [
        ("quality", "zeal"), ("predicted loss", ""), ("latency", "ort-cpu"), ("group", "conv1"),
    ]  # fmt: skip
    assert "what zeal loses rises by 0.1" in told[0]
    assert "the gate stops it" in told[2]
    assert told[3].startswith("conv1 is left less and less wide (90 % to 50 %")
    for render in (render_markdown, render_html):
        text = render(known).replace("\u00a0", " ")
        assert "the latency on ort-cpu" in text
        assert "less and less wide" in text


def test_the_trend_of_the_report_begins_where_the_question_changed(tmp_path):
    """What the receipts of earlier generations say they were asked, beside what this plan was."""
    known = rising(tmp_path / "alike")
    assert known.plan is not None
    mine = known.plan.asked
    assert len(difficulty(rising(tmp_path / "same", asked=lambda place: mine))) == 1
    other = msgspec.structs.replace(mine, fraction=mine.fraction / 2)
    assert difficulty(rising(tmp_path / "other", asked=lambda place: other)) == []
