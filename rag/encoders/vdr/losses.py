"""The losses of VDR (two terms) and of its semi-parametric form SVDR (four terms)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rag.encoders.vdr.views import bags, kept


def both_ways(queries: Tensor, passages: Tensor) -> Tensor:
    """The contrastive loss of n queries (n, V) and m >= n passages (m, V).

    Passage i answers query i, the passages from n on answer none. Scores are dot products at
    temperature 1: the cross-entropy of each query's passage among all passages, plus that of each
    answering passage's query among all queries.
    """
    scores = queries @ passages.T  # (n, m)
    n = len(queries)
    labels = torch.arange(n, device=scores.device)
    return F.cross_entropy(scores, labels) + F.cross_entropy(scores[:, :n].T, labels)


def vdr_loss(
    queries: Tensor,
    passages: Tensor,
    query_bags: Tensor,
    passage_bags: Tensor,
    *,
    topk: int = 768,
    semi: bool = False,
) -> Tensor:
    """The loss of a batch: the mean of ``both_ways`` over pairs of views.

    With [x] a vector's top k terms and own tokens, and bag(x) its binary bag: VDR pairs ([q], p)
    and (bag(q), p); SVDR, where ``semi``, pairs (q, [p]) and (q, bag(p)) too.

    Args:
        queries: (n, V) float vectors, all terms of them.
        passages: (m, V) float, the n that answer first, then hard negatives.
        query_bags: (n, V) bool, the tokens of each query (``views.bags``).
        passage_bags: (m, V) bool.
        topk: the terms that [x] keeps.
        semi: four terms instead of two.
    """
    pairs = [
        (kept(queries, query_bags, topk), passages),
        (query_bags.to(queries.dtype), passages),
    ]
    if semi:
        pairs += [
            (queries, kept(passages, passage_bags, topk)),
            (queries, passage_bags.to(passages.dtype)),
        ]
    return torch.stack([both_ways(q, p) for q, p in pairs]).mean()


class VDRLoss(nn.Module):  # type: ignore[misc]
    """``vdr_loss`` as a loss of sentence-transformers' trainers, for VDR models.

    A row is a question, the passage that answers it and any number of hard negatives.
    """

    def __init__(
        self,
        model: Any,
        *,
        topk: int = 768,
        semi: bool = False,
        shift_vocab_num: int = 999,
        gather_across_devices: bool = False,
    ) -> None:
        """Take the model (``VDREncoder.sentence_transformer``) and ``vdr_loss``'s settings.

        gather_across_devices: compare with the texts of all processes of torch.distributed, as the
            published training does; gradients flow to all of them.
        """
        super().__init__()
        self.gather = gather_across_devices
        self.model, self.topk, self.semi, self.shift = model, topk, semi, shift_vocab_num

    def forward(self, sentence_features: Any, labels: Tensor | None = None) -> Tensor:
        """The loss of one batch; ``labels`` are not used."""
        columns = list(sentence_features)
        own = [(column["input_ids"], column["attention_mask"]) for column in columns]
        vectors = [self.model(column)["sentence_embedding"] for column in columns]
        binary = [bags(*one, vectors[0].shape[1], self.shift) for one in own]
        if self.gather:
            from sentence_transformers.util.distributed import all_gather, all_gather_with_grad

            vectors = [all_gather_with_grad(one) for one in vectors]
            binary = [all_gather(one) for one in binary]
        return vdr_loss(
            vectors[0],
            torch.cat(vectors[1:]),
            binary[0],
            torch.cat(binary[1:]),
            topk=self.topk,
            semi=self.semi,
        )
