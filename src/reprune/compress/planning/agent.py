"""Deep deterministic policy gradients (Lillicrap et al., arXiv:1509.02971) as AMC uses them."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import ndtr, ndtri
from torch import Tensor, nn

# arXiv:1802.03494, section 4: units of the two hidden layers, soft updates of the targets, batch and buffer.
UNITS = 300
TAU = 0.01
BATCH = 64
BUFFER = 2000
# Section 3.2: rewards are not discounted.
GAMMA = 1.0
# Not in the paper; arXiv:1509.02971, section 7.
ACTOR_RATE = 1e-4
CRITIC_RATE = 1e-3
# What stays of the moving average of rewards with each new one.
BASELINE = 0.95


@dataclass(frozen=True, kw_only=True)
class Step:
    """What the agent saw at a group, and the share of it that stays (after clipping and rounding)."""

    state: Sequence[float]
    action: float


@dataclass(frozen=True, kw_only=True)
class _Transition:
    state: Sequence[float]
    action: float
    reward: float
    after: Sequence[float] | None


class _Actor(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(features, UNITS), nn.ReLU(), nn.Linear(UNITS, UNITS), nn.ReLU(),
            nn.Linear(UNITS, 1), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, state: Tensor) -> Tensor:
        found: Tensor = self.layers(state)
        return found


class _Critic(nn.Module):
    """The action comes in at the second hidden layer."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.first = nn.Linear(features, UNITS)
        self.second = nn.Linear(UNITS + 1, UNITS)
        self.last = nn.Linear(UNITS, 1)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        seen = torch.relu(self.first(state))
        found: Tensor = self.last(torch.relu(self.second(torch.cat([seen, action], dim=1))))
        return found


class Agent:
    """An actor, a critic, their slow copies and what they remember; the global generators are not used."""

    def __init__(self, features: int, *, seed: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.actor, self.critic = _Actor(features), _Critic(features)
        self.slow_actor = copy.deepcopy(self.actor)
        self.slow_critic = copy.deepcopy(self.critic)
        self._actor_steps = torch.optim.Adam(self.actor.parameters(), lr=ACTOR_RATE)
        self._critic_steps = torch.optim.Adam(self.critic.parameters(), lr=CRITIC_RATE)
        self._memory: deque[_Transition] = deque(maxlen=BUFFER)
        self._baseline: float | None = None

    def act(self, state: Sequence[float], sigma: float, rng: np.random.Generator) -> float:
        """The actor's share in 0..1, drawn anew from a normal distribution around it that is cut off at
        0 and 1.
        """
        with torch.no_grad():
            mean = float(self.actor(torch.tensor([state], dtype=torch.float32)))
        return truncated(mean, sigma, float(rng.random()))

    def learn(
        self, steps: Sequence[Step], reward: float, rng: np.random.Generator, *, train: bool
    ) -> None:
        """Remembers an episode, every step with the episode's reward; then, with `train`, as many updates
        as it had steps.
        """
        self._baseline = (
            reward
            if self._baseline is None
            else BASELINE * self._baseline + (1.0 - BASELINE) * reward
        )
        for number, step in enumerate(steps):
            after = steps[number + 1].state if number + 1 < len(steps) else None
            self._memory.append(
                _Transition(state=step.state, action=step.action, reward=reward, after=after)
            )
        for _ in steps if train else ():
            self._update(rng)

    def _update(self, rng: np.random.Generator) -> None:
        rows = rng.integers(len(self._memory), size=BATCH)
        batch = [self._memory[int(row)] for row in rows]
        states = _tensor(item.state for item in batch)
        actions = _tensor([item.action] for item in batch)
        rewards = _tensor([item.reward - (self._baseline or 0.0)] for item in batch)
        goes_on = _tensor([float(item.after is not None)] for item in batch)
        after = _tensor(item.state if item.after is None else item.after for item in batch)
        with torch.no_grad():
            later = self.slow_critic(after, self.slow_actor(after))
            wanted = rewards + GAMMA * goes_on * later
        _descend(self._critic_steps, nn.functional.mse_loss(self.critic(states, actions), wanted))
        _descend(self._actor_steps, -self.critic(states, self.actor(states)).mean())
        for slow, fast in ((self.slow_actor, self.actor), (self.slow_critic, self.critic)):
            for old, new in zip(slow.parameters(), fast.parameters(), strict=True):
                old.data.lerp_(new.data, TAU)


def truncated(mean: float, sigma: float, drawn: float) -> float:
    """The number below which the share `drawn` of a normal distribution lies that is cut off at 0 and 1."""
    below, above = ndtr(-mean / sigma), ndtr((1.0 - mean) / sigma)
    value = mean + sigma * float(ndtri(below + drawn * (above - below)))
    return min(max(value, 0.0), 1.0)


def _tensor(rows: Iterable[Sequence[float]]) -> Tensor:
    return torch.tensor([list(row) for row in rows], dtype=torch.float32)


def _descend(steps: torch.optim.Optimizer, loss: Tensor) -> None:
    steps.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    steps.step()
