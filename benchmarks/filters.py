"""What a filter costs a BM25 search: the same queries with and without one, by turns.

    python benchmarks/filters.py --corpus corpus/passages.jsonl --json filters.json

The passages are those of ``corpus.py``, the queries are questions that the text asks (``texts``).
Filters pass 50%, 5% and 0.5% of the rows, drawn at random, or in one piece (``contiguous``: as
fields do that follow the order of the source, such as a year). Times are process CPU seconds on
one thread, the median of the rounds; a ratio is filtered over unfiltered, so lower is better. Each
filtered search is also compared with the unfiltered one, cut down to the kept rows.
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
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from texts import distinct, draw, questions

from rag.indexers import Lexical

SHARES = (0.5, 0.05, 0.005)
Figures = dict[str, Any]


def masks(rows: int, seed: int = 3) -> dict[str, NDArray[np.bool_]]:
    """The filters, by name."""
    rng = np.random.default_rng(seed)
    made = {}
    for share in SHARES:
        made[f"random {share:.1%}"] = rng.random(rows) < share
        piece = np.zeros(rows, np.bool_)
        first = rows // 3
        piece[first : first + int(rows * share)] = True
        made[f"contiguous {share:.1%}"] = piece
    for mask in made.values():
        mask.flags.writeable = False  # as a snapshot's are
    return made


def check(index: Any, queries: list[str], k: int, keep: NDArray[np.bool_], everything: Any) -> None:
    """Fail unless the filtered search is the unfiltered one without the other rows."""
    offsets, rows, scores = index.search(queries, k, keep=keep)
    all_offsets, all_rows, all_scores = everything
    for q in range(len(queries)):
        part = slice(all_offsets[q], all_offsets[q + 1])
        kept = keep[all_rows[part]]
        mine = slice(offsets[q], offsets[q + 1])
        same = np.array_equal(rows[mine], all_rows[part][kept][:k]) and np.array_equal(
            scores[mine], all_scores[part][kept][:k]
        )
        if not same:
            raise SystemExit(f"query {q}: the filtered search differs from the filtered hits")


def compare(index: Any, queries: list[str], k: int, rounds: int) -> list[Figures]:
    """Seconds of each filter over those without one, for single queries and for a batch."""
    filters = masks(index.rows)
    everything = index.search(queries[:20], index.rows)
    for keep in filters.values():
        check(index, queries[:20], k, keep, everything)
    singles = queries[:200]
    ways: dict[tuple[str, str], Callable[[], Any]] = {}
    for name, keep in {"none": None, **filters}.items():
        ways[name, "batch"] = lambda keep=keep: index.search(queries, k, keep=keep)
        ways[name, "single"] = lambda keep=keep: [
            index.search([query], k, keep=keep) for query in singles
        ]
    times: dict[tuple[str, str], list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, work in ways.items():
            start = time.process_time()
            work()
            times[way].append(time.process_time() - start)
    middle = {way: statistics.median(values) for way, values in times.items()}
    return [
        {
            "k": k,
            "filter": name,
            "batch_ratio": round(middle[name, "batch"] / middle["none", "batch"], 2),
            "single_ratio": round(middle[name, "single"] / middle["none", "single"], 2),
            "batch_per_s": round(len(queries) / middle[name, "batch"]),
            "single_per_s": round(len(singles) / middle[name, "single"]),
        }
        for name in ("none", *filters)
    ]


def main() -> None:
    """Read the arguments, run, print and write the figures."""
    parser = argparse.ArgumentParser(description="What filters cost, see the file's docstring")
    parser.add_argument("--corpus", type=Path, required=True, help="as corpus.py writes it")
    parser.add_argument("--passages", type=int, default=200_000, help="drawn from the corpus")
    parser.add_argument("--count", type=int, default=500, help="questions, drawn from the corpus")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--k", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    rows, queries = draw(args.corpus, args.passages), questions(args.corpus, args.count)
    kind = Lexical()
    with tempfile.TemporaryDirectory() as name:
        columns = {column: [row[column] for row in rows] for column in ("title", "text")}
        schema = pa.schema([(column, pa.large_string()) for column in columns])
        kind.build(pa.table(columns, schema=schema), Path(name))
        index = kind.open([Path(name)])
        figures: Figures = {
            "passages": args.passages,
            "distinct": distinct(rows),
            "queries": args.count,
            "machine": f"{platform.machine()}, Python {platform.python_version()}",
            "search": [row for k in args.k for row in compare(index, queries, k, args.rounds)],
        }
    text = json.dumps(figures, indent=1) + "\n"
    sys.stdout.write(text)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(text)


if __name__ == "__main__":
    main()
