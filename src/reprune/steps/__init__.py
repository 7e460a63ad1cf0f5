"""The steps, one module each. `STEPS` is the list that every door walks; loaded when asked for."""

from __future__ import annotations

from reprune.core.step import Step, load_step

STEPS: dict[str, str] = {
    "fetch-dense": "reprune.steps.fetch:fetch_dense",
    "fetch-member": "reprune.steps.fetch_members:fetch_member",
    "join-members": "reprune.steps.fetch_members:join_members",
    "fetch-previous": "reprune.steps.fetch:fetch_previous",
    "validate": "reprune.steps.validate:validate",
    "profile": "reprune.steps.profile:profile",
    "sensitivity": "reprune.steps.sensitivity:sensitivity",
    "sensitivity-shard": "reprune.steps.sensitivity_shards:sensitivity_shard",
    "sensitivity-merge": "reprune.steps.sensitivity_shards:sensitivity_merge",
    "plan": "reprune.steps.plan:plan",
    "prune": "reprune.steps.prune:prune",
    "distill": "reprune.steps.distill:distill",
    "build": "reprune.steps.build:build",
    "benchmark": "reprune.steps.benchmark:benchmark",
    "gate": "reprune.steps.gate:gate",
    "report": "reprune.steps.report:report",
}

# Steps that `dvc repro` does not run: others in parts, by which one machine would gain nothing.
BESIDE = frozenset({"fetch-member", "join-members", "sensitivity-shard", "sensitivity-merge"})


def get_step(name: str) -> Step:
    """The step called `name`; its module is imported now. Raises UnknownName."""
    return load_step(name, STEPS)
