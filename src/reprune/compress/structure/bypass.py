"""What stands in the place of a removed block: a module that hands its first input on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import NoneType, SimpleNamespace

from torch import Tensor, nn

# No int: it may be a width that an earlier cut changed, and a rebuild, which knows the cuts of what
# is left, would have another.
PLAIN = (bool, float, str, NoneType)


class Bypass(nn.Module):
    """Returns its first tensor input, in the structure that the block `removed` returned.

    `returns` is 0 for a bare tensor, n for a tuple of n items whose others are None. What the model
    around it may ask of the block is there: its own switches, fractions and names, and its parts'.
    """

    def __init__(self, returns: int, removed: nn.Module) -> None:
        super().__init__()
        vars(self).update(_answers(removed))
        self._returns = returns

    def forward(self, *args: object, **kwargs: object) -> object:
        """The first tensor among the positional, then the named arguments, as it was given."""
        given = first_tensor(args, kwargs)
        return given if self._returns == 0 else (given, *(None for _ in range(self._returns - 1)))

    def extra_repr(self) -> str:
        return f"returns={self._returns}"


def _answers(removed: nn.Module) -> dict[str, object]:
    """Its attributes with plain values, and for each of its parts an object with that part's."""
    own: dict[str, object] = {
        name: value
        for name, value in vars(removed).items()
        if type(value) in PLAIN and not name.startswith("_")
    }
    parts = removed.named_children()
    return own | {name: SimpleNamespace(**_answers(part)) for name, part in parts}


def first_tensor(args: Sequence[object], kwargs: Mapping[str, object]) -> Tensor:
    """The first tensor among the arguments of a call. Raises TypeError if there is none."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            return value
    raise TypeError("a removed block was called without a tensor")


def inside(name: str, blocks: Iterable[str]) -> bool:
    """Whether the module `name` is one of `blocks` or lies in one."""
    return any(name == block or name.startswith(f"{block}.") for block in blocks)


def replace_submodule(module: nn.Module, name: str, replacement: nn.Module) -> None:
    """Puts `replacement` in the place of the submodule `name` of `module`, in its order.

    An nn.TransformerEncoder around it no longer packs padded inputs, which only torch's own layers can
    read: as in training, its outputs at padded places are then what the layers make, and not zero.
    """
    *parents, last = name.split(".")
    holder = module
    for parent in ("", *parents):
        holder = holder.get_submodule(parent)
        if isinstance(holder, nn.TransformerEncoder):
            holder.use_nested_tensor = False
    holder._modules[last] = replacement
