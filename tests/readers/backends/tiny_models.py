"""Tiny models with random weights and a tokenizer of words, saved as people save theirs."""

from __future__ import annotations

from pathlib import Path

WORDS = [f"w{n}" for n in range(60)]
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
TEMPLATE = "{% for m in messages %}<s> {{ m['content'] }} {% endfor %}"
CONTEXT = 64


def tiny(kind: str, folder: Path, *, template: bool = False, seed: int = 1) -> Path:
    """A ``llama``, ``gpt2``, ``t5`` or ``bart`` of two layers; ``bert`` has no place for text."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: at for at, word in enumerate([*SPECIAL, *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        chat_template=TEMPLATE if template else None,
    )
    size = len(vocabulary)
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if kind == "llama":
            model = transformers.LlamaForCausalLM(
                transformers.LlamaConfig(
                    vocab_size=size,
                    hidden_size=32,
                    intermediate_size=48,
                    num_hidden_layers=2,
                    num_attention_heads=4,
                    max_position_embeddings=CONTEXT,
                    initializer_range=1.0,
                    **ids,
                )
            )
        elif kind == "gpt2":
            model = transformers.GPT2LMHeadModel(
                transformers.GPT2Config(
                    vocab_size=size,
                    n_embd=32,
                    n_layer=2,
                    n_head=4,
                    n_positions=CONTEXT,
                    initializer_range=0.6,
                    **ids,
                )
            )
        elif kind == "t5":
            model = transformers.T5ForConditionalGeneration(
                transformers.T5Config(
                    vocab_size=size,
                    d_model=32,
                    d_kv=8,
                    d_ff=48,
                    num_layers=2,
                    num_heads=4,
                    decoder_start_token_id=0,
                    pad_token_id=0,
                    eos_token_id=2,
                    initializer_factor=6.0,
                )
            )
        elif kind == "bart":
            model = transformers.BartForConditionalGeneration(
                transformers.BartConfig(
                    vocab_size=size,
                    d_model=32,
                    encoder_layers=2,
                    decoder_layers=2,
                    encoder_attention_heads=4,
                    decoder_attention_heads=4,
                    encoder_ffn_dim=48,
                    decoder_ffn_dim=48,
                    max_position_embeddings=CONTEXT,
                    init_std=0.6,
                    decoder_start_token_id=2,
                    forced_eos_token_id=2,
                    **ids,
                )
            )
        else:
            model = transformers.BertModel(
                transformers.BertConfig(
                    vocab_size=size,
                    hidden_size=32,
                    num_hidden_layers=1,
                    num_attention_heads=4,
                    intermediate_size=48,
                )
            )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
