"""nn.MultiheadAttention written with one layer a projection, so that its heads can be cut.

torch's module packs query, key and value into one tensor and insists on embed_dim = heads x head size,
so it cannot hold fewer heads of the same size. `SeparateAttention` is the same function and can.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reprune.compress.structure.bypass import replace_submodule
from reprune.core.errors import CompressionError

__all__ = ["SeparateAttention", "fault", "separate", "separate_one", "separated"]


class SeparateAttention(nn.Module):
    """Multi-head attention over `num_heads` heads of `head_dim`, called like nn.MultiheadAttention.

    The scores are divided by sqrt(head_dim) of the original, whatever is cut afterwards.
    """

    # nn.TransformerEncoderLayer asks these before it takes its fused path, which must not be taken.
    in_proj_weight = None
    in_proj_bias = None
    bias_k = None
    bias_v = None
    _qkv_same_embed_dim = False

    def __init__(self, source: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads = int(source.num_heads)
        self.head_dim = int(source.head_dim)
        self.embed_dim = int(source.embed_dim)
        self.scale = float(self.head_dim) ** -0.5
        self.dropout = float(source.dropout)
        self.batch_first = bool(source.batch_first)
        self.query, self.key, self.value = (_projection(source, part) for part in range(3))
        self.out_proj = _layer(source.out_proj.weight, source.out_proj.bias)
        self.train(source.training)

    def forward(  # noqa: PLR0913, PLR0917  the signature of nn.MultiheadAttention
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As nn.MultiheadAttention: (output, attention weights or None)."""
        batched = query.dim() == 3
        if not batched:
            query, key, value = (tensor.unsqueeze(0) for tensor in (query, key, value))
        elif not self.batch_first:
            query, key, value = (tensor.transpose(0, 1) for tensor in (query, key, value))
        q = self._heads(self.query(query))
        k = self._heads(self.key(key))
        v = self._heads(self.value(value))
        scores = (q * self.scale) @ k.transpose(-2, -1)
        if is_causal and attn_mask is None:
            raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
        if attn_mask is not None:
            scores = scores + _additive(_per_head(attn_mask, q.shape[0]), scores)
        if key_padding_mask is not None:
            padding = key_padding_mask if batched else key_padding_mask.unsqueeze(0)
            scores = scores + _additive(padding, scores)[:, None, None, :]
        weights = F.dropout(scores.softmax(dim=-1), self.dropout, self.training)
        output = self.out_proj((weights @ v).transpose(1, 2).flatten(2))
        if not batched:
            output = output.squeeze(0)
        elif not self.batch_first:
            output = output.transpose(0, 1)
        if not need_weights:
            return output, None
        seen = weights.mean(dim=1) if average_attn_weights else weights
        return output, seen if batched else seen.squeeze(0)

    def _heads(self, projected: Tensor) -> Tensor:
        """(batch, tokens, channels) to (batch, heads, tokens, channels of a head)."""
        batch, tokens, _ = projected.shape
        return projected.view(batch, tokens, self.num_heads, -1).transpose(1, 2)


def fault(attention: nn.MultiheadAttention) -> str | None:
    """Why this module cannot be written separately, or None."""
    if attention.__class__ is not nn.MultiheadAttention:
        return f"is a {type(attention).__name__}, a subclass whose forward() may do anything"
    if not attention._qkv_same_embed_dim:
        return "has a key or value size of its own"
    if attention.bias_k is not None or attention.add_zero_attn:
        return "appends a learnt or zero token to its keys"
    return None


def separate(module: nn.Module) -> nn.Module:
    """A copy of `module` in which every nn.MultiheadAttention that can be is a SeparateAttention.

    The same function with the same weights, up to rounding, but for what an nn.TransformerEncoder
    gives at padded places (see replace_submodule); `module` is not changed. Where there is none, the
    copy is of the very same architecture.
    """
    result = copy.deepcopy(module)
    for name, layer in list(result.named_modules()):
        if name and isinstance(layer, nn.MultiheadAttention) and fault(layer) is None:
            separate_one(result, name)
    return result


def separate_one(module: nn.Module, name: str) -> None:
    """Replaces the attention `name` of `module`, in place and under all names that it has; one that was
    replaced before stays.

    Raises CompressionError for a module that cannot be written separately.
    """
    try:
        layer: Any = module.get_submodule(name)
    except AttributeError as error:
        raise CompressionError("the model has no such module", where=name) from error
    if isinstance(layer, SeparateAttention):
        return
    reason = (
        fault(layer)
        if isinstance(layer, nn.MultiheadAttention)
        else f"is a {type(layer).__name__}, not an nn.MultiheadAttention"
    )
    if reason or not name:
        raise CompressionError(reason or "is the whole model", where=name)
    names = [found for found, one in module.named_modules(remove_duplicate=False) if one is layer]
    separately = SeparateAttention(layer)
    for found in names:
        replace_submodule(module, found, separately)


def separated(module: nn.Module) -> tuple[str, ...]:
    """The names of the modules that `separate` replaced."""
    return tuple(
        name for name, layer in module.named_modules() if isinstance(layer, SeparateAttention)
    )


def _projection(source: nn.MultiheadAttention, part: int) -> nn.Linear:
    """The query (0), key (1) or value (2) projection of packed weights, as a layer."""
    packed: Tensor = source.in_proj_weight
    bias: Tensor | None = getattr(source, "in_proj_bias", None)
    rows = slice(part * source.embed_dim, (part + 1) * source.embed_dim)
    return _layer(packed[rows], None if bias is None else bias[rows])


def _layer(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    outputs, inputs = weight.shape
    layer: nn.Linear = nn.utils.skip_init(  # type: ignore[no-untyped-call]  # torch has no types
        nn.Linear, inputs, outputs, bias=bias is not None, device=weight.device, dtype=weight.dtype
    )
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.weight.requires_grad_(weight.requires_grad)
        if bias is not None:
            layer.bias.copy_(bias)
            layer.bias.requires_grad_(bias.requires_grad)
    return layer


def _per_head(mask: Tensor, batch: int) -> Tensor:
    """(batch x heads, ...) as (batch, heads, ...); a mask of two dimensions is for all."""
    return mask if mask.dim() == 2 else mask.view(batch, -1, *mask.shape[1:])


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    """True hides, as torch's boolean masks say; a float mask is added as it is."""
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, float("-inf"))
