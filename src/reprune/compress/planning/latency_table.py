"""What each cut saves in the built model, measured one at a time: MACs mislead, depth pays most."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import isotonic_regression

from reprune.compress.planning.latency import Widths
from reprune.compress.planning.terms import Rungs, Term, Terms, merged

# A prediction never falls below this share of the dense time, however many savings add up.
LEAST = 0.01


@dataclass(frozen=True, kw_only=True)
class LatencyTable:
    """`savings[g]` lists (width, share of the dense time that is saved), widths rising to the full one;
    it never rises with the width and ends at 0. A block (rungs 0 and 1) saves at least what all cuts
    inside it save, and `blocks` names those.
    """

    savings: Mapping[str, tuple[tuple[int, float], ...]]
    blocks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def ratio(self, widths: Widths) -> float:
        """The predicted latency over the dense model's: savings are taken to add up."""
        gone = {block for block in self.blocks if widths.get(block, 1) == 0}
        inside = {group for block in gone for group in self.blocks[block]}
        saved = sum(
            self._saved(name, width)
            for name, width in widths.items()
            if name in self.savings and name not in inside
        )
        return max(1.0 - saved, LEAST)

    def terms(self, rungs: Rungs) -> Terms:
        """`ratio` over these options as tables; it is not kept above LEAST there."""
        blocks = {group: block for block, groups in self.blocks.items() for group in groups}
        found = []
        for name in (name for name in rungs if name in self.savings):
            block = blocks.get(name)
            saved = {width: -self._saved(name, width) for width in rungs[name]}
            if block is None or block not in rungs:
                found.append(
                    Term(
                        options=(name,), values={(width,): value for width, value in saved.items()}
                    )
                )
            else:
                found.append(
                    Term(
                        options=(name, block),
                        values={(w, kept): v * kept for w, v in saved.items() for kept in (0, 1)},
                    )
                )
        return merged(1.0, found, rungs)

    def _saved(self, name: str, width: int) -> float:
        points = self.savings[name]
        return float(np.interp(width, [p[0] for p in points], [p[1] for p in points]))


def measure_table(
    rungs: Mapping[str, tuple[int, ...]],
    blocks: Mapping[str, tuple[str, ...]],
    time_ratio: Callable[[Widths], float],
    *,
    say: Callable[[str], None],
) -> LatencyTable:
    """Times the model with each group alone at its least and its middle rung, and without each block.

    Noise is ironed out: more cut never saves less, and nothing costs time (isotonic regression, clipped). A
    `time_ratio` that keeps what it timed (kept_times) lets a run that was killed go on.
    """
    ratios: dict[tuple[str, int], float] = {}
    wanted = [
        (name, width)
        for name, widths in rungs.items()
        for width in sorted({widths[0], widths[(len(widths) - 1) // 2]} - {widths[-1]})
    ]
    for number, (name, width) in enumerate(wanted, start=1):
        ratio = ratios[name, width] = time_ratio({name: width})
        say(f"latency: {number} of {len(wanted)}: {name} at {width} alone, {ratio:.3f} of dense")
    savings = {
        name: _ironed(
            [(width, 1.0 - ratios[name, width]) for n, width in wanted if n == name],
            widths[-1],
        )
        for name, widths in rungs.items()
    }
    for block, groups in blocks.items():
        within = sum(savings[group][0][1] for group in groups)
        savings[block] = ((0, max(savings[block][0][1], within)), (1, 0.0))
    return LatencyTable(savings=savings, blocks=blocks)


def _ironed(points: list[tuple[int, float]], full: int) -> tuple[tuple[int, float], ...]:
    """The isotonic fit of rising widths' savings, at least 0, with 0 at the full width."""
    if not points:
        return ((full, 0.0),)
    fit = isotonic_regression([saved for _, saved in points], increasing=False)
    fitted = np.maximum(np.asarray(fit.x, dtype=np.float64), 0.0)
    return (
        *((width, float(saved)) for (width, _), saved in zip(points, fitted, strict=True)),
        (full, 0.0),
    )
