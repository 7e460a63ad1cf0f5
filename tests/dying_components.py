"""Components that die or raise; kfp reads their annotations, so these are no strings."""

from kfp import dsl


@dsl.component(base_image="python", install_kfp_package=False)
def cut_short(dies: bool, report: dsl.Input[dsl.Artifact], written: dsl.Output[dsl.Artifact]):
    """A task that hands on what it was given, and dies if it is to."""
    import os
    import shutil
    import signal

    shutil.copytree(report.path, written.path)
    if dies:
        os.kill(os.getpid(), signal.SIGKILL)


@dsl.component(base_image="python", install_kfp_package=False)
def of_machine(
    folder: str,
    name: str,
    engines: dsl.Output[dsl.Artifact],
    profiled: dsl.Output[dsl.Artifact],
):
    """What a run in `folder` made on one machine."""
    import shutil

    shutil.copytree(f"{folder}/build-{name}/engines", engines.path)
    shutil.copytree(f"{folder}/profile-{name}/profiled", profiled.path)


@dsl.component(base_image="python", install_kfp_package=False)
def report_at_last(
    lock: str,
    params: str,
    policy: str,
    mark: str,
    how: str,
    verdict: dsl.Input[dsl.Artifact],
    written: dsl.Output[dsl.Artifact],
):
    """The report's own body, after a first attempt that raises or dies in the middle of writing."""
    import os
    import signal
    from pathlib import Path

    from reprune.doors.kfp.run import Texts, run_component

    if not Path(mark).exists():
        Path(mark).touch()
        Path(written.path).mkdir(parents=True)
        Path(written.path).with_name(".written.1.draft").mkdir()
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ConnectionError("the node went away")
    run_component("report", Texts(lock, params, policy), {"verdict": verdict}, written)
