"""Trends over a history: which sentences five generations can carry, and in which order they are read."""

from __future__ import annotations

from collections.abc import Sequence

from reprune.registry.generations import Figure, Generation, History, Made
from reprune.report.history import WIDTH, render_history
from reprune.report.rows import made_words
from reprune.report.trends import trend_words


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


def test_a_loss_that_rises_and_a_layer_that_shrinks_are_told() -> None:
    told = trend_words(newest_first(RISING, FALLING))
    assert any("what the first metric loses rises by 0.001 a generation" in one for one in told)
    assert any(one.startswith("conv1 is left less and less wide") for one in told)
    assert not any("conv2" in one for one in told)


def test_backwards_nothing_gets_harder_and_the_layer_widens() -> None:
    told = trend_words(newest_first(RISING[::-1], FALLING[::-1]))
    assert not any("Harder" in one for one in told)
    assert any("conv1 is left more and more wide" in one for one in told)


def test_four_generations_and_repeated_verdicts_of_one_dense_version_say_nothing() -> None:
    assert trend_words(newest_first(RISING[:4], FALLING[:4])) == []
    one = [generation(number, loss, 0.5, dense=("1",)) for number, loss in enumerate(RISING)]
    assert trend_words(one[::-1]) == []
    untrusted = [generation(number, loss, 0.5, signed=False) for number, loss in enumerate(RISING)]
    assert trend_words(untrusted[::-1]) == []


def test_the_history_shows_what_was_taken_over_and_the_trend() -> None:
    made = Made(table="reused", why="it holds", cost=6_000, full_cost=48_000, epochs=5, asked=8)
    generations = newest_first(RISING, FALLING)
    generations[0] = generation(8, 0.008, 0.1, made=made)
    told = History(
        name="digits", registry="files", champion="8", anchor=None, unchecked="", total=8,
        generations=tuple(generations), waiting=(), gaps=(),
    )  # fmt: skip
    text = render_history(told).replace("\u00a0", " ")
    assert "the champion's sensitivity, checked; saved 42" in " ".join(text.split())
    assert "5 of 8 epochs" in " ".join(text.split())
    assert "Harder to compress" in text
    assert all(len(line) <= WIDTH for line in text.splitlines())


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
