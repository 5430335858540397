"""A model of transformers made quicker on a CPU, with the same values to float rounding.

Two things cost a CPU time that need not: positions of padding, and matrices that are brought into
the order of its vector units anew in each product.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

UNPADDED = frozenset({"bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta"})
"""Types of models that ``unpad`` changes: each position is computed from itself, but for attention
to all positions of the text."""
PREPACKED = UNPADDED | {"modernbert", "mpnet"}
"""Types whose linear layers are only called: others may read their matrices."""
_COUNTED_FROM_PADDING = frozenset({"camembert", "roberta", "xlm-roberta"})
_ATTENTION = "ragstone_unpadded"


def quicken(model: Any) -> None:
    """Change a model of transformers that lies on a CPU, in place; it can no longer be trained.

    Types of models that neither ``UNPADDED`` nor ``PREPACKED`` names stay as they are, and so do
    layers that do not hold float32, and all layers where torch has no oneDNN.
    """
    unpad(model)
    if model.config.model_type in PREPACKED:
        prepack(model)


def unpad(model: Any) -> None:
    """Have a model compute no padding: texts of a batch stand one after another in one row.

    Only attention sees them apart. The output has the usual form, with 0 at padding. A batch whose
    padding is not on the right, or that is given more than ids, types and mask, is computed as
    ever. Weights and their names stay, so it may be saved.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    config = model.config
    if config.model_type not in UNPADDED or getattr(config, "is_decoder", False):
        return
    AttentionInterface.register(_ATTENTION, _attention)
    AttentionMaskInterface.register(_ATTENTION, sdpa_mask)
    model.set_attn_implementation(_ATTENTION)
    padded = model.forward
    first = config.pad_token_id + 1 if config.model_type in _COUNTED_FROM_PADDING else 0

    def forward(
        input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **given: Any
    ) -> Any:
        types = given.pop("token_type_ids", None)
        lengths = _lengths(attention_mask)
        if input_ids is None or lengths is None or set(given) - {"return_dict"}:
            if types is not None:
                given["token_type_ids"] = types
            return padded(input_ids=input_ids, attention_mask=attention_mask, **given)
        assert attention_mask is not None
        real = attention_mask.bool()
        places = torch.arange(first, first + real.shape[1]).expand_as(real)
        if types is not None:
            given["token_type_ids"] = types[real][None]
        found = padded(
            input_ids=input_ids[real][None], position_ids=places[real][None], lengths=lengths,
            **given,
        )  # fmt: skip
        for name, value in found.items():
            if isinstance(value, Tensor) and value.shape[:2] == (1, sum(lengths)):
                wide = value.new_zeros(*real.shape, *value.shape[2:])
                wide[real] = value[0]
                found[name] = wide
        return found

    model.forward = forward


def _lengths(mask: Tensor | None) -> list[int] | None:
    """The tokens of each text of a mask (n, l) that ends in padding; None of another mask."""
    if mask is None or mask.dim() != 2:
        return None
    real = mask.bool()
    lengths = real.sum(1)
    expected = torch.arange(mask.shape[1]) < lengths[:, None]
    return lengths.tolist() if bool((real == expected).all() and (lengths > 0).all()) else None


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    lengths: list[int] | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention within each text: (1, heads, l, d) to (1, l, heads, d), l = the sum of lengths."""
    if lengths is None:
        found = F.scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, scale=scaling
        )
        return found.transpose(1, 2).contiguous(), None
    out = torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format)
    start = 0
    while lengths:
        size = lengths[0]
        count = next((n for n, other in enumerate(lengths) if other != size), len(lengths))
        stop = start + count * size
        same = [x[0, :, start:stop].unflatten(1, (count, size)) for x in (query, key, value)]
        q, k, v = (x.transpose(0, 1) for x in same)  # (count, heads, size, d)
        found = F.scaled_dot_product_attention(q, k, v, scale=scaling)
        out[0, start:stop] = found.transpose(1, 2).flatten(0, 1)  # (count * size, heads, d)
        start, lengths = stop, lengths[count:]
    return out, None


class _Prepacked(nn.Module):  # type: ignore[misc]
    """A linear layer whose matrix lies as oneDNN wants it, followed by GELU or by nothing."""

    def __init__(self, linear: nn.Linear, gelu: bool = False) -> None:
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.bias = None if linear.bias is None else linear.bias.detach()
        self.after: tuple[str, list[Any], str] = ("gelu", [], "none") if gelu else ("none", [], "")

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, *self.after)
        return found


def prepack(module: Any) -> None:
    """Bring the matrices of all linear layers into the order of oneDNN, in place."""
    from transformers.activations import GELUActivation

    if not torch.backends.mkldnn.is_available():
        return
    for name, child in list(module.named_children()):
        if type(child) is nn.Linear and child.weight.dtype == torch.float32:
            act = getattr(module, "intermediate_act_fn", None)
            gelu = name == "dense" and isinstance(act, GELUActivation) and act.act is F.gelu
            if gelu:
                module.intermediate_act_fn = nn.Identity()
            setattr(module, name, _Prepacked(child, gelu))
        else:
            prepack(child)
