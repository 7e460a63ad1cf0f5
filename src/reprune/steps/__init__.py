"""The steps, one module each. `STEPS` is the list that every door walks; loaded when asked for."""

from __future__ import annotations

from reprune.core.step import Step, load_step

STEPS: dict[str, str] = {
    "fetch-dense": "reprune.steps.fetch:fetch_dense",
    "fetch-previous": "reprune.steps.fetch:fetch_previous",
    "validate": "reprune.steps.validate:validate",
    "profile": "reprune.steps.profile:profile",
    "sensitivity": "reprune.steps.sensitivity:sensitivity",
    "plan": "reprune.steps.plan:plan",
    "prune": "reprune.steps.prune:prune",
    "distill": "reprune.steps.distill:distill",
    "build": "reprune.steps.build:build",
    "benchmark": "reprune.steps.benchmark:benchmark",
    "gate": "reprune.steps.gate:gate",
    "report": "reprune.steps.report:report",
}


def get_step(name: str) -> Step:
    """The step called `name`; its module is imported now. Raises UnknownName."""
    return load_step(name, STEPS)
