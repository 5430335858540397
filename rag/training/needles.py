"""Data that only a reader of long texts can use: a key of two words, anywhere in a long document.

    python -m rag.training.needles needles

writes folders in BEIR's layout, which the recipes ``m2-bert-needles-*`` read, and the untrained
model that the first of them begins with:

    needles/64, needles/2k, needles/8k    documents of up to 64, 2,048 and 8,192 tokens
    needles/model                         an M2-BERT of 64 tokens, two layers and width 32

A document is filler drawn from 50 words, with two of 64 key words side by side in it; the question
is these two words. Test documents have the full length and their key beyond a quarter of it (512 of
2,048 tokens), so that a model which reads the first quarter cannot tell them apart. No pair of key
words of a test question occurs in training, in neither order.
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

FILLER = [f"f{number:02}" for number in range(50)]
KEYS = [f"k{number:02}" for number in range(64)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ASKED = 300
"""Test questions, each with a document of its own."""
SIZES = {
    "64": {16: 10_000, 32: 10_000, 64: 20_000},
    "2k": {512: 1_000, 1024: 1_000, 2048: 2_000},
    "8k": {2048: 500, 4096: 300, 8192: 400},
}
"""Training documents of each folder: tokens to how many; the most tokens are the test's."""


def write(folder: Path, sizes: dict[int, int], seed: int) -> None:
    """Write one folder: ``corpus.jsonl``, ``queries.jsonl``, ``qrels/train.tsv`` and ``test.tsv``.

    Args:
        folder: where; it is made.
        sizes: tokens of a training document, [CLS] and [SEP] included, to how many there are.
        seed: for all that is drawn.
    """
    draw = random.Random(seed)
    pairs = list(itertools.combinations(KEYS, 2))
    random.Random(0).shuffle(pairs)  # the same in all folders
    longest = max(sizes)
    wanted = [("test", pair, longest, longest // 4) for pair in pairs[:ASKED]]
    wanted += [
        ("train", draw.choice(pairs[ASKED:]), tokens, 0)
        for tokens, count in sorted(sizes.items())
        for _ in range(count)
    ]
    (folder / "qrels").mkdir(parents=True)
    numbers = itertools.count()

    def documents() -> Iterator[tuple[str, str, str, str]]:
        for split, pair, tokens, least in wanted:
            key = draw.sample(pair, 2)
            words = draw.choices(FILLER, k=tokens - 2)
            at = draw.randrange(max(0, least - 1), tokens - 3)
            words[at : at + 2] = key
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


def write_model(folder: Path, *, length: int = 64, seed: int = 0) -> None:
    """Write an untrained M2-BERT with a tokenizer of words, as sentence-transformers does.

    Its weights and kernels are drawn wider than BERT's (0.18 for 0.02, and frequencies of 1 for
    10), as suits so narrow a model.
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
        num_hidden_layers=2,
        max_position_embeddings=length,
        hyena_filter_order=32,
        hyena_w=1.0,
        initializer_range=0.18,
        hidden_dropout_prob=0.0,
        pooler=True,
    )
    with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as aside, quiet():
        torch.manual_seed(seed)
        vocabulary = Path(aside) / "vocab.txt"
        vocabulary.write_text("\n".join(words) + "\n")
        save(M2Bert(config), BertTokenizerFast(str(vocabulary)), folder)


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
    sys.stdout.write(f"{args.out}: now rag train m2-bert-needles-64 --out needles-64\n")


if __name__ == "__main__":
    main()
