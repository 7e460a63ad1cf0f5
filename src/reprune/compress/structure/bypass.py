"""What stands in the place of a removed block: a module that hands its first input on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn


class Bypass(nn.Module):
    """Returns its first tensor input, in the structure that the removed block returned.

    `returns` is 0 for a bare tensor, n for a tuple of n items whose others are None.
    """

    def __init__(self, returns: int) -> None:
        super().__init__()
        self.returns = returns

    def forward(self, *args: object, **kwargs: object) -> object:
        """The first tensor among the positional, then the named arguments, as it was given."""
        given = first_tensor(args, kwargs)
        return given if self.returns == 0 else (given, *(None for _ in range(self.returns - 1)))

    def extra_repr(self) -> str:
        return f"returns={self.returns}"


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
