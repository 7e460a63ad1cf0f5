"""Which of torch's operators count as multiply-accumulates, beyond torch's own table, and which are free."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import torch

# Operators that multiply and that torch's table leaves out. A formula returns FLOPs, which are two
# for each multiply-accumulate; shapes come in place of tensors.
_Shape = Sequence[int]


def _attention_flops(q: _Shape, k: _Shape, v: _Shape, *_: Any, **__: Any) -> int:
    """Scores q k^T and their product with v; grouped queries share keys, so q's heads count."""
    return 2 * prod(q[:-1]) * k[-2] * (q[-1] + v[-1])


def _dot_flops(a: _Shape, *_: Any, **__: Any) -> int:
    return 2 * prod(a)


def _mv_flops(matrix: _Shape, *_: Any, **__: Any) -> int:
    return 2 * prod(matrix)


def _addmv_flops(_: _Shape, matrix: _Shape, *__: Any, **___: Any) -> int:
    return 2 * prod(matrix)


def _addbmm_flops(_: _Shape, a: _Shape, b: _Shape, *__: Any, **___: Any) -> int:
    return 2 * prod(a) * b[-1]


def _addr_flops(_: _Shape, a: _Shape, b: _Shape, *__: Any, **___: Any) -> int:
    return 2 * prod(a) * prod(b)


_aten = torch.ops.aten
FORMULAS: Mapping[Any, Callable[..., int]] = {
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    _aten.dot: _dot_flops,
    _aten.vdot: _dot_flops,
    _aten.mv: _mv_flops,
    _aten.addmv: _addmv_flops,
    _aten.addbmm: _addbmm_flops,
    _aten.addr: _addr_flops,
}

# Free by convention, besides every operator that torch itself tags as pointwise or as a reduction
# and every view: normalisation, softmax, pooling, interpolation, indexing, copies and factories
# cost time, but no multiply-accumulates as everybody counts them.
_FREE_BY_KIND = {
    "normalisation and activation": (
        "_native_batch_norm_legit _native_batch_norm_legit_functional _prelu_kernel "
        "_native_batch_norm_legit_no_training native_batch_norm _batch_norm_no_update "
        "_batch_norm_with_update native_layer_norm native_group_norm _fused_rms_norm _softmax "
        "_log_softmax _safe_softmax glu cudnn_batch_norm batch_norm_inference native_dropout "
        "rrelu_with_noise bernoulli bernoulli_ "
    ),
    "pooling and interpolation": (
        "max_pool2d_with_indices max_pool3d_with_indices avg_pool2d avg_pool3d avg_pool1d "
        "_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d "
        "mkldnn_max_pool2d mkldnn_max_pool3d fractional_max_pool2d fractional_max_pool3d "
        "upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d "
        "_upsample_nearest_exact2d _upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d "
        "upsample_trilinear3d upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa "
        "grid_sampler_2d grid_sampler_3d affine_grid_generator max_unpool2d max_unpool3d "
    ),
    "running sums, order, search": (
        "cumsum cumsum_ cummax cummin logcumsumexp logsumexp topk sort argsort kthvalue median "
        "nanmedian mode unique_dim _unique2 unique_consecutive nonzero searchsorted bucketize "
        "bincount histc max min equal is_same_size norm var_mean std_mean "
    ),
    "gathering, scattering, joining, moving": (
        "embedding _embedding_bag _embedding_bag_forward_only index index_select index_put index_put_ "
        "_unsafe_index gather scatter scatter_ scatter_add scatter_add_ scatter_reduce scatter_reduce_ "
        "index_add index_add_ index_copy index_copy_ index_fill index_fill_ masked_select "
        "masked_scatter masked_scatter_ select_scatter slice_scatter take cat stack split_with_sizes_copy "
        "unsafe_split unsafe_split_with_sizes unsafe_chunk pixel_shuffle pixel_unshuffle "
        "channel_shuffle native_channel_shuffle im2col col2im flip roll repeat repeat_interleave tril "
        "triu tril_ triu_ diag_embed trace constant_pad_nd reflection_pad1d reflection_pad2d "
        "reflection_pad3d replication_pad1d replication_pad2d replication_pad3d _pad_circular "
        "clone copy copy_ _to_copy _unsafe_view _reshape_alias _reshape_copy contiguous resize_ "
        "resize_as_ set_ transpose_ t_ squeeze_ unsqueeze_ permute_copy expand_copy lift_fresh "
        "lift_fresh_copy detach_ _local_scalar_dense item is_pinned _pin_memory record_stream "
    ),
    "factories and checks": (
        "empty empty_like empty_strided new_empty new_empty_strided new_zeros new_ones new_full zeros "
        "zeros_like ones ones_like full full_like zero_ fill_ arange linspace logspace eye "
        "scalar_tensor tril_indices triu_indices rand rand_like randn randn_like randint "
        "randint_like randperm normal normal_ normal_functional uniform uniform_ random_ "
        "_assert_async _assert_scalar _assert_tensor_metadata _functional_assert_async "
        "_linalg_check_errors _has_same_storage_numel sym_size sym_stride sym_numel "
        "sym_storage_offset"
    ),
}
FREE = frozenset(name for names in _FREE_BY_KIND.values() for name in names.split())
