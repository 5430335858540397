"""Indexing and opening collections of growing size, against bm25s building its index alone.

    python benchmarks/indexing.py --passages 10000 30000 100000 300000 --json indexing.json
    python benchmarks/indexing.py --plot growth.svg        # needs matplotlib

The source is a JSON lines file of synthetic passages (see ``bm25.synthetic``). Ours is the whole
job in one process: reading, checking, hashing, tokenizing, building, checksums and commit. The
peer, at the smallest size, is bm25s' tokenizer and index over texts in memory, with nothing
written. Times are process CPU seconds; opening is the median wall clock of opening the newest
manifest and its lexical index in this process.
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

from bm25 import build_peer, synthetic, timed

from rag import Collection
from rag.indexers import Lexical

KIND = Lexical(stemmer="none", stopwords="none")


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


def opening(path: Path, rounds: int = 15) -> float:
    """Median seconds to open a collection and its index."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        Collection.open(path).snapshot().index("lexical")
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measured(folder: Path, rows: list[dict[str, Any]], segment_rows: int) -> dict[str, Any]:
    """One size: the job, what it wrote, and what opening costs."""
    source = written(folder, rows)
    path = folder / f"c{len(rows)}"

    def job() -> None:
        Collection.build(source, path, indexes={"lexical": KIND}, segment_rows=segment_rows)

    seconds, _ = timed(job)
    source.unlink()
    return {
        "passages": len(rows),
        "cpu_s": round(seconds, 2),
        "passages_per_s": round(len(rows) / seconds),
        "index_bytes": size(path / "indexes"),
        "segment_bytes": size(path / "segments"),
        "opening_ms": round(1000 * opening(path), 3),
    }


def run(args: argparse.Namespace) -> dict[str, Any]:
    """All sizes, and the peer at the smallest."""
    sizes = sorted(args.passages)
    rows, _ = synthetic(sizes[-1], 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measured(folder, rows[:100], args.segment_rows)  # compile outside the measured time
        found = [measured(folder, rows[:n], args.segment_rows) for n in sizes]
    texts = [row["text"] for row in rows[: sizes[0]]]
    seconds, _ = timed(lambda: build_peer(texts, {"stopwords": None}))
    peer = len(texts) / seconds
    return {
        "sizes": found,
        "bm25s_passages_per_s": round(peer),
        "speed_ratio": round(found[0]["passages_per_s"] / peer, 2),
        "opening_ratio": round(found[-1]["opening_ms"] / found[0]["opening_ms"], 2),
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
    }


def plot(figures: dict[str, Any], path: Path) -> None:
    """Time and bytes against the number of passages, on logarithmic axes."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    passages = [row["passages"] for row in figures["sizes"]]
    canvas, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    left.loglog(passages, [row["cpu_s"] for row in figures["sizes"]], marker="o")
    left.set(xlabel="passages", ylabel="CPU seconds of `rag index`")
    for key, label in (("segment_bytes", "segments"), ("index_bytes", "lexical index")):
        right.loglog(
            passages, [row[key] / 1e6 for row in figures["sizes"]], marker="o", label=label
        )
    right.set(xlabel="passages", ylabel="MB on disk")
    right.legend()
    canvas.savefig(path)


def main() -> None:
    """Read the arguments, run, print, and write the figures."""
    parser = argparse.ArgumentParser(description="indexing and opening, see the file's docstring")
    parser.add_argument("--passages", type=int, nargs="+", default=[10_000, 30_000, 100_000])
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
