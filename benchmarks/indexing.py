"""Indexing and opening collections of growing size, against bm25s building its index alone.

    python benchmarks/indexing.py --corpus corpus/passages.jsonl --json indexing.json
    python benchmarks/indexing.py --corpus corpus/passages.jsonl --plot growth.svg  # matplotlib

The source is a JSON lines file of passages of ``corpus.py``, evenly spread over it for each size;
where it has fewer, they are gone through again (``distinct`` counts those that differ). Ours is the
whole job in one process: reading, checking, hashing, tokenizing, building, checksums and commit.
The peer is bm25s' tokenizer and index over the same texts in memory, with nothing written; it runs
at every size up to ``--peer``. Times are process CPU seconds. Opening is that of the newest
manifest and its lexical index, every size in turn, median of the rounds, all in this process.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import Stemmer
from bm25 import build_peer, timed
from texts import distinct, draw

from rag import Collection
from rag.indexers import Lexical

KIND = Lexical()
PEER = {"stopwords": "en", "stemmer": Stemmer.Stemmer("porter")}  # what KIND does


def written(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """The rows as a JSON lines file."""
    path = folder / f"{len(rows)}.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number, row in enumerate(rows):
            file.write(json.dumps({"id": f"p{number}", **row}) + "\n")
    return path


def size(folder: Path) -> int:
    """Bytes of all files below ``folder``."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def opening(paths: list[Path], rounds: int = 101) -> list[dict[str, float]]:
    """Median milliseconds to open each collection and its index, wall clock and CPU, by turns."""
    wall: list[list[float]] = [[] for _ in paths]
    cpu: list[list[float]] = [[] for _ in paths]
    for _ in range(rounds):
        for number, path in enumerate(paths):
            start, busy = time.perf_counter(), time.process_time()
            Collection.open(path).snapshot().index("lexical")
            cpu[number].append(time.process_time() - busy)
            wall[number].append(time.perf_counter() - start)
    return [
        {
            "opening_ms": round(1000 * statistics.median(wall[number]), 3),
            "opening_cpu_ms": round(1000 * statistics.median(cpu[number]), 3),
        }
        for number in range(len(paths))
    ]


def measured(folder: Path, rows: list[dict[str, Any]], args: argparse.Namespace) -> dict[str, Any]:
    """One size: the job, what it wrote, and the peer."""
    source = written(folder, rows)
    path = folder / f"c{len(rows)}"

    def job() -> None:
        Collection.build(source, path, indexes={"lexical": KIND}, segment_rows=args.segment_rows)

    seconds, _ = timed(job)
    source.unlink()
    out = {
        "passages": len(rows),
        "distinct": distinct(rows),
        "cpu_s": round(seconds, 2),
        "passages_per_s": round(len(rows) / seconds),
        "index_bytes": size(path / "indexes"),
        "segment_bytes": size(path / "segments"),
    }
    if len(rows) <= args.peer:
        texts = [f"{row['title']} {row['text']}" for row in rows]
        peer_seconds, _ = timed(lambda: build_peer(texts, PEER))
        out["bm25s_cpu_s"] = round(peer_seconds, 2)
        out["speed_ratio"] = round(peer_seconds / seconds, 2)
    return out


def run(args: argparse.Namespace) -> dict[str, Any]:
    """All sizes, one after another."""
    sizes = sorted(args.passages)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measured(folder, draw(args.corpus, 100), args)  # compile outside the measured time
        found = [measured(folder, draw(args.corpus, n), args) for n in sizes]
        opened = opening([folder / f"c{n}" for n in sizes])
    for row, more in zip(found, opened, strict=True):
        row |= more
        for key in ("opening_ms", "opening_cpu_ms"):
            row[f"{key.removesuffix('_ms')}_ratio"] = round(row[key] / found[0][key], 2)
    return {
        "sizes": found,
        "segment_rows": args.segment_rows,
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
    }


def plot(figures: dict[str, Any], path: Path) -> None:
    """Time and bytes against the number of passages, on logarithmic axes."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    sizes = figures["sizes"]
    passages = [row["passages"] for row in sizes]
    pyplot.rcParams["svg.hashsalt"] = "growth"  # the same figures, the same file
    canvas, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    left.loglog(passages, [row["cpu_s"] for row in sizes], marker="o", label="whole job, ours")
    peer = [row for row in sizes if "bm25s_cpu_s" in row]
    left.loglog(
        [row["passages"] for row in peer],
        [row["bm25s_cpu_s"] for row in peer],
        marker="s",
        label="bm25s, index only",
    )
    left.set(xlabel="passages", ylabel="CPU seconds", title="Time to index")
    for key, label in (("segment_bytes", "passages"), ("index_bytes", "lexical index")):
        right.loglog(passages, [row[key] / 1e6 for row in sizes], marker="o", label=label)
    right.set(xlabel="passages", ylabel="MB", title="Bytes on disk")
    for axes in (left, right):
        axes.grid(True, which="major", alpha=0.3)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:,.0f}")
        axes.legend()
    canvas.savefig(path, metadata={"Date": None})


def main() -> None:
    """Read the arguments, run, print, and write the figures."""
    parser = argparse.ArgumentParser(description="indexing and opening, see the file's docstring")
    sizes = [10_000, 30_000, 100_000, 200_000, 500_000, 1_000_000]
    parser.add_argument("--corpus", type=Path, required=True, help="as corpus.py writes it")
    parser.add_argument("--passages", type=int, nargs="+", default=sizes)
    parser.add_argument("--peer", type=int, default=200_000, help="the most that bm25s indexes")
    parser.add_argument("--segment-rows", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--plot", type=Path, help="draw them here (.svg)")
    args = parser.parse_args()
    figures = run(args)
    text = json.dumps(figures, indent=1) + "\n"
    sys.stdout.write(text)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(text)
    if args.plot:
        plot(figures, args.plot)


if __name__ == "__main__":
    main()
