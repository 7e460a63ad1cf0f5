"""Several models under one budget: compressed together, judged one by one and as a whole, promoted as one."""

from kfp import dsl

from components.choose_member import choose_member
from components.fetch_member import fetch_member
from components.fetch_set import fetch_set
from components.sensitivity_merge import sensitivity_merge
from components.sensitivity_shard import sensitivity_shard
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
        name="perception",
        description="Compresses a set of models under one budget; promotes it only if each is good enough.",
        pipeline_config=config,
    )
    def perception(
        lock: str,
        params: str,
        policy: str,
        members: list[dict],
        shards: list[str] = ["0/3", "1/3", "2/3"],  # noqa: B006 - read when compiled
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
        """Compresses a set of models under one budget; promotes it only if each is good enough.

        Args:
            lock: The text of reprune.lock.yaml, which names the run.
            params: The text of params.yaml.
            policy: The text of policy.yaml.
            members: Every member of params.yaml, once: objects with `name`, and `read_secret` where
                the member's model is read with a secret of its own.
            shards: The parts in which sensitivity is measured, each "I/N" with I from 0: every one of N.
            machines: Where targets are built and measured, one after the other: objects with `name`
                (the targets' `machine`), `image`, `accelerator_type`, `accelerator_count`,
                `node_selector` and `tolerations`.
            control_image: The project's image for what touches the registry and judges.
            compress_image: The project's image for what runs the model.
            read_secret: Holds `username` and `password`, or `token`, that may read what the set
                promoted, and the models of members without a secret of their own.
            write_secret: The same, that may write what the set promotes.
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
        with dsl.ParallelFor(members) as member:
            mine = flow.control(
                choose_member(params=params, member=member, read_secret=read_secret)
            ).outputs
            taken = flow.control(fetch_member(**texts, shard=mine["shard"]))
            reading(taken, mine["read_secret"], options)
        fetched = reading(
            flow.control(fetch_set(**texts, members=dsl.Collected(taken.outputs["weights"]))),
            read_secret,
            options,
        )
        model = {"dense": fetched.outputs["dense"]}
        past = {"previous": fetched.outputs["previous"]}
        data = {"data": flow.compress(validate_data(**texts, **model, **past)).outputs["data"]}
        profiled = profiles(flow, model, past, data)
        # Nothing here reads a clock, so that all shards may run at once.
        with dsl.ParallelFor(shards) as shard:
            measured = flow.compress(sensitivity_shard(**texts, **model, **data, shard=shard))
        merged = flow.compress(
            sensitivity_merge(
                **texts,
                **model,
                **data,
                **past,
                shards=dsl.Collected(measured.outputs["measured"]),
            )
        )
        table = {"table": merged.outputs["table"]}
        known = Known(model=model, past=past, data=data, table=table, profiled=profiled)
        made = candidates(flow, known, trainer)
        judged(flow, known, made, (write_secret, promoter_secret))

    return perception


perception = make()
