"""All crash states of all that Reprune writes, counted.

python -m tests.core.crash_states      (prints the counts as JSON; exit code 1 where one is wrong)
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from tests.core.crash_model import Counts
from tests.core.crash_scenarios import SCENARIOS, WRONG, run, written_wrongly

NOTHING = Counts(0, 0, 0, 0)
# What goes through `write_file`, and so is written wrongly by the wrong variants.
FILES = ("a lock, a proof, a sidecar", "overrides")


def counts_of(name: str) -> Counts:
    with tempfile.TemporaryDirectory() as folder:
        return run(SCENARIOS[name], Path(folder))


def counts_of_wrong(how: str) -> Counts:
    """As `counts_of`, of a writer that is wrong in one way."""
    total = NOTHING
    for name in FILES:
        with tempfile.TemporaryDirectory() as folder, written_wrongly(how):
            total += run(SCENARIOS[name], Path(folder))
    return total


def enumerate_all() -> dict[str, int]:
    """Figures: `crash_states` (as enumerated), `crash_disks` (different ones), `crash_states_wrong`
    (visible but wrong), `crash_states_lost` (acknowledged but lost), and how many of the `wrong_writers`
    were found out.
    """
    total = sum((counts_of(name) for name in SCENARIOS), NOTHING)
    caught = [counts_of_wrong(how) for how in WRONG]
    return {
        "crash_scenarios": len(SCENARIOS),
        "crash_states": total.states,
        "crash_disks": total.distinct,
        "crash_states_wrong": total.wrong,
        "crash_states_lost": total.lost,
        "wrong_writers": len(WRONG),
        "wrong_writers_caught": sum(each.wrong + each.lost > 0 for each in caught),
    }


if __name__ == "__main__":
    found = enumerate_all()
    print(json.dumps(found, indent=1))
    sys.exit(found["crash_states_wrong"] + found["crash_states_lost"] > 0)
