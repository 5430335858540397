"""BM25 against bm25s: the same texts, tokens, k1 and b, in one process, by turns.

    python benchmarks/bm25.py --passages 200000 --json benchmarks/results/bm25.json
    python benchmarks/bm25.py --corpus corpus.jsonl.gz --queries queries.jsonl

Times are process CPU seconds on one thread, the median of the rounds. bm25s gets its queries as
token ids made beforehand; ours are tokenized inside the measured time. The two must agree on the
scores, or the run fails. Needs bm25s (the extra ``test``).
"""

from __future__ import annotations

import argparse
import gzip
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import pyarrow as pa
import Stemmer

from rag.indexers import Lexical

K1, B = 0.9, 0.4
PARTITION = 10_000
Row = dict[str, Any]


def synthetic(passages: int, queries: int, seed: int = 7) -> tuple[list[Row], list[str]]:
    """Passages of Zipf-distributed words, about 105 each, and queries of 6 words in a row.

    Word number r comes with a probability in proportion to 1 / (r + 2.7), as in English; half of
    the passages repeat their rarer words, as texts on a subject do.
    """
    rng = np.random.default_rng(seed)
    words = 400_000
    chance = 1 / (np.arange(words) + 2.7)
    edges = np.cumsum(chance / chance.sum())
    names = np.array([f"w{number:x}" for number in range(words)], object)
    texts = []
    for _ in range(passages + queries):
        draw = np.searchsorted(edges, rng.random(rng.integers(30, 180)))
        again = draw[rng.integers(0, len(draw), len(draw) // 8)]
        draw[rng.integers(0, len(draw), len(again))] = again
        texts.append(names[np.minimum(draw, words - 1)])
    starts = [rng.integers(0, len(text) - 6) for text in texts[passages:]]
    asked = [" ".join(t[s : s + 6]) for t, s in zip(texts[passages:], starts, strict=True)]
    return [{"title": "", "text": " ".join(text)} for text in texts[:passages]], asked


def lines(path: Path) -> Iterator[Row]:
    """The objects of a JSON lines file, gzipped or not."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        yield from map(json.loads, file)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Process CPU seconds of ``work`` and what it returns."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def build_ours(kind: Lexical, rows: list[Row], folder: Path) -> Path:
    """The index of ``rows``, built in partitions and merged, as a collection does it."""
    parts = []
    for start in range(0, len(rows), PARTITION):
        chunk = rows[start : start + PARTITION]
        columns = {name: [row.get(name) or "" for row in chunk] for name in ("title", "text")}
        types = pa.schema([(name, pa.large_string()) for name in columns])
        parts.append(folder / f"part-{len(parts)}")
        parts[-1].mkdir()
        kind.build(pa.table(columns, schema=types), parts[-1])
    merged = folder / "merged"
    merged.mkdir()
    kind.merge(parts, [None] * len(parts), merged)
    return merged


def build_peer(texts: list[str], options: dict[str, Any]) -> bm25s.BM25:
    """bm25s over the same texts."""
    tokens = bm25s.tokenize(texts, show_progress=False, **options)
    peer = bm25s.BM25(method="lucene", k1=K1, b=B, backend="numba")
    peer.index(tokens, show_progress=False)
    return peer


def size(folder: Path) -> int:
    """Bytes of the files in ``folder``."""
    return sum(file.stat().st_size for file in folder.iterdir())


def agree(ours: tuple[Any, Any, Any], peer: Any) -> float:
    """The largest relative difference of the scores, rank by rank; fails beyond 1e-5."""
    offsets, _, scores = ours
    worst = 0.0
    for q, theirs in enumerate(peer):
        mine = scores[offsets[q] : offsets[q + 1]]
        if not (theirs[len(mine) :] == 0).all():
            raise SystemExit(f"query {q}: bm25s has more hits")
        if len(mine):
            worst = max(worst, float((abs(mine - theirs[: len(mine)]) / mine).max()))
    if worst > 1e-5:
        raise SystemExit(f"scores differ by {worst:.2g}")
    return worst


def compare(index: Any, peer: Any, texts: list[str], ids: list[Any], k: int, rounds: int) -> Row:
    """Queries per CPU second of both, batch and one at a time, by turns."""

    def ask_peer(queries: list[Any]) -> Any:
        return peer.retrieve(queries, k=k, show_progress=False, n_threads=1)

    singles = min(len(texts), 300)
    ways: dict[str, tuple[int, Callable[[], Any]]] = {
        "ours_batch": (len(texts), lambda: index.search(texts, k, k1=K1, b=B)),
        "peer_batch": (len(texts), lambda: ask_peer(ids)),
        "ours_single": (
            singles,
            lambda: [index.search([t], k, k1=K1, b=B) for t in texts[:singles]],
        ),
        "peer_single": (singles, lambda: [ask_peer([i]) for i in ids[:singles]]),
    }
    worst = agree(ways["ours_batch"][1](), ways["peer_batch"][1]().scores)  # and warms up
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, (_, work) in ways.items():
            times[name].append(timed(work)[0])
    out: Row = {"k": k, "score_difference": worst}
    for name, (count, _) in ways.items():
        out[f"{name}_per_s"] = round(count / statistics.median(times[name]))
    for way in ("batch", "single"):
        out[f"{way}_ratio"] = round(out[f"ours_{way}_per_s"] / out[f"peer_{way}_per_s"], 2)
    return out


def run(args: argparse.Namespace) -> Row:
    """Build both, compare them, and return the figures."""
    if args.corpus:
        rows = list(lines(args.corpus))
        queries = [row["text"] for row in lines(args.queries)]
        kind, options = Lexical(), {"stopwords": "en", "stemmer": Stemmer.Stemmer("porter")}
    else:
        rows, queries = synthetic(args.passages, args.count)
        kind, options = Lexical(stemmer="none", stopwords="none"), {"stopwords": None}
    texts = [f"{row['title']} {row['text']}" if row.get("title") else row["text"] for row in rows]
    ids = bm25s.tokenize(queries, show_progress=False, return_ids=False, **options)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        warm = folder / "warm"
        warm.mkdir()
        build_ours(kind, rows[:10], warm)  # compile outside the measured time
        (folder / "ours").mkdir()
        seconds, built = timed(lambda: build_ours(kind, rows, folder / "ours"))
        peer_seconds, peer = timed(lambda: build_peer(texts, options))
        peer.save(str(folder / "peer"))
        index = kind.open([built])
        postings = json.loads((built / "index.json").read_text())["postings"]
        out: Row = {
            "passages": len(rows),
            "queries": len(queries),
            "postings": postings,
            "ours_build_s": round(seconds, 2),
            "peer_build_s": round(peer_seconds, 2),
            "ours_bytes": size(built),
            "peer_bytes": size(folder / "peer"),
            "ours_bytes_per_posting": round(size(built) / max(postings, 1), 2),
            "bm25s": bm25s.__version__,
            "machine": f"{platform.machine()}, Python {platform.python_version()}",
        }
        lookup = [[peer.vocab_dict[t] for t in tokens if t in peer.vocab_dict] for tokens in ids]
        usable = [i for i, tokens in enumerate(lookup) if tokens]
        texts, ids = [queries[i] for i in usable], [lookup[i] for i in usable]
        out["search"] = [
            compare(index, peer, texts, ids, min(k, len(rows)), args.rounds) for k in args.k
        ]
    return out


def main() -> None:
    """Read the arguments, run, print and write the figures."""
    parser = argparse.ArgumentParser(description="BM25 against bm25s, see the file's docstring")
    parser.add_argument("--corpus", type=Path, help="JSON lines with title and text, maybe .gz")
    parser.add_argument("--queries", type=Path, help="JSON lines with text")
    parser.add_argument("--passages", type=int, default=200_000, help="synthetic passages")
    parser.add_argument("--count", type=int, default=1000, help="synthetic queries")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--k", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    if args.corpus and not args.queries:
        parser.error("--corpus needs --queries")
    text = json.dumps(run(args), indent=1) + "\n"
    sys.stdout.write(text)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(text)


if __name__ == "__main__":
    main()
