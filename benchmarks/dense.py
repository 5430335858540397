"""Exact search over dense vectors in a batch against FAISS Flat.

    python benchmarks/dense.py --rows 60000 --json dense.json

Vectors are drawn at random and have the length 1; what exact search costs does not depend on them.
Both answer the same queries by turns, in process CPU seconds on one thread (set OMP_NUM_THREADS=1),
one query at a time and 64 at a time; the median of the rounds. Answers must agree.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from rag.indexers.dense import unit
from rag.indexers.dense_index import DenseIndex, Segment


def main() -> None:
    """Measure and print, or write ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    vectors, queries = (
        unit(rng.standard_normal((n, given.dimensions), dtype=np.float32)) for n in (given.rows, 64)
    )
    ours = DenseIndex([Segment(vectors, "cosine", None)], "random", "")
    theirs = faiss.IndexFlatIP(given.dimensions)
    theirs.add(vectors)
    faiss.omp_set_num_threads(1)
    _, rows, _ = ours.search(queries, given.k)
    _, expected = theirs.search(queries, given.k)
    pairs = zip(rows.reshape(expected.shape), expected, strict=True)
    same = sum(len(np.intersect1d(a, b)) for a, b in pairs) / expected.size
    if same < 0.999:
        raise SystemExit(f"answers differ: {same:.4f} of the rows are the same")
    out: dict[str, Any] = {"same": same, **vars(given), "python": platform.python_version()}
    out["faiss"], out["numpy"] = faiss.__version__, np.__version__
    for batch in (1, 64):
        some = queries if batch > 1 else queries[:16]
        parts = [some[i : i + batch] for i in range(0, len(some), batch)]
        out[f"batch {batch}"] = compare(
            given.rounds,
            len(some),
            lambda parts=parts: [ours.search(part, given.k) for part in parts],
            lambda parts=parts: [theirs.search(part, given.k) for part in parts],
        )
    text = json.dumps(out, indent=1, default=str)
    print(text)
    if given.json:
        given.json.write_text(text + "\n")


def compare(
    rounds: int, number: int, ours: Callable[[], Any], theirs: Callable[[], Any]
) -> dict[str, float]:
    """Queries a CPU second of both, by turns, and the ratio; medians."""
    taken: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(rounds):
        for name, run in (("ours", ours), ("theirs", theirs)):
            began = time.process_time()
            run()
            taken[name].append(number / (time.process_time() - began))
    found = {name: statistics.median(values) for name, values in taken.items()}
    return {**found, "ratio": found["ours"] / found["theirs"]}


if __name__ == "__main__":
    main()
