"""Views of a vector over the vocabulary: its top terms, and a text's own tokens."""

from __future__ import annotations

import torch
from torch import Tensor


def top_mask(vectors: Tensor, k: int) -> Tensor:
    """Where the ``k`` largest values of each row of (n, V) are, bool; -1: everywhere."""
    if k < 0 or k >= vectors.shape[1]:
        return torch.ones_like(vectors, dtype=torch.bool)
    mask = torch.zeros_like(vectors, dtype=torch.bool)
    return mask.scatter_(1, vectors.detach().topk(k, dim=1).indices, True) if k else mask


def bags(input_ids: Tensor, attention_mask: Tensor, columns: int, shift: int) -> Tensor:
    """Which tokens stand in each text, (n, columns) bool; columns below ``shift`` are False.

    Args:
        input_ids: (n, l) int64.
        attention_mask: (n, l), 0 at padding.
        columns: V, the size of the vocabulary.
        shift: where columns begin that count.
    """
    found = torch.zeros(len(input_ids), columns, dtype=torch.bool, device=input_ids.device)
    found.scatter_(1, input_ids.masked_fill(attention_mask == 0, 0), True)
    found[:, : max(shift, 1)] = False
    return found


def kept(vectors: Tensor, own: Tensor, k: int) -> Tensor:
    """Each vector at its ``k`` largest values and at the text's ``own`` tokens (bool), else 0."""
    return vectors * (top_mask(vectors, k) | own)
