"""Overrides as a person, or somebody who plays one, would write them into the repository."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml

from reprune.core import store
from reprune.core.artifacts import Verdict
from reprune.core.overrides import OVERRIDES_FILE, not_held
from tests.conformance.edits import Edit, config


def allowed(root: Path) -> None:
    """Ada may override, as the promoter's own configuration says."""
    config("allowed_by: []", "allowed_by: [Ada]")(root)


def overridden(*, rules: int = 0, **changes: str) -> Edit:
    """An entry for the verdict that lies there, of its first `rules` failed rules (0: all), with changes."""

    def change(root: Path) -> None:
        verdict = store.read(root / "artifacts/verdict", Verdict)
        failed = list(not_held(verdict.manifest.judgement)) or ["accuracy.floor on ort-cpu"]
        last = datetime.fromtimestamp(time.time(), UTC) + timedelta(days=30)
        entry = {
            "by": "Ada",
            "reason": "the old one is worse",
            "expires": last.date().isoformat(),
            "rules": failed[:rules] if rules else failed,
            "verdict": verdict.digest,
            "candidate": verdict.manifest.parents["candidate"],
            "policy": verdict.manifest.policy,
        }
        text = yaml.safe_dump({"schema": 1, "overrides": [entry | changes]})
        # A date is written without quotes.
        expires = (entry | changes)["expires"]
        (root / OVERRIDES_FILE).write_text(text.replace(f"'{expires}'", str(expires)))

    return change
