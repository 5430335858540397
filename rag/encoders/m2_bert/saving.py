"""M2-BERT as a folder of sentence-transformers, which needs no remote code."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from rag.encoders.m2_bert.checkpoint import load_published
from rag.encoders.m2_bert.config import M2BertConfig
from rag.encoders.m2_bert.model import M2Bert
from rag.errors import InvalidInput


def convert(
    published: str | Path, folder: str | Path, *, tokenizer: str | Path | None = None
) -> None:
    """Write a published retrieval model as a folder of sentence-transformers.

    Args:
        published: a folder, as `load_published` reads it.
        folder: where to write; it is made.
        tokenizer: a folder or name that transformers' ``AutoTokenizer`` knows; absent: the
            published folder's own. The published models have that of bert-base-uncased.

    Raises:
        NotFound, InvalidInput, BackendFailed: as `load_published`.
    """
    from transformers import AutoTokenizer

    model = load_published(published)
    save(model, AutoTokenizer.from_pretrained(tokenizer or published), folder)


def save(model: M2Bert, tokenizer: Any, folder: str | Path) -> None:
    """Write a model with a pooler as sentence-transformers' Transformer, Pooling and Dense.

    ``SentenceTransformer(folder)`` opens it once ``rag.encoders.m2_bert`` is imported; so does
    ``load_encoder``. Similarity is cosine, [CLS] is pooled, and there are no prompts.

    Raises:
        InvalidInput: the model has no pooler.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Dense, Pooling, Transformer
    from torch import nn

    if model.pooler is None:
        raise InvalidInput("M2-BERT: a model without pooler gives no vector of a text; train one")
    width, length = model.config.hidden_size, model.config.max_position_embeddings
    plain = M2Bert(M2BertConfig(**model.config.to_dict() | {"pooler": False}))
    state = {key: x for key, x in model.state_dict().items() if not key.startswith("pooler.")}
    plain.load_state_dict(state)
    tokenizer.model_max_length = length
    dense = Dense(width, width, activation_function=nn.Tanh())
    dense.linear.load_state_dict(model.pooler.dense.state_dict())
    with tempfile.TemporaryDirectory() as bare:
        plain.save_pretrained(bare)
        tokenizer.save_pretrained(bare)
        first = Transformer(bare, max_seq_length=length)
    chain = [first, Pooling(width, pooling_mode="cls"), dense]
    SentenceTransformer(modules=chain, similarity_fn_name="cosine", device="cpu").save(str(folder))
