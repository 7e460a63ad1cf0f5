"""What a cluster does with a submitted run: every component of the pipeline, one by one, in another process.

    with Worker(project, folder, promoter) as worker:
        server.on_submit = worker.executes(server)

The process has no repository. It gets the run's parameters, and the project as its image holds it; each
component is called by kfp's own artifact objects, `promote` alone with the promoter's key. It is one
process for all runs, because most of the time of a small run is spent on imports.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.kfp_server import KfpServer, State

PROMOTER_VARIABLE = "REPRUNE_PROMOTER"


class Worker:
    """See the module. What runs write lies below `folder`, a folder a run."""

    def __init__(self, project: Path, folder: Path, promoter: Path) -> None:
        self.project, self.folder, self.promoter = project, folder, promoter
        self.ended: dict[str, str] = {}
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Worker:
        self.folder.mkdir(parents=True)
        self._log = (self.folder / "worker.log").open("w")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.kfp_worker"],
            cwd=self.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        for thread in self._threads:
            thread.join()
        self._log.close()

    def train(self, *, seed: int, epochs: int) -> str:
        """The project's own training; returns what it said at the end."""
        words = ["--seed", str(seed), "--epochs", str(epochs)]
        return str(self._ask({"train": words})["said"]).rstrip().rpartition("\n")[2]

    def executes(self, server: KfpServer) -> Callable[[str], None]:
        """For `server.on_submit`: the run is RUNNING until it was executed, then SUCCEEDED or FAILED."""

        def begin(run_id: str) -> None:
            run = server.runs[run_id]
            run.created_at = datetime.now(UTC).isoformat()
            run.plan = [State("RUNNING")]
            thread = threading.Thread(target=self._execute, args=(server, run_id), daemon=True)
            self._threads.append(thread)
            thread.start()

        return begin

    def _execute(self, server: KfpServer, run_id: str) -> None:
        run = server.runs[run_id]
        parameters = run.body["runtime_config"]["parameters"]
        try:
            answer = self._ask({"run": run_id, "parameters": parameters})
        except (OSError, ValueError):
            # The worker was ended under it.
            return
        self.ended[run_id] = answer["said"]
        run.finished_at = datetime.now(UTC).isoformat()
        run.plan = [State("SUCCEEDED" if answer["code"] == 0 else "FAILED")]

    def _ask(self, order: dict[str, Any]) -> dict[str, Any]:
        order |= {"project": str(self.project), "promoter": str(self.promoter)}
        with self._lock:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


def main() -> None:
    """Answers each order, a line of JSON, by a line."""
    # What components print is not an answer.
    answers, sys.stdout = sys.stdout, sys.stderr
    import tests.component_run  # noqa: F401 - imported while nobody waits

    for line in sys.stdin:
        order = json.loads(line)
        began = time.monotonic()
        answer = _train(order) if "train" in order else _run(order)
        print(f"{time.monotonic() - began:.1f} s", order.get("run", "train"), file=sys.stderr)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _train(order: dict[str, Any]) -> dict[str, Any]:
    import io

    said = io.StringIO()
    script = Path(order["project"]) / "train.py"
    with (
        contextlib.redirect_stdout(said),
        patch.object(sys, "argv", [script.name, *order["train"]]),
    ):
        runpy.run_path(str(script), run_name="__main__")
    return {"said": said.getvalue()}


def _run(order: dict[str, Any]) -> dict[str, Any]:
    from reprune.doors.kfp.run import Texts
    from tests.component_run import MACHINES, ON_MACHINES, ORDER, WIRING, call

    given = order["parameters"]
    texts = Texts(given["lock"], given["params"], given["policy"])
    folder = Path(order["run"]).absolute()
    project = Path(order["project"])
    for name in (*(each for each in ORDER if each != "sensitivity_shard"), "promote"):
        began = time.monotonic()
        inputs = {each: _here(folder, source) for each, source in WIRING[name].items()}
        out = folder / (f"{name}-{MACHINES[0]}" if name in ON_MACHINES else name)
        key = {PROMOTER_VARIABLE: order["promoter"]} if name == "promote" else {}
        with patch.dict(os.environ, key):
            ended = call(name, texts, inputs, out, root=project)
        print(f"{time.monotonic() - began:.1f} s", name, ended.said, file=sys.stderr, flush=True)
        if ended.code:
            return {"code": ended.code, "said": ended.said}
    return {"code": 0, "said": ended.said}


def _here(folder: Path, source: str | list[str]) -> Any:
    """What a run on one machine has; another one's is not there."""
    from tests.component_run import MACHINES

    if isinstance(source, list):
        return [folder / each for each in source if f"-{MACHINES[0]}/" in each]
    return folder / source.format(machine=MACHINES[0])


if __name__ == "__main__":
    main()
