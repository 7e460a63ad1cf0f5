"""AMC (He et al., arXiv:1802.03494): an agent walks through the model and sets one group's width after
another; the loss of the whole cut is its reward.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reprune.compress.planning.trying import Looks, Shape, Tries, onto_budget, starts

if TYPE_CHECKING:
    import numpy as np

    from reprune.compress.planning.agent import Agent, Step
    from reprune.compress.planning.allocate import Problem, Widths

# Section 4 explores for 100 of 400 episodes with a constant noise of 0.5, then lets it decay exponentially.
WARMUP = 0.25
NOISE = 0.5
# By the last episode the noise is this share of what it was.
LAST_NOISE = 0.01
# Episodes for one evaluation: the agent may come to widths that it has seen.
EPISODES = 2
# Features of a layer in the state (section 3.2), and where among them its multiply-accumulates are.
FEATURES = 11
MACS = 7


def by_agent(problem: Problem) -> dict[str, int]:
    """The widths of the best episode of a DDPG agent, or the best start where that loses less.

    State (section 3.2, eleven features scaled to 0..1 by their largest): the group's number, its
    layer's outputs, inputs, height, width, stride, kernel and MACs, what was saved so far, what the
    groups that follow cost, and the last action. Action: the share of the group that stays, rounded
    to its nearest rung. It is clipped (3.3, algorithm 1) to the widest rung with which the budget can
    still be met when every later group is cut to its least; that is computed with the whole model's
    cost, not with a sum over layers. What is left of the budget at the end of the walk is used up
    (`trying.onto_budget`; not in the paper), and those are the actions that are learnt from.

    Reward: minus the measured rise in loss (R_err with the loss in place of the error), squashed by
    r / (s + |r|) with the best start's rise as s, for each step of the episode, less its moving
    average in the critic's loss. Actor, critic, buffer and noise are section 4's; see `agent`. Each
    episode is one evaluation; a quarter of them explores. Blocks all stay. Deterministic for a seed.

    Where every group at its least but all blocks kept exceed the budget, the start is returned.
    """
    import numpy as np

    from reprune.compress.planning.agent import Agent

    looks = Looks(problem)
    tries = problem.tries
    if tries is None:  # Looks has refused that
        return problem.least
    for start in starts(problem):
        looks.rise(start)
    scale = max(abs(looks.best_rise), 1e-6) if math.isfinite(looks.best_rise) else 1.0
    names = [name for name, r in problem.rungs.items() if name not in problem.blocks and len(r) > 1]
    whole = {block: problem.rungs[block][-1] for block in problem.blocks}
    if not names or not problem.fits(problem.least | whole):
        return looks.chosen()
    walk = _Walk(problem=problem, names=names, rows=_rows(problem, tries, names))
    rng = np.random.default_rng([tries.seed, 0xA3C])
    agent = Agent(FEATURES, seed=tries.seed)
    episodes = looks.left
    for _ in range(EPISODES * episodes):
        done = episodes - looks.left  # noise follows what was evaluated, not what was walked
        if not looks.left:
            break
        steps, widths = walk.episode(agent, noise(done, episodes), rng)
        rise = looks.rise(widths)
        if rise is None:
            break
        agent.learn(steps, -rise / (scale + abs(rise)), rng, train=done >= WARMUP * episodes)
    return looks.chosen()


def noise(done: int, episodes: int) -> float:
    """The standard deviation of the exploration after `done` of `episodes`."""
    warm = math.ceil(WARMUP * episodes)
    if done < warm:
        return NOISE
    return NOISE * math.pow(LAST_NOISE, (done - warm) / max(1, episodes - warm))


@dataclass(frozen=True, kw_only=True)
class _Walk:
    """One way through the groups in the order of the model's layers; `rows` are their fixed features."""

    problem: Problem
    names: list[str]
    rows: dict[str, list[float]]

    def episode(
        self, agent: Agent, sigma: float, rng: np.random.Generator
    ) -> tuple[list[Step], dict[str, int]]:
        """What the agent saw and did, and the widths that came of it, which use the budget up."""
        widths = self.problem.full
        last = 1.0
        for number, name in enumerate(self.names):
            rungs = self.problem.rungs[name]
            wish = agent.act(self.state(widths, number, last), sigma, rng)
            width = min(_nearest(rungs, wish * rungs[-1]), self.clip(widths, number))
            widths = widths | {name: width}
            last = width / rungs[-1]
        widths = onto_budget(self.problem, widths)
        return self.steps(widths), widths

    def steps(self, widths: Widths) -> list[Step]:
        """The walk that ends at these widths."""
        from reprune.compress.planning.agent import Step

        found: list[Step] = []
        now = self.problem.full
        last = 1.0
        for number, name in enumerate(self.names):
            state = self.state(now, number, last)
            now = now | {name: widths[name]}
            last = widths[name] / self.problem.rungs[name][-1]
            found.append(Step(state=state, action=last))
        return found

    def state(self, widths: Widths, number: int, last: float) -> list[float]:
        """What the agent sees at group `number` when those before it have these widths."""
        full = self.problem.load(self.problem.full)
        macs = [self.rows[name][MACS] for name in self.names]
        return [
            *self.rows[self.names[number]],
            (full - self.problem.load(widths)) / full,
            math.fsum(macs[number + 1 :]) / (math.fsum(macs) or 1.0),
            last,
        ]

    def clip(self, widths: Widths, number: int) -> int:
        """The widest rung of group `number` with which the later groups can still meet the budget."""
        problem, name = self.problem, self.names[number]
        least = dict(widths) | {later: problem.rungs[later][0] for later in self.names[number:]}
        fitting = [rung for rung in problem.rungs[name] if problem.fits(least | {name: rung})]
        return fitting[-1] if fitting else problem.rungs[name][0]


def _nearest(rungs: tuple[int, ...], width: float) -> int:
    """The rung nearest to `width`, the wider one of two."""
    return min(rungs, key=lambda rung: (abs(rung - width), -rung))


def _rows(problem: Problem, tries: Tries, names: list[str]) -> dict[str, list[float]]:
    """Of each group the eight features that do not change, each over its largest."""
    shapes = [tries.shapes.get(name) or _unknown(problem, name) for name in names]
    raw = [
        [number, s.outputs, s.inputs, s.height, s.width, s.stride, s.kernel, s.macs]
        for number, s in enumerate(shapes)
    ]
    largest = [max(*column, 1) for column in zip(*raw, strict=True)] if len(raw) > 1 else raw[0]
    return {
        name: [value / (most or 1) for value, most in zip(row, largest, strict=True)]
        for name, row in zip(names, raw, strict=True)
    }


def _unknown(problem: Problem, name: str) -> Shape:
    """A layer of which only the width and what it saves are known."""
    full = problem.full
    saved = problem.load(full) - problem.load(full | {name: problem.rungs[name][0]})
    return Shape(
        outputs=full[name], inputs=1, height=1, width=1, stride=1, kernel=1, macs=round(saved)
    )
