"""What pipelines that judge have in common: the tasks from the profiles to the promotion, wired once."""

from dataclasses import dataclass
from typing import Any

from kfp import dsl

from components.benchmark import benchmark
from components.build import build
from components.choose_machine import choose_machine
from components.distill import distill
from components.gate import gate
from components.plan import plan
from components.profile import profile
from components.promote import promote
from components.prune import prune
from components.report import report
from reprune.doors.kfp.options import Options
from reprune.doors.kfp.tasks import on_machine, settled, with_data, writing


@dataclass(frozen=True, kw_only=True)
class Flow:
    """What every task of one pipeline is given. All but the options are the pipeline's own parameters;
    `texts` are the three documents and the workspace.
    """

    options: Options
    texts: dict[str, Any]
    machines: Any
    control_image: Any
    compress_image: Any
    data_secret: Any

    def control(self, task, *, retried=True):
        """The task as what touches the registry or judges is run."""
        return settled(task, self.control_image, self.options, retried=retried)

    def compress(self, task):
        """The task as what runs the model is run."""
        return with_data(
            settled(task, self.compress_image, self.options), self.data_secret, self.options
        )

    def measuring(self, task, place, *, retried=True):
        """The task as what measures is run, on the machine that `place` describes."""
        settled(task, place["image"], self.options, retried=retried)
        return on_machine(with_data(task, self.data_secret, self.options), place)

    def place(self, machine):
        """The settings of one machine."""
        chosen = choose_machine(
            params=self.texts["params"], machine=machine, image=self.compress_image
        )
        return self.control(chosen).outputs


@dataclass(frozen=True, kw_only=True)
class Known:
    """What was fetched and measured before anything is cut: each a component's input by its name.
    `profiled` is the task that `profiles` returned.
    """

    model: dict[str, Any]
    past: dict[str, Any]
    data: dict[str, Any]
    table: dict[str, Any]
    profiled: Any


def profiles(flow, model, past, data):
    """The task that profiles the dense model on each machine, one after the other."""
    with dsl.ParallelFor(flow.machines, parallelism=1) as machine:
        place = flow.place(machine)
        profiled = profile(**flow.texts, **model, **past, **data, machine=place["name"])
        flow.measuring(profiled, place)
    return profiled


def candidates(flow, known, trainer):
    """The tasks that plan, cut and train: each by its step's name."""
    model, past, data = known.model, known.past, known.data
    planned = flow.compress(
        plan(
            **flow.texts,
            **model,
            **past,
            **known.table,
            profiles=dsl.Collected(known.profiled.outputs["profiled"]),
        )
    )
    chosen = {"chosen": planned.outputs["chosen"]}
    pruned = flow.compress(prune(**flow.texts, **model, **data, **chosen))
    distilled = flow.compress(
        distill(
            **flow.texts,
            **data,
            **past,
            student=pruned.outputs["pruned"],
            teacher=model["dense"],
            trainer=trainer,
        )
    )
    return {"plan": planned, "prune": pruned, "distill": distilled}


def judged(flow, known, made, secrets):
    """Builds and measures the candidate on each machine, judges and reports it, and promotes it on a pass.

    `made` are the tasks that `candidates` returned; `secrets` are what promote may mount.
    """
    model, past, data = known.model, known.past, known.data
    chosen = {"chosen": made["plan"].outputs["chosen"]}
    candidate = {"candidate": made["distill"].outputs["candidate"]}
    with dsl.ParallelFor(flow.machines, parallelism=1) as machine:
        place = flow.place(machine)
        built = build(**flow.texts, **candidate, **model, **past, **data, machine=place["name"])
        flow.measuring(built, place)
        timed = benchmark(
            **flow.texts,
            **model,
            **past,
            **data,
            engines=built.outputs["engines"],
            machine=place["name"],
        )
        # Every look at the sealed examples counts, so that none is repeated unasked.
        flow.measuring(timed, place, retried=False)
    # Compiling changes a Collected, so each task that takes one gets its own.
    verdict = flow.control(
        gate(
            **flow.texts,
            **candidate,
            **model,
            **past,
            **data,
            **chosen,
            **known.table,
            pruned=made["prune"].outputs["pruned"],
            profiles=dsl.Collected(known.profiled.outputs["profiled"]),
            engines=dsl.Collected(built.outputs["engines"]),
            benchmarks=dsl.Collected(timed.outputs["measured"]),
        )
    ).outputs["verdict"]
    written = flow.control(report(**flow.texts, verdict=verdict)).outputs["written"]
    # Not behind a condition: a verdict that does not pass fails this task, and so the run.
    promoted = promote(
        **flow.texts,
        **candidate,
        **chosen,
        **known.table,
        verdict=verdict,
        profiles=dsl.Collected(known.profiled.outputs["profiled"]),
        engines=dsl.Collected(built.outputs["engines"]),
        report=written,
    )
    writing(flow.control(promoted, retried=False), *secrets, flow.options)
