"""Encoding texts of mixed lengths against sentence-transformers' own ``encode``, one thread.

    python benchmarks/encoding.py --json benchmarks/results/encoding.json

Texts are the first passages of a BEIR file, each cut to a number of words that is drawn from 5 to
200. sentence-transformers runs with its defaults (32 texts a batch, sorted by their characters); we
by torch, and by OpenVINO where it is installed. All encode the same texts by turns, in process CPU
seconds; tokens a second are those of the texts, without padding; the median of the rounds. The
least cosine with the vectors of sentence-transformers is given too.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import platform
import statistics
import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import sentence_transformers
import torch

from rag.encoders import load_encoder
from rag.encoders.load import folder_of_encoder

CORPUS = Path(__file__).parents[1] / "examples" / "xquad-en" / "corpus.jsonl.gz"


def main() -> None:
    """Measure and print, or write ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, default=CORPUS)
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--texts", type=int, nargs="+", default=[96, 240])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    folder = str(folder_of_encoder(given.encoder))
    peer = sentence_transformers.SentenceTransformer(folder, device="cpu")
    runs: dict[str, Any] = {
        "sentence-transformers": lambda texts: peer.encode(texts, show_progress_bar=False)
    }
    for device in ("cpu", "openvino") if find_spec("openvino") else ("cpu",):
        ours = load_encoder(given.encoder, device=device)
        runs[device] = lambda texts, ours=ours: ours.encode(texts, kind="document")
    out = {
        "corpus": given.corpus.parent.name,
        "encoder": given.encoder,
        "rounds": given.rounds,
        "runs": [measured(runs, mixed(given.corpus, n), peer, given.rounds) for n in given.texts],
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "sentence-transformers", "transformers")},
        **({"openvino": version("openvino")} if "openvino" in runs else {}),
    }
    text = json.dumps(out, indent=1)
    print(text)
    if given.json:
        given.json.write_text(text + "\n")


def mixed(corpus: Path, count: int) -> list[str]:
    """The first texts of a file, each cut to 5 to 200 words."""
    rng = np.random.default_rng(0)
    opener: Any = gzip.open if corpus.suffix == ".gz" else open
    with opener(corpus, "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in itertools.islice(file, count)]
    return [" ".join(text.split()[: rng.integers(5, 200)]) for text in texts]


def measured(runs: dict[str, Any], texts: list[str], peer: Any, rounds: int) -> dict[str, Any]:
    """Tokens a CPU second of each, their ratios to the first, and the least cosines with it."""
    made = peer.tokenizer(texts, truncation=True, max_length=peer.get_max_seq_length())
    tokens = sum(map(len, made["input_ids"]))
    found = {name: run(texts) for name, run in runs.items()}
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            began = time.process_time()
            run(texts)
            taken[name].append(tokens / (time.process_time() - began))
    rates = {name: statistics.median(values) for name, values in taken.items()}
    base, *_ = runs
    unit = {name: x / np.linalg.norm(x, axis=1, keepdims=True) for name, x in found.items()}
    return {
        "texts": len(texts),
        "tokens": tokens,
        "tokens a second": {name: round(rate) for name, rate in rates.items()},
        "ratio": {name: round(rate / rates[base], 3) for name, rate in rates.items()},
        "least cosine": {name: float((x * unit[base]).sum(1).min()) for name, x in unit.items()},
    }


if __name__ == "__main__":
    main()
