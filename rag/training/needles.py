"""Data that only a reader of long texts can use: a key of four words, anywhere in a long document.

    python -m rag.training.needles needles

writes folders in BEIR's layout, which the recipes ``m2-bert-needles-*`` read, and the untrained
model that the first of them begins with:

    needles/2k, needles/8k    documents of up to 2,048 and 8,192 tokens
    needles/model             an M2-BERT of 32,768 tokens, one layer and width 32

A document is filler, drawn from 8 words, with four of 32 key words side by side in it; the
question is these four words. Test documents have the full length and their key beyond a quarter of
it (512 of 2,048 tokens), so that a model which reads the first quarter cannot tell them apart. No
four key words of a test question occur together in training, in whatever order.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from rag.errors import InvalidInput, RagError

FILLER = [f"f{number:02}" for number in range(8)]
KEYS = [f"k{number:02}" for number in range(32)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ASKED = 300
"""Test questions, each with a document of its own."""
WORDS = 4
"""Words of a key."""
SIZES = {
    "2k": {16: 1_000, 32: 1_000, 64: 1_000, 128: 1_500, 256: 1_500, 512: 1_500}
    | {1024: 1_500, 2048: 3_000},
    "8k": {2048: 200, 4096: 600, 8192: 800},
}
"""Training documents of each folder: tokens to how many; the most tokens are the test's."""


def write(folder: Path, sizes: dict[int, int], seed: int) -> None:
    """Write one folder: ``corpus.jsonl``, ``queries.jsonl``, ``qrels/train.tsv`` and ``test.tsv``.

    Args:
        folder: where; it is made.
        sizes: tokens of a training document, [CLS] and [SEP] included, to how many there are.
        seed: for all that is drawn.
    """
    draw, longest = random.Random(seed), max(sizes)
    asked = _keys(random.Random("test"), ASKED, set())  # the same in all folders
    learned = _keys(draw, sum(sizes.values()), set(asked))
    lengths = [tokens for tokens, count in sorted(sizes.items()) for _ in range(count)]
    wanted = [("test", key, longest, longest // 4) for key in asked]
    wanted += [("train", key, tokens, 0) for key, tokens in zip(learned, lengths, strict=True)]
    (folder / "qrels").mkdir(parents=True)
    numbers = itertools.count()

    def documents() -> Iterator[tuple[str, str, str, str]]:
        for split, some, tokens, least in wanted:
            key = draw.sample(sorted(some), WORDS)
            words = draw.choices(FILLER, k=tokens - 2)
            at = draw.randrange(max(0, least - 1), tokens - 1 - WORDS)
            words[at : at + WORDS] = key
            yield split, f"{split}{next(numbers)}", " ".join(key), " ".join(words)

    with (
        (folder / "corpus.jsonl").open("w") as corpus,
        (folder / "queries.jsonl").open("w") as queries,
        (folder / "qrels" / "test.tsv").open("w") as test,
        (folder / "qrels" / "train.tsv").open("w") as train,
    ):
        files = {"test": test, "train": train}
        for file in files.values():
            file.write("query-id\tcorpus-id\tscore\n")
        for split, name, question, text in documents():
            corpus.write(json.dumps({"_id": f"d-{name}", "title": "", "text": text}) + "\n")
            queries.write(json.dumps({"_id": f"q-{name}", "text": question}) + "\n")
            files[split].write(f"q-{name}\td-{name}\t1\n")


def _keys(draw: random.Random, count: int, taken: set[frozenset[str]]) -> list[frozenset[str]]:
    """Sets of key words that are not in ``taken``, each once."""
    found: dict[frozenset[str], None] = {}
    while len(found) < count:
        key = frozenset(draw.sample(KEYS, WORDS))
        if key not in taken:
            found[key] = None
    return list(found)


def write_model(folder: Path, *, length: int = 32_768, layers: int = 1, seed: int = 0) -> None:
    """Write an untrained M2-BERT with a tokenizer of words, as sentence-transformers does.

    It differs from a large one as suits a narrow one: weights are drawn wider (0.18 for 0.02), the
    kernels' sines are slower (1 for 10), words count more than positions, which begin with 0, and
    what is not gated hardly looks around. It is longer than the documents it learns from, since
    its kernels fade with the distance, to 5% or less at its full length.
    """
    import tempfile

    import torch
    from transformers import BertTokenizerFast

    from rag.encoders.m2_bert import M2Bert, M2BertConfig, save
    from rag.models.load import quiet

    words = [*SPECIAL, *FILLER, *KEYS]
    config = M2BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        max_position_embeddings=length,
        hyena_filter_order=32,
        hyena_w=1.0,
        initializer_range=0.18,
        hidden_dropout_prob=0.0,
        pooler=True,
    )
    with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as aside, quiet():
        torch.manual_seed(seed)
        model = M2Bert(config)
        with torch.no_grad():
            model.embeddings.position_embeddings.weight.zero_()
            model.embeddings.token_type_embeddings.weight.zero_()
            model.embeddings.word_embeddings.weight.mul_(3)
            for layer in model.encoder.layer:
                around = layer.attention.filter_fn2
                for network in (around.implicit_filter, around.implicit_filter_rev):
                    network["6"].weight.mul_(0.02)
        vocabulary = Path(aside) / "vocab.txt"
        vocabulary.write_text("\n".join(words) + "\n")
        save(model, BertTokenizerFast(str(vocabulary)), folder)


def main() -> None:
    """Write the folders that the recipes read."""
    parser = argparse.ArgumentParser(
        description="Data for the recipes m2-bert-needles-*", prog="python -m rag.training.needles"
    )
    parser.add_argument("out", type=Path, help="a new folder")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        if args.out.exists():
            raise InvalidInput(f"{args.out}: is there already; name a new folder")
        for name, sizes in SIZES.items():
            write(args.out / name, sizes, args.seed)
        write_model(args.out / "model", seed=args.seed)
    except RagError as error:
        sys.exit(f"error: {error}")
    sys.stdout.write(f"{args.out}: now rag train m2-bert-needles-2k --out needles-2k\n")


if __name__ == "__main__":
    main()
