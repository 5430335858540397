"""BM25 against bm25s: the same texts, tokens, k1 and b, in one process, by turns.

    python benchmarks/bm25.py --corpus corpus/passages.jsonl --json benchmarks/results/bm25.json

The passages are those of ``corpus.py``, the queries are questions that the text asks (``texts``);
or ``--queries`` has lines of JSON with a ``text``. Times are process CPU seconds on one thread, the
median of the rounds; a ratio is the median of those of the rounds, in which the two take turns.
bm25s gets its queries as token ids made beforehand; ours are tokenized inside the measured time.
The two must agree on the scores, or the run fails. Needs bm25s (the extra ``test``).

Where tantivy can be imported, the size of its index is measured as well, of the same terms: with
frequencies, without positions, without stored text, in one segment.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import bm25s
import pyarrow as pa
import Stemmer
from texts import distinct, draw, questions

from rag.indexers import Lexical

K1, B = 0.9, 0.4
PARTITION = 10_000
Row = dict[str, Any]


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


def tantivy_bytes(texts: list[str], folder: Path, options: dict[str, Any]) -> int:
    """Bytes of tantivy's index of the terms that bm25s makes of the texts."""
    import tantivy

    tokens = bm25s.tokenize(texts, show_progress=False, **options)
    names = {number: term for term, number in tokens.vocab.items()}
    schema = tantivy.SchemaBuilder()
    schema.add_text_field("text", stored=False, tokenizer_name="whitespace", index_option="freq")
    index = tantivy.Index(schema.build(), str(folder))
    writer = index.writer(2_000_000_000, 1)  # enough memory for one segment
    for ids in tokens.ids:
        writer.add_document(tantivy.Document(text=" ".join(names[i] for i in ids)))
    writer.commit()
    writer.wait_merging_threads()
    index.reload()
    if index.searcher().num_segments != 1:
        raise SystemExit("tantivy wrote several segments")
    return size(folder)


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

    singles = min(len(texts), 500)
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
        pairs = zip(times[f"peer_{way}"], times[f"ours_{way}"], strict=True)
        out[f"{way}_ratio"] = round(statistics.median(peer / ours for peer, ours in pairs), 2)
    return out


def run(args: argparse.Namespace) -> Row:
    """Build both, compare them, and return the figures."""
    rows = draw(args.corpus, args.passages)
    if args.queries:
        queries = [json.loads(line)["text"] for line in args.queries.open()]
    else:
        queries = questions(args.corpus, args.count)
    kind, options = Lexical(), {"stopwords": "en", "stemmer": Stemmer.Stemmer("porter")}
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
            "distinct": distinct(rows),
            "queries": len(queries),
            "postings": postings,
            "ours_build_s": round(seconds, 2),
            "peer_build_s": round(peer_seconds, 2),
            "ours_bytes": size(built),
            "peer_bytes": size(folder / "peer"),
            "bytes_to_bm25s": round(size(built) / size(folder / "peer"), 3),
            "ours_bytes_per_posting": round(size(built) / max(postings, 1), 2),
            "bm25s": bm25s.__version__,
            "machine": f"{platform.machine()}, Python {platform.python_version()}",
        }
        if importlib.util.find_spec("tantivy") is not None:
            (folder / "tantivy").mkdir()
            out["tantivy"] = version("tantivy")
            out["tantivy_bytes"] = tantivy_bytes(texts, folder / "tantivy", options)
            out["bytes_to_tantivy"] = round(size(built) / out["tantivy_bytes"], 3)
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
    parser.add_argument("--corpus", type=Path, required=True, help="as corpus.py writes it")
    parser.add_argument("--queries", type=Path, help="JSON lines with text, else --count questions")
    parser.add_argument("--passages", type=int, default=200_000, help="drawn from the corpus")
    parser.add_argument("--count", type=int, default=1000, help="questions, drawn from the corpus")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--k", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    text = json.dumps(run(args), indent=1) + "\n"
    sys.stdout.write(text)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(text)


if __name__ == "__main__":
    main()
