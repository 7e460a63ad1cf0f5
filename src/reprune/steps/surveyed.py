"""What of a dense model can be cut, found once: later steps of the run read what the first one found.

The trials behind it run every layer's cut in float64, which is minutes for a large model. The file lies
in the work folder: losing it, or not being able to read it, costs that time again and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

import msgspec

from reprune.compress.structure.blocks import BlockSurvey
from reprune.compress.structure.groups import Survey
from reprune.core.documents import digest_of
from reprune.core.step import work_root
from reprune.core.store import write_bytes

if TYPE_CHECKING:
    from reprune.core.artifacts import ModelBundle
    from reprune.core.store import Artifact

# What the answer also depends on: whoever traces and whoever tries.
TOOLS = ("reprune", "torch", "torch-pruning")


@dataclass(frozen=True, kw_only=True)
class Found:
    channels: Survey
    blocks: BlockSurvey


def surveyed(
    dense: Artifact[ModelBundle], find: Callable[[], Found], *, head_dimensions: bool
) -> Found:
    """What `find` gives for this bundle, or gave before under the same versions."""
    key = digest_of([dense.digest, head_dimensions, *(version(tool) for tool in TOOLS)])
    path = work_root() / "surveys" / f"{key.removeprefix('sha256:')}.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Found)
    except (OSError, msgspec.DecodeError):
        found = find()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, msgspec.json.encode(found))
    return found
