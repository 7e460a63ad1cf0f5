"""What a selftest found: which promises of its adapter a runtime kept, and where."""

from __future__ import annotations

from reprune.core.artifacts import Fact
from reprune.core.machine import Machine

# The one check that fails where a runtime itself says, in words of ours, why it cannot build or run here (no
# GPU, a CPU without the precision): nothing is proven then, and nothing is broken.
CAN_RUN = "can run here"


class Check(Fact, kw_only=True):
    """One promise in one precision: whether it was kept, and what was seen."""

    precision: str
    name: str
    ok: bool
    words: str


class Conformance(Fact, kw_only=True):
    """What a runtime did on one machine. Times are of no meaning but to tell that it runs."""

    runtime: str
    version: str
    device: str
    machine: Machine
    checks: tuple[Check, ...]
    seconds: float

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that failed; the adapter is proven in the other precisions alone."""
        return tuple(check for check in self.checks if not check.ok)

    @property
    def broken(self) -> tuple[Check, ...]:
        """The promises that were tried and not kept."""
        return tuple(check for check in self.failures if check.name != CAN_RUN)

    @property
    def proven(self) -> tuple[str, ...]:
        """The precisions in which everything was kept."""
        failed = {check.precision for check in self.failures}
        return tuple(sorted({check.precision for check in self.checks} - failed))
