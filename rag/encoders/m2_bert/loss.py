"""The loss that M2-BERT's retrieval models are trained with."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def orthogonal_projection_loss(queries: Tensor, documents: Tensor, labels: Tensor) -> Tensor:
    """mean_i (cos(q_i, d_i) - label_i)^2, a scalar.

    A positive pair is drawn to cosine 1 and a negative one to 0, each pair by itself: that the
    loss compares no texts of a batch is why long texts can be trained one at a time. It is what
    the published code computes for the loss of arXiv 2402.07440, and the same as
    sentence-transformers' ``CosineSimilarityLoss``, which its trainers use.

    Args:
        queries: (n, d) float.
        documents: (n, d) float, a document for each query.
        labels: (n,), 1 where the document answers the query, else 0.
    """
    cosine = functional.cosine_similarity(queries, documents, dim=-1)  # (n,)
    return functional.mse_loss(cosine, labels.to(cosine.dtype))
