"""DupMAE written out: one text, one position, one head at a time; slow, as the formulas read."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def norm(x: Tensor, weights: Any, eps: float) -> Tensor:
    mean = x.mean()
    return (x - mean) / torch.sqrt(((x - mean) ** 2).mean() + eps) * weights.weight + weights.bias


def linear(x: Tensor, weights: Any) -> Tensor:
    return weights.weight @ x + weights.bias


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def head(h: Tensor, cls: Any, words: Tensor, eps: float) -> Tensor:
    """The logits of one position: transform, then the word embeddings and a bias."""
    part = cls.predictions
    t = norm(gelu(linear(h, part.transform.dense)), part.transform.LayerNorm, eps)
    return words @ t + part.bias


def cross_entropy(logits: Tensor, label: int) -> Tensor:
    return torch.log(torch.exp(logits - logits.max()).sum()) + logits.max() - logits[label]


def losses(model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """What ``DupMAE.forward`` gives, of a model without dropout."""
    bert, cls, decoder = model.encoder.bert, model.encoder.cls, model.decoder
    eps = model.encoder.config.layer_norm_eps
    e = bert.embeddings
    words, position, kind = (
        e.word_embeddings.weight, e.position_embeddings.weight, e.token_type_embeddings.weight[0]
    )  # fmt: skip
    mlm, rebuilt, bags = [], [], []
    for b in range(len(batch["input_ids"])):
        size = int(batch["attention_mask"][b].sum())
        corrupted = batch["input_ids"][b : b + 1, :size]  # without padding
        hidden = bert(corrupted).last_hidden_state[0]
        logits = [head(hidden[i], cls, words, eps) for i in range(size)]
        mlm += [
            cross_entropy(logits[i], int(batch["labels"][b, i]))
            for i in range(size)
            if batch["labels"][b, i] != -100
        ]
        best = torch.stack(logits[1:]).max(0).values
        log_sum = torch.log(torch.exp(best).sum())
        bags.append(-(batch["bag"][b] * (best - log_sum)).sum())
        context, queries = [hidden[0]], []
        for i in range(size):
            queries.append(norm(hidden[0] + position[i] + kind, e.LayerNorm, eps))
            if i:
                word = words[int(batch["original_ids"][b, i])]
                context.append(norm(word + position[i] + kind, e.LayerNorm, eps))
        for i in range(1, size - 1):
            seen = [j for j in range(size) if batch["visible"][b, i, j]]
            out = decode(decoder, queries[i], [context[j] for j in seen], eps)
            rebuilt.append(
                cross_entropy(head(out, cls, words, eps), int(batch["original_ids"][b, i]))
            )
    found = {
        "mlm": torch.stack(mlm).mean(),
        "decoder": torch.stack(rebuilt).mean(),
        "bow": torch.stack(bags).mean(),
    }
    return found | {"loss": found["decoder"] + 0.1 * found["bow"] + found["mlm"]}


def decode(layer: Any, query: Tensor, context: list[Tensor], eps: float) -> Tensor:
    """One position through the one layer of the decoder."""
    width = len(query) // layer.heads
    q = linear(query, layer.query)
    heads = []
    for h in range(layer.heads):
        part = slice(h * width, (h + 1) * width)
        weights = torch.stack(
            [q[part] @ linear(c, layer.key)[part] / math.sqrt(width) for c in context]
        )
        weights = torch.exp(weights) / torch.exp(weights).sum()
        heads.append(
            sum(w * linear(c, layer.value)[part] for w, c in zip(weights, context, strict=True))
        )
    a = norm(query + linear(torch.cat(heads), layer.dense), layer.attention_norm, eps)
    return norm(a + linear(gelu(linear(a, layer.up)), layer.down), layer.norm, eps)
