"""Numbers and names as a reviewer says them."""

from __future__ import annotations

from reprune.core.artifacts import Waiver

ARM_NAMES = {
    "candidate": "the candidate",
    "dense": "the dense model",
    "champion": "the champion",
    "anchor": "the anchor",
}


def speed(ratio: float) -> str:
    """A ratio of times as a speed: 0.62 is '1.61x faster than'."""
    if abs(ratio - 1.0) < 0.005:
        return "about as fast as"
    return f"{1 / ratio:.3g}x faster than" if ratio < 1.0 else f"{ratio:.3g}x slower than"


def speed_demand(limit: float) -> str:
    """What a largest ratio of times asks for."""
    if limit == 1.0:
        return "no slower"
    if limit < 1.0:
        return f"at least {1 / limit:.3g}x faster"
    return f"at most {limit:.3g}x slower"


def percent(share: float) -> str:
    return f"{100 * share:.4g} %"


def points(share: float) -> str:
    """A difference of shares in points, at least one decimal."""
    value = 100 * share
    text = f"{value:.1f}" if round(value, 1) == round(value, 6) else f"{value:.2f}"
    return "0.0" if text in ("-0.0", "-0.00", "0.00") else text


def moved(metric: str, change: float) -> str:
    """How a metric moved: 'accuracy fell by 9.6 points'."""
    if points(change) == "0.0":
        return f"{metric} did not change" if change == 0 else f"{metric} hardly changed"
    return f"{metric} {'rose' if change > 0 else 'fell'} by {points(abs(change))} points"


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def roughly(number: float) -> int:
    """Two significant digits, rounded up: an estimate should look like one."""
    scale = 1
    while number / scale > 99:
        scale *= 10
    return -int(-number // scale) * scale


def confidence(alpha: float) -> str:
    """The one-sided confidence of a limit at level alpha."""
    return f"{100 * (1 - alpha):.4g} %"


def waived(waiver: Waiver, champion: str) -> str:
    """What every report says of an override while it holds; `champion` is the bundle that serves now."""
    who = "The champion" if waiver.candidate == champion else "An earlier champion"
    return (
        f"{who} was promoted by an override of {waiver.by} ({waiver.reason}), until {waiver.expires}: "
        f"{', '.join(waiver.rules)} did not hold."
    )
