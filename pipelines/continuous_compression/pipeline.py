"""From a pinned dense version to a verdict and, on a pass, a new champion."""

from kfp import dsl

from components.fetch_model import fetch_model
from components.sensitivity_analysis import sensitivity_analysis
from components.validate_data import validate_data
from pipelines.flow import Flow, Known, candidates, judged, profiles
from reprune.doors.kfp.options import DEFAULT, Options
from reprune.doors.kfp.tasks import reading, workspace


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
        flow = Flow(
            options=options,
            texts=texts,
            machines=machines,
            control_image=control_image,
            compress_image=compress_image,
            data_secret=data_secret,
        )
        fetched = reading(flow.control(fetch_model(**texts)), read_secret, options)
        model = {"dense": fetched.outputs["dense"]}
        past = {"previous": fetched.outputs["previous"]}
        data = {"data": flow.compress(validate_data(**texts, **model, **past)).outputs["data"]}
        profiled = profiles(flow, model, past, data)
        analysed = flow.compress(sensitivity_analysis(**texts, **model, **data, **past))
        table = {"table": analysed.outputs["table"]}
        known = Known(model=model, past=past, data=data, table=table, profiled=profiled)
        made = candidates(flow, known, trainer)
        judged(flow, known, made, (write_secret, promoter_secret))

    return continuous_compression


continuous_compression = make()
