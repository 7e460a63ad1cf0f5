"""What each group of channels is worth, measured by several tasks at once."""

from kfp import dsl

from components.fetch_model import fetch_model
from components.sensitivity_merge import sensitivity_merge
from components.sensitivity_shard import sensitivity_shard
from components.validate_data import validate_data
from reprune.doors.kfp.options import DEFAULT, Options
from reprune.doors.kfp.tasks import reading, settled, with_data, workspace


def make(options: Options = DEFAULT):
    """The pipeline, with what can only be chosen when it is compiled."""
    config, volume = workspace(options)

    @dsl.pipeline(
        name="sharded-sensitivity",
        description="Measures what each group of channels is worth, in several tasks at once.",
        pipeline_config=config,
    )
    def sharded_sensitivity(
        lock: str,
        params: str,
        policy: str,
        shards: list[str] = ["0/4", "1/4", "2/4", "3/4"],  # noqa: B006 - read when compiled
        control_image: str = options.control_image,
        compress_image: str = options.compress_image,
        read_secret: str = "reprune-registry-read",
        data_secret: str = "reprune-data",
    ) -> dsl.Artifact:
        """Measures what each group of channels is worth, in several tasks at once.

        Args:
            lock: The text of reprune.lock.yaml, which names the run.
            params: The text of params.yaml.
            policy: The text of policy.yaml.
            shards: The parts, each "I/N" with I from 0: every one of N, once.
            control_image: The project's image for what touches the registry.
            compress_image: The project's image for what runs the model.
            read_secret: Holds `username` and `password`, or `token`, that may read the registry.
            data_secret: Files that the task's own code may need to reach its data.

        Returns:
            The artefact of `sensitivity_analysis`, bit for bit.
        """
        texts = {"lock": lock, "params": params, "policy": policy, "workspace": volume}

        def compress(task):
            return with_data(settled(task, compress_image, options), data_secret, options)

        fetched = reading(
            settled(fetch_model(**texts), control_image, options), read_secret, options
        )
        model = {"dense": fetched.outputs["dense"]}
        past = {"previous": fetched.outputs["previous"]}
        validated = validate_data(**texts, **model, **past)
        data = {"data": compress(validated).outputs["data"]}
        # No limit on how many run at once: nothing here reads a clock, so that they do not disturb each
        # other, and whoever lists the shards has said how many; the scheduler queues what does not fit.
        with dsl.ParallelFor(shards) as shard:
            measured = compress(sensitivity_shard(**texts, **model, **data, shard=shard))
        merged = sensitivity_merge(
            **texts, **model, **data, **past, shards=dsl.Collected(measured.outputs["measured"])
        )
        return compress(merged).outputs["table"]

    return sharded_sensitivity


sharded_sensitivity = make()
