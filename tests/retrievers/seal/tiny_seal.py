"""Tiny random models of each family with a tokenizer of words, and a collection for them."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

from rag.retrievers.seal.model import SealModel

WORDS = [f"w{n}" for n in range(40)]
CAPITALS = [word.upper() for word in WORDS[:20]]
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
MARKS = ["\n", "@@", "||", "body", "title", "Question:", "Passage:", "Title:"]
VOCABULARY = [*SPECIAL, *MARKS, *WORDS, *CAPITALS]
CONTEXT = 64
KINDS = ["llama", "gpt2", "bloom", "bart", "t5"]


def tokenizer() -> Any:
    """Words that a space or a line break ends."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    ids = {word: at for at, word in enumerate(VOCABULARY)}
    words = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.Split("\n", "isolated")]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )


def network(kind: str, *, seed: int = 1, size: int = len(VOCABULARY)) -> Any:
    """The model of transformers, of two layers."""
    import torch
    import transformers

    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if kind == "llama":
            config = transformers.LlamaConfig(
                vocab_size=size,
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=CONTEXT,
                initializer_range=0.5,
                **ids,
            )
            return transformers.LlamaForCausalLM(config).eval()
        if kind == "gpt2":
            config = transformers.GPT2Config(
                vocab_size=size,
                n_embd=32,
                n_layer=2,
                n_head=4,
                n_positions=CONTEXT,
                initializer_range=0.4,
                **ids,
            )
            return transformers.GPT2LMHeadModel(config).eval()
        if kind == "bloom":  # its positions cannot be given: the mask says them
            config = transformers.BloomConfig(
                vocab_size=size, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.4, **ids
            )
            return transformers.BloomForCausalLM(config).eval()
        if kind == "t5":
            config = transformers.T5Config(
                vocab_size=size,
                d_model=32,
                d_kv=8,
                d_ff=48,
                num_layers=2,
                num_heads=4,
                decoder_start_token_id=0,
                pad_token_id=0,
                eos_token_id=2,
                initializer_factor=2.0,
            )
            return transformers.T5ForConditionalGeneration(config).eval()
        config = transformers.BartConfig(
            vocab_size=size,
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=48,
            decoder_ffn_dim=48,
            max_position_embeddings=CONTEXT,
            init_std=0.4,
            decoder_start_token_id=2,
            forced_eos_token_id=2,
            **ids,
        )
        return transformers.BartForConditionalGeneration(config).eval()


@cache
def tiny(kind: str, seed: int = 1) -> SealModel:
    """A model of a kind in ``KINDS``; for causal ones as they pack, for bloom in rows."""
    return SealModel(kind, network(kind, seed=seed), tokenizer())


def documents(n: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Titles, some of them empty or alike, and texts with parts that repeat."""
    draw = random.Random(seed)
    phrases = [" ".join(draw.choices(WORDS + CAPITALS, k=6)) for _ in range(4)]
    titles = [" ".join(draw.choices(WORDS, k=draw.randint(0, 3))) for _ in range(n)]
    texts = [
        " ".join(
            draw.choice(phrases) if draw.random() < 0.2 else draw.choice(WORDS + CAPITALS)
            for _ in range(draw.randint(0, 12))
        )
        for _ in range(n)
    ]
    return titles, texts


def questions(n: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS + CAPITALS, k=draw.randint(1, 9))) + " ?" for _ in range(n)]
