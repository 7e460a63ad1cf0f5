"""What a model is called with and gives, and what parts of it give meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

from torch import Tensor, nn

from reprune.compress.structure.copies import leaves


@dataclass(frozen=True, kw_only=True)
class Call:
    """One time that a module was called; `features` are what parts of it gave meanwhile, by name."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: object
    features: Mapping[str, tuple[Tensor, ...]]


@contextmanager
def calls_of(module: nn.Module, names: Sequence[str] = ()) -> Iterator[list[Call]]:
    """Collects every call of `module` inside the block, and what its modules `names` give in it.

    A module that gives several tensors counts as giving the first.
    """
    calls: list[Call] = []
    heard: dict[str, list[Tensor]] = {name: [] for name in names}

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
        features = {name: tuple(found) for name, found in heard.items()}
        calls.append(Call(args=args, kwargs=kwargs, output=output, features=features))
        for found in heard.values():
            found.clear()

    def hear(name: str) -> Callable[..., None]:
        def note_part(_: nn.Module, __: object, output: object) -> None:
            heard[name].extend(islice(leaves(output), 1))

        return note_part

    handles = [
        module.get_submodule(name).register_forward_hook(hear(name)) for name in heard if name
    ]
    handles.append(module.register_forward_hook(note, with_kwargs=True))
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
