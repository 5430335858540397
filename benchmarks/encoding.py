"""Encoding texts of mixed lengths against sentence-transformers' own ``encode``.

    python benchmarks/encoding.py --corpus corpus.jsonl.gz --texts 96 --json encoding.json

Texts are the first passages of a BEIR file, each cut to a number of words that is drawn from 5 to
200. sentence-transformers runs with its defaults (32 texts a batch, sorted by letters); both encode
the same texts by turns with one thread, in process CPU seconds; the median of the rounds. The least
cosine between their vectors is printed.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import sentence_transformers
import torch

from rag.encoders import load_encoder
from rag.encoders.load import folder_of_encoder


def main() -> None:
    """Measure and print, or write ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--texts", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    opener: Any = gzip.open if given.corpus.suffix == ".gz" else open
    with opener(given.corpus, "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in itertools.islice(file, given.texts)]
    texts = [" ".join(text.split()[: rng.integers(5, 200)]) for text in texts]
    ours = load_encoder(given.encoder, device="cpu")
    folder = str(folder_of_encoder(given.encoder))
    theirs = sentence_transformers.SentenceTransformer(folder, device="cpu")
    runs = {
        "ours": lambda: ours.encode(texts, kind="document"),
        "theirs": lambda: theirs.encode(texts, show_progress_bar=False),
    }
    found = {name: run() for name, run in runs.items()}
    lengths = {name: np.linalg.norm(vectors, axis=1) for name, vectors in found.items()}
    products = (found["ours"] * found["theirs"]).sum(1)
    cosine = float((products / lengths["ours"] / lengths["theirs"]).min())
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(given.rounds):
        for name, run in runs.items():
            began = time.process_time()
            run()
            taken[name].append(len(texts) / (time.process_time() - began))
    rates = {name: statistics.median(values) for name, values in taken.items()}
    out = {
        **rates,
        "ratio": rates["ours"] / rates["theirs"],
        "least cosine": cosine,
        **vars(given),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "sentence_transformers": sentence_transformers.__version__,
    }
    text = json.dumps(out, indent=1, default=str)
    print(text)
    if given.json:
        given.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
