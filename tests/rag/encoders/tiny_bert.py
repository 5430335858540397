"""A BERT of random weights, and a WordPiece tokenizer of a few words."""

from __future__ import annotations

from typing import Any

PIECES = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *("the", "tower", "is", "of", "iron", "and", "steel", "by", "paris", "river", "bridge"),
    *("build", "##ing", "##s", "##er", "un", "##like", "##ly", ".", ","),
]
WORDS = ["the", "tower", "is", "of", "iron", "steel", "paris", "buildings", "unlikely", "builder"]


def tokenizer() -> Any:
    import transformers

    return transformers.BertTokenizer(vocab={piece: at for at, piece in enumerate(PIECES)})


def bert(cls: str = "BertForMaskedLM", *, seed: int = 0, **settings: Any) -> Any:
    import torch
    import transformers

    config = {
        "vocab_size": len(PIECES), "hidden_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 3, "intermediate_size": 40, "max_position_embeddings": 40,
        "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.3,
    }  # fmt: skip
    torch.manual_seed(seed)
    return getattr(transformers, cls)(transformers.BertConfig(**(config | settings)))
