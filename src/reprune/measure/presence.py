"""Asks a runtime for its version in a process of its own: loading its library may crash. Imports no torch.

python -m reprune.measure.presence SPEC.json OUT.json
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import msgspec

from reprune.core.children import answer
from reprune.core.params import Target
from reprune.runtimes.base import Binding, get_runtime


class PresenceSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    runtime: str


class Present(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: str
    binding: Binding


def _look(spec: PresenceSpec) -> Present:
    runtime = get_runtime(spec.runtime)
    return Present(version=runtime.version(), binding=runtime.binding(Target(runtime=spec.runtime)))


def main(arguments: Sequence[str]) -> int:
    """Looks at the runtime of SPEC.json and writes what it tells to OUT.json."""
    return answer(arguments, PresenceSpec, _look)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
