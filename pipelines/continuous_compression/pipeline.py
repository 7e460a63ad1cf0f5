"""From a pinned dense version to a verdict and, on a pass, a new champion."""

from kfp import dsl

from components.benchmark import benchmark
from components.build import build
from components.choose_machine import choose_machine
from components.distill import distill
from components.fetch_model import fetch_model
from components.gate import gate
from components.plan import plan
from components.profile import profile
from components.promote import promote
from components.prune import prune
from components.report import report
from components.sensitivity_analysis import sensitivity_analysis
from components.validate_data import validate_data
from reprune.doors.kfp.options import DEFAULT, Options
from reprune.doors.kfp.tasks import on_machine, reading, settled, with_data, workspace, writing


def make(options: Options = DEFAULT):
    """The pipeline, with what can only be chosen when it is compiled."""
    # One machine, whichever the scheduler gives, for every target of params.yaml.
    any_machine = {"name": ""}
    config, volume = workspace(options)

    @dsl.pipeline(
        name="continuous-compression",
        description="Compresses one retrained model and judges it; promotes it only on a pass.",
        pipeline_config=config,
    )
    def continuous_compression(
        lock: str,
        params: str,
        policy: str,
        # Not `list`: its items would be texts to the cluster's driver, and no dict takes one.
        machines: list[dict] = [any_machine],  # noqa: B006 - read when compiled, never changed
        control_image: str = options.control_image,
        compress_image: str = options.compress_image,
        read_secret: str = "reprune-registry-read",
        write_secret: str = "reprune-registry-write",
        promoter_secret: str = "reprune-promoter",
        data_secret: str = "reprune-data",
        trainer: str = "",
    ):
        """Compresses one retrained model and judges it; promotes it only on a pass.

        Args:
            lock: The text of reprune.lock.yaml, which names the run.
            params: The text of params.yaml.
            policy: The text of policy.yaml.
            machines: Where targets are built and measured, one after the other: objects with `name`
                (the targets' `machine`), `image`, `accelerator_type`, `accelerator_count`,
                `node_selector` and `tolerations`.
            control_image: The project's image for what touches the registry and judges.
            compress_image: The project's image for what runs the model.
            read_secret: Holds `username` and `password`, or `token`, that may read the registry.
            write_secret: The same, that may write it.
            promoter_secret: Holds the promoter's config.yaml and key.pem.
            data_secret: Files that the task's own code may need to reach its data.
            trainer: Where distill.processes run, as a text; empty: in the task of distill.
        """
        texts = {"lock": lock, "params": params, "policy": policy, "workspace": volume}

        def control(task, *, retried=True):
            return settled(task, control_image, options, retried=retried)

        def compress(task):
            return with_data(settled(task, compress_image, options), data_secret, options)

        def measuring(task, place, *, retried=True):
            settled(task, place["image"], options, retried=retried)
            return on_machine(with_data(task, data_secret, options), place)

        fetched = reading(control(fetch_model(**texts)), read_secret)
        model = {"dense": fetched.outputs["dense"]}
        past = {"previous": fetched.outputs["previous"]}
        data = {"data": compress(validate_data(**texts, **model, **past)).outputs["data"]}
        with dsl.ParallelFor(machines, parallelism=1) as machine:
            place = control(
                choose_machine(params=params, machine=machine, image=compress_image)
            ).outputs
            profiled = profile(**texts, **model, **past, **data, machine=place["name"])
            measuring(profiled, place)
        analysed = compress(sensitivity_analysis(**texts, **model, **data, **past))
        table = {"table": analysed.outputs["table"]}
        planned = compress(
            plan(
                **texts,
                **model,
                **past,
                **table,
                profiles=dsl.Collected(profiled.outputs["profiled"]),
            )
        )
        chosen = {"chosen": planned.outputs["chosen"]}
        pruned = compress(prune(**texts, **model, **data, **chosen)).outputs["pruned"]
        distilled = compress(
            distill(
                **texts,
                **data,
                **past,
                student=pruned,
                teacher=fetched.outputs["dense"],
                trainer=trainer,
            )
        )
        candidate = {"candidate": distilled.outputs["candidate"]}
        with dsl.ParallelFor(machines, parallelism=1) as machine:
            place = control(
                choose_machine(params=params, machine=machine, image=compress_image)
            ).outputs
            built = build(**texts, **candidate, **model, **past, **data, machine=place["name"])
            measuring(built, place)
            timed = benchmark(
                **texts,
                **model,
                **past,
                **data,
                engines=built.outputs["engines"],
                machine=place["name"],
            )
            # Every look at the sealed examples is counted, so that none is repeated unasked.
            measuring(timed, place, retried=False)
        # Compiling changes a Collected, so each task that takes one gets its own.
        judged = control(
            gate(
                **texts,
                **candidate,
                **model,
                **past,
                **data,
                **chosen,
                **table,
                pruned=pruned,
                profiles=dsl.Collected(profiled.outputs["profiled"]),
                engines=dsl.Collected(built.outputs["engines"]),
                benchmarks=dsl.Collected(timed.outputs["measured"]),
            )
        )
        verdict = {"verdict": judged.outputs["verdict"]}
        written = control(report(**texts, **verdict)).outputs["written"]
        # Not behind a condition: a verdict that does not pass fails this task, and so the run.
        promoted = promote(
            **texts,
            **verdict,
            **candidate,
            **chosen,
            **table,
            profiles=dsl.Collected(profiled.outputs["profiled"]),
            engines=dsl.Collected(built.outputs["engines"]),
            report=written,
        )
        writing(control(promoted, retried=False), write_secret, promoter_secret)

    return continuous_compression


continuous_compression = make()
