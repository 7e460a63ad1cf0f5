"""Trends over a history: which sentences five generations can carry, and in which order they are read."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from reprune.core.artifacts import Asked
from reprune.registry.generations import Figure, Generation, History, Made
from reprune.report.history import WIDTH, render_history
from reprune.report.rows import made_words
from reprune.report.trends import trend_words, trends_of


def generation(number: int, loss: float, kept: float, **changes: object) -> Generation:
    given: dict[str, object] = {
        "version": f"{number}",
        "kind": "judged",
        "state": "promoted",
        "dense": (f"{number}",),
        "outcome": "pass",
        "verdict": f"sha256:{number}",
        "lock": f"sha256:{number}",
        "quality": Figure(rule="q", unit="share", change=-loss, low=None, high=None, loss=loss),
        "made": Made(kept={"conv1": kept, "conv2": 0.5}, rise=0.1),
    }
    return Generation(**(given | changes))  # type: ignore[arg-type]


def newest_first(losses: Sequence[float], kept: Sequence[float]) -> list[Generation]:
    both = zip(losses, kept, strict=True)
    return [generation(number, *pair) for number, pair in enumerate(both)][::-1]


RISING = [0.001 * number for number in range(8)]
FALLING = [0.9 - 0.1 * number for number in range(8)]


def words_of(generations: Sequence[Generation]) -> list[str]:
    return [one.replace("\u00a0", " ") for one in trend_words(trends_of(generations))]


def test_a_loss_that_rises_and_a_layer_that_shrinks_are_told() -> None:
    told = words_of(newest_first(RISING, FALLING))
    assert any("what q loses rises by 0.10 pt a generation" in one for one in told)
    assert any(one.startswith("conv1 is left less and less wide") for one in told)
    assert not any("conv2" in one for one in told)


def test_backwards_nothing_gets_harder_and_the_layer_widens() -> None:
    told = words_of(newest_first(RISING[::-1], FALLING[::-1]))
    assert not any("Harder" in one for one in told)
    assert any("conv1 is left more and more wide" in one for one in told)


def test_a_block_that_goes_is_told_and_takes_its_groups_with_it() -> None:
    """Half of the group first, then none of it with its block: that is no wider group."""
    with_it, without = {"l.conv1": 0.5}, {"l.conv1": 0.0, "block l": 0.0}
    laps = [Made(kept=with_it)] * 5 + [Made(kept=without)] * 5
    told = words_of([generation(n, 0.0, 0.5, made=one) for n, one in enumerate(laps)][::-1])
    assert [one.partition(" (")[0] for one in told] == [
        "block l is left less and less often",
        "l.conv1 is left less and less wide",
    ]
    back = words_of([generation(n, 0.0, 0.5, made=one) for n, one in enumerate(laps[::-1])][::-1])
    assert any(one.startswith("block l is left more and more often") for one in back)


def asked_of(fraction: float) -> Asked:
    return Asked(allocator="latency", budget="macs", fraction=fraction, limits={"params": 0.5})


def test_what_was_asked_otherwise_is_no_part_of_a_trend() -> None:
    """A budget that a person tightens every generation makes no model harder to compress."""
    tighter = [generation(number, 0.01 * number, 0.8 - 0.05 * number) for number in range(8)]

    def asked(fractions: Sequence[float | None]) -> list[Generation]:
        found = []
        for one, fraction in zip(tighter, fractions, strict=True):
            assert one.made is not None
            question = None if fraction is None else asked_of(fraction)
            found.append(replace(one, made=replace(one.made, question=question)))
        return found[::-1]

    assert words_of(asked([0.8 - 0.05 * number for number in range(8)])) == []
    told = words_of(asked([0.8] * 2 + [0.5] * 6))
    assert "(6 of them, since plans were last asked something else, p = " in told[0]
    assert "since plans were last asked something else" in told[-1]
    # An older record does not say what it was asked.
    told = words_of(asked([None] * 6 + [0.5] * 2))
    assert "(8 of them, p = " in told[0]


def test_four_generations_and_repeated_verdicts_of_one_dense_version_say_nothing() -> None:
    assert words_of(newest_first(RISING[:4], FALLING[:4])) == []
    one = [generation(number, loss, 0.5, dense=("1",)) for number, loss in enumerate(RISING)]
    assert words_of(one[::-1]) == []
    untrusted = [generation(number, loss, 0.5, signed=False) for number, loss in enumerate(RISING)]
    assert words_of(untrusted[::-1]) == []


def test_the_history_shows_what_was_taken_over_and_the_trend() -> None:
    made = Made(table="reused", why="it holds", cost=6_000, full_cost=48_000, epochs=5, asked=8)
    generations = newest_first(RISING, FALLING)
    generations[0] = generation(8, 0.008, 0.1, made=made)
    told = History(
        name="digits", registry="files", champion="8", anchor=None, unchecked="", total=8,
        generations=tuple(generations), waiting=(), gaps=(),
        trends=trends_of(generations),
    )  # fmt: skip
    text = render_history(told).replace("\u00a0", " ")
    assert "the champion's sensitivity, checked; saved 42" in " ".join(text.split())
    assert "recovery: 5 of 8 epochs" in " ".join(text.split())
    assert "Harder to compress" in text
    assert all(len(line) <= WIDTH for line in text.splitlines())


def test_what_was_kept_and_may_be_worse_says_up_to_how_much() -> None:
    doubt = "cannot tell: may be up to 1.9 points worse"
    made = Made(table="reused", table_doubt=doubt, widths="kept", widths_doubt=doubt)
    table, widths = made_words(generation(1, 0.0, 0.5, made=made))
    assert table.endswith(f"; its plan: {doubt}")
    assert widths == f"the champion's widths kept; {doubt}"


def test_a_table_that_was_measured_says_why_and_none_says_nothing() -> None:
    measured = Made(table="measured", why="there is no champion yet", cost=9, full_cost=9)
    assert made_words(generation(1, 0.0, 0.5, made=measured)) == [
        "sensitivity measured whole: there is no champion yet"
    ]
    assert made_words(generation(1, 0.0, 0.5)) == []


def test_latency_tables_say_whose_they_are_and_what_they_took() -> None:
    made = Made(times="reused", times_why="they hold", builds=2, full_builds=24)
    assert [
        one.replace("\u00a0", " ") for one in made_words(generation(1, 0.0, 0.5, made=made))
    ] == ["the champion's latency tables, checked; 2 of 24 engines built for them"]
    made = Made(times="measured", times_why="of another kind of machine", builds=24, full_builds=24)
    assert made_words(generation(1, 0.0, 0.5, made=made)) == [
        "latency tables measured: of another kind of machine"
    ]
    # What the sensitivity says already is not said twice.
    both = Made(table="measured", why="no champion", times="measured", times_why="no champion")
    assert len(made_words(generation(1, 0.0, 0.5, made=both))) == 1


def demanding(number: int, **changes: object) -> Generation:
    """One of a set of two members on one target, whose second member gets worse, and which gets slower."""
    drops = {"a.accuracy": 0.0, "b.miou": 0.001 * number}
    given: dict[str, object] = {
        "drops": drops,
        "ratios": {"cpu": 0.5 + 0.02 * number},
        "rooms": {"b.miou": 0.01, "latency@cpu": 0.7},
        "latency": Figure(
            rule="latency.vs_parent", unit="ratio", change=0.5 + 0.02 * number, low=None, high=None,
            loss=0.0,
        ),
    }  # fmt: skip
    return generation(number, 0.0, 0.5, **(given | changes))


def test_every_metric_and_target_is_watched_and_when_the_gate_would_stop_it() -> None:
    """Not the first metric alone. The last line is at 0.007 of 0.01, and at 0.64 of 0.7."""
    found = trends_of([demanding(number) for number in range(8)][::-1])
    assert [(one.what, one.name, one.blocks_in) for one in found] == [
        ("quality", "b.miou", 3),
        ("latency", "cpu", 3),
    ]
    assert "if that goes on, the gate stops it in about 3 generations" in trend_words(found)[0]
    assert "the latency on cpu" in trend_words(found)[1]
    wide = {"b.miou": 0.1, "latency@cpu": 0.61}
    last = demanding(7, rooms=wide)
    far, now = trends_of([last, *[demanding(number) for number in range(7)][::-1]])
    assert (far.blocks_in, now.blocks_in) == (93, 0)
    assert "the gate" not in trend_words([far])[0]
    assert trend_words([now])[0].endswith("if that goes on, the gate stops it now")


def test_a_verdict_that_cannot_be_read_has_the_receipts_figures() -> None:
    """Those of the only target go on the same line; without a bound nobody says when."""
    old = [demanding(number, drops={}, ratios={}, rooms={}) for number in range(6)]
    found = trends_of([demanding(7), demanding(6), *old[::-1]])
    assert [(one.what, one.name, one.of) for one in found] == [("latency", "cpu", 8)]
    assert [one.blocks_in for one in trends_of(old[::-1])] == [None]


def test_recovery_and_widths_say_what_was_the_champions_whatever_the_table() -> None:
    """Epochs and what they saved, the start, the second teacher, the rate; nothing of a given rate."""
    made = Made(
        epochs=5, asked=8, recovery_saved=42_000, start="champion", taught=0.25, rate=0.01,
        rate_how="champion", rate_age=2, widths="kept",
    )  # fmt: skip
    told = [one.replace("\u00a0", " ") for one in made_words(generation(1, 0.0, 0.5, made=made))]
    assert told == [
        "the champion's widths kept",
        "recovery: 5 of 8 epochs, saved 42.0 k examples; begun with the champion; the champion taught 25 %; "
        "learning rate 0.01, the champion's, found 2 generations ago",
    ]
    other = Made(start="cut", rate=0.03, rate_how="tried", widths="fresh")
    assert made_words(generation(1, 0.0, 0.5, made=other)) == [
        "the champion's widths tried; fresh ones taken",
        "recovery: begun with the cut model; learning rate 0.03, the best of those tried",
    ]
    given = Made(rate=0.03, rate_how="given")
    assert made_words(generation(1, 0.0, 0.5, made=given)) == []
