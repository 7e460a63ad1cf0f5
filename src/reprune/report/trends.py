"""Whether the generations of a history get harder to compress, and which layers are cut otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from reprune.judge.trend import ALPHA, Trend, trend
from reprune.registry.generations import Generation
from reprune.report import words
from reprune.report.markup import visible

MOST_LAYERS = 5


def trend_words(newest_first: Sequence[Generation]) -> list[str]:
    """A sentence for each trend that chance seldom makes; nothing below five generations.

    Of one dense version the last verdict counts. The groups share the error rate (Bonferroni): there are many
    of them.
    """
    judged = {
        each.dense[0]: each
        for each in reversed(newest_first)
        if each.kind == "judged" and each.dense and not each.second and each.signed is not False
    }
    return list(_told(list(judged.values())))


def _told(generations: Sequence[Generation]) -> Iterator[str]:
    lost = [each.quality.loss for each in generations if each.quality is not None]
    rises = [each.made.rise for each in generations if each.made is not None]
    ratios = [each.latency.change for each in generations if each.latency is not None]
    for found, what, show in (
        (trend(lost), "what the first metric loses rises by", _plain),
        (trend([one for one in rises if one is not None]), "the predicted loss rises by", _plain),
        (trend(ratios), "the latency, as a share of the dense model's, rises by", words.ratio),
    ):
        if found is not None and found.rises:
            yield (
                f"! Harder to compress: {what} {show(found.slope)} a generation "
                f"({found.of} of them, p = {found.p_value:.2g})"
            )
    yield from _layers([each.made.kept for each in generations if each.made is not None])


def _layers(kept: Sequence[dict[str, float]]) -> Iterator[str]:
    names = list(kept[-1]) if kept else []
    found: list[tuple[str, str, Trend, list[float]]] = []
    for name in names:
        shares = [one[name] for one in kept if name in one]
        for sign, verb in ((-1.0, "less"), (1.0, "more")):
            line = trend([sign * share for share in shares])
            if line is not None and line.slope > 0.0 and line.p_value <= ALPHA / (2 * len(names)):
                found.append((name, verb, line, shares))
    for name, verb, line, shares in found[:MOST_LAYERS]:
        ends = f"{words.percent(shares[0], 0)} to {words.percent(shares[-1], 0)}"
        yield f"{visible(name, 60)} is left {verb} and {verb} wide ({ends}, p = {line.p_value:.2g})"


def _plain(value: float) -> str:
    return f"{value:.4g}"
