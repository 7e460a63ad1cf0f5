"""The arms of a comparison: which bundles they are, rebuilt, and whether they can be compared at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from reprune.core import store
from reprune.core.artifacts import Arm, Cost, ModelBundle, Previous
from reprune.core.errors import ArtifactError, BuildError, ChainBroken, InputError
from reprune.core.store import Artifact

if TYPE_CHECKING:
    from reprune.compress.bundle import LoadedModel

CHAMPION_FOLDER = "champion"
BEGIN_ANEW = (
    "restore what changed; or, where the change is meant, let the model begin anew under another "
    "`name` in params.yaml, where nothing has been promoted yet"
)


@dataclass(frozen=True, kw_only=True)
class ArmModel:
    """A bundle that was rebuilt, and what it costs."""

    bundle: Artifact[ModelBundle]
    loaded: LoadedModel
    cost: Cost


def open_arms(
    candidate: Artifact[ModelBundle],
    dense: Artifact[ModelBundle],
    previous: Artifact[Previous],
) -> dict[Arm, ArmModel]:
    """Candidate, dense model and, where there is one, the champion: rebuilt, and comparable.

    Raises ChainBroken for a candidate of another dense model or a champion that is not the one
    named, BuildError for a champion that cannot be rebuilt and for an arm whose inputs, outputs or
    preprocessing differ from the dense model's.
    """
    lineage = (candidate.manifest.name, candidate.manifest.dense_version)
    if lineage != (dense.manifest.name, dense.manifest.dense_version):
        raise ChainBroken(
            f"the candidate comes from {' '.join(lineage)}, the dense model is "
            f"{dense.manifest.name} {dense.manifest.dense_version}",
            where=str(candidate.path),
            fix="run the steps again from fetch on (dvc repro)",
        )
    arms: dict[Arm, ArmModel] = {"candidate": _opened(candidate), "dense": _opened(dense)}
    champion = _champion(previous)
    if champion is not None:
        arms["champion"] = champion
    for arm, model in arms.items():
        _refuse_incomparable(arm, model, arms["dense"])
    return arms


def _opened(bundle: Artifact[ModelBundle]) -> ArmModel:
    from reprune.compress.bundle import load_bundle
    from reprune.measure.profile import count_cost
    from reprune.task.load import guarded

    # The factory is the user's code, and the champion's is that of some weeks ago.
    loaded = guarded(
        lambda: load_bundle(bundle), folder=bundle.path.resolve(), doing="rebuilding the model"
    )
    counted = count_cost(loaded.module, loaded.task.example_inputs(1))
    return ArmModel(bundle=bundle, loaded=loaded, cost=counted.cost)


def _champion(previous: Artifact[Previous]) -> ArmModel | None:
    """The champion's own bundle, rebuilt from its own stored task."""
    named = previous.manifest.champion
    if named is None:
        return None
    try:
        bundle = store.read(previous.path / CHAMPION_FOLDER, ModelBundle)
        if bundle.digest != named.bundle:
            raise ChainBroken(
                "the stored bundle is not the one that was promoted", where=str(bundle.path)
            )
        return _opened(bundle)
    except ArtifactError:
        raise
    except InputError as error:
        raise BuildError(
            f"the champion (version {named.version}) cannot be rebuilt: {error.what}",
            where=error.where or str(previous.path / CHAMPION_FOLDER),
            fix=BEGIN_ANEW,
        ) from error


def _refuse_incomparable(arm: Arm, model: ArmModel, dense: ArmModel) -> None:
    mine, theirs = _interface(model), _interface(dense)
    for what, found in mine.items():
        if found != theirs[what]:
            raise BuildError(
                f"the {arm} cannot be compared with the dense model: its {what} {found}, "
                f"the dense model's {theirs[what]}",
                where=str(model.bundle.path),
                fix=BEGIN_ANEW,
            )


def _interface(model: ArmModel) -> dict[str, str]:
    """What must be the same for two models to be given the same examples and judged by them."""
    from reprune.measure.outputs import run_module

    task = model.loaded.task
    inputs = task.example_inputs(2)
    outputs = run_module(model.loaded.module, inputs)
    return {
        "inputs are named": ", ".join(task.input_names),
        "inputs are": ", ".join(f"{x.dtype}{list(x.shape[1:])}" for x in inputs),
        "outputs are": ", ".join(f"{y.dtype}{list(y.shape[1:])}" for y in outputs),
        "preprocessing is": task.preprocess_digest,
    }
