"""What a cut leaves unchanged is not computed again: outputs of the modules that end before it begins.

No structure of forward() is assumed. While the dense model runs, every module's first call and return
are noted; a module that has returned before any changed layer was called gives, in the cut model, what
it gave in the dense one. What lies between modules (additions, activations) runs again as it stands.
"""

from __future__ import annotations

import types
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from reprune.measure.outputs import evaluating

CACHE_BYTES = 2**30


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """When each module that is called exactly once began and ended, in events of one forward pass."""

    began: Mapping[str, int]
    ended: Mapping[str, int]

    def before(self, changed: Collection[str]) -> tuple[str, ...]:
        """The largest modules that ended before any of `changed` began; none where one of those is
        not called exactly once.
        """
        if not changed or any(name not in self.began for name in changed):
            return ()
        first = min(self.began[name] for name in changed)
        done = {name for name, event in self.ended.items() if event < first}
        return tuple(name for name in done if not any(up in done for up in _parents(name)))


def timeline(module: nn.Module, inputs: tuple[Tensor, ...]) -> Timeline:
    """The timeline of one forward pass in eval mode; the module is left as it was."""
    return forward_order(module, inputs)[1]


def forward_order(
    module: nn.Module, inputs: tuple[Tensor, ...]
) -> tuple[tuple[str, ...], Timeline]:
    """All modules that one forward pass calls, by their first call, and the pass's timeline."""
    order: list[str] = []
    began: dict[str, int] = {}
    ended: dict[str, int] = {}
    calls: Counter[str] = Counter()
    clock = iter(range(2**62))

    def start(name: str) -> None:
        calls[name] += 1
        order.append(name)
        began[name] = next(clock)

    hooks = []
    for name, layer in module.named_modules(remove_duplicate=False):
        hooks += [
            layer.register_forward_pre_hook(lambda *_, name=name: start(name)),
            layer.register_forward_hook(lambda *_, name=name: ended.__setitem__(name, next(clock))),
        ]
    try:
        with evaluating(module):
            module(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    once = {name for name, count in calls.items() if count == 1 and name}
    when = Timeline(
        began={name: began[name] for name in once},
        ended={name: ended[name] for name in once if name in ended},
    )
    return tuple(dict.fromkeys(order)), when


@contextmanager
def watched(module: nn.Module, names: Collection[str]) -> Iterator[dict[str, Any]]:
    """Inside, every call of the modules `names` leaves a copy of what it gave; outputs that hold
    anything but tensors are left out.
    """
    seen: dict[str, Any] = {}

    def note(name: str, made: object) -> None:
        copied = _copied(made)
        if copied is not None:
            seen[name] = copied

    hooks = [
        module.get_submodule(name).register_forward_hook(
            lambda _m, _g, made, name=name: note(name, made)
        )
        for name in names
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def replayed(module: nn.Module, outputs: Mapping[str, Any]) -> Iterator[None]:
    """Inside, the modules of `outputs` give (a copy of) what is there instead of computing it."""
    replaced = [module.get_submodule(name) for name in outputs]
    before = [layer.__dict__.get("forward") for layer in replaced]
    for layer, made in zip(replaced, outputs.values(), strict=True):
        layer.__dict__["forward"] = types.MethodType(
            lambda _self, *_given, made=made, **_named: _copied(made), layer
        )
    try:
        yield
    finally:
        for layer, own in zip(replaced, before, strict=True):
            del layer.__dict__["forward"]
            if own is not None:
                layer.__dict__["forward"] = own


def share_run(macs: Mapping[str, int], total: int, skipped: Collection[str]) -> float:
    """The part of `total` multiply-accumulates outside the `skipped` modules; `macs` is by module."""
    saved = sum(
        count
        for name, count in macs.items()
        if name in skipped or any(up in skipped for up in _parents(name))
    )
    return 1.0 if total <= 0 else max(0.0, 1.0 - saved / total)


def _parents(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def _copied(value: Any) -> Any:
    """A copy of nested tuples, lists and dicts of tensors (None stays); None for anything else."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if type(value) in {tuple, list}:
        inner = [_copied(one) for one in value]
        whole = all(new is not None or old is None for new, old in zip(inner, value, strict=True))
        return type(value)(inner) if whole else None
    if type(value) is dict:
        copied = {key: _copied(one) for key, one in value.items()}
        whole = all(copied[key] is not None or value[key] is None for key in value)
        return copied if whole else None
    return None


def size_of(value: Any) -> int:
    """Bytes of the tensors in nested dicts, lists and tuples."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(size_of(one) for one in value.values())
    if isinstance(value, list | tuple):
        return sum(size_of(one) for one in value)
    return 0
