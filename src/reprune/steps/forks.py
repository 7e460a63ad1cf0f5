"""What is told of a fork's pull request without a clone: the forge is asked, and never the fork's own run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from reprune.core.documents import decode_yaml
from reprune.core.errors import DocumentError, OrchestratorError
from reprune.core.params import PARAMS_FILE, Params
from reprune.orchestrate.forge import Forge, patiently
from reprune.orchestrate.github import GitHub
from reprune.orchestrate.surroundings import Surroundings
from reprune.report.markdown import report_key


def untouched(
    github: GitHub,
    around: Surroundings,
    judged: Sequence[str],
    *,
    pause: Callable[[float], None] = time.sleep,
) -> tuple[bool, tuple[str, ...]]:
    """Whether no open pull request of this very commit changes any of `judged`, files and folders.

    Every one of them counts, because a check is the commit's, whatever it is to be merged into. Not to know
    is False, with a warning where the forge does not answer.
    """

    def look() -> bool:
        found = github.find(around.branch, around.owner)
        pulls = [each for each in found if each.head == around.head]
        return bool(pulls) and all(
            _outside(github.changed(each.base, each.head), judged) for each in pulls
        )

    try:
        return patiently(look, github.service.backoff, pause=pause), ()
    except OrchestratorError as error:
        return False, (f"what the pull request changes is not known: {error.what}",)


def names_there(
    forge: Forge, base: str, *, pause: Callable[[float], None] = time.sleep
) -> tuple[str, str]:
    """The model's name and the report's key, by params.yaml of the branch `base`. Raises DocumentError, and
    what the forge raises.
    """
    raw = patiently(lambda: forge.file(PARAMS_FILE, base), forge.service.backoff, pause=pause)
    where = f"{base}:{PARAMS_FILE}"
    if raw is None:
        raise DocumentError("is not there, so the model has no name", where=where)
    params = decode_yaml(raw, Params, name=where)
    return params.name, report_key(params.name, sorted(params.targets))


def _outside(changed: Sequence[str] | None, judged: Sequence[str]) -> bool:
    return changed is not None and not any(
        name == place or name.startswith(f"{place.rstrip('/')}/")
        for name in changed
        for place in judged
    )
