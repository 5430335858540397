"""What it costs to search by Ray actors instead of in this process: by turns, the same queries.

    python benchmarks/spread.py --corpus corpus/passages.jsonl --json benchmarks/results/spread.json

One collection in 8 segments: BM25 over all passages (those of ``corpus.py``, asked what the text
itself asks), exact search of as many vectors of 128 dimensions (drawn at random: their values do
not change what a search costs), and n-grams of the first ``--ngrams`` passages as smollm2's
tokenizer makes them, of which one step of SEAL is measured: the best 30 next tokens behind each of
the 30 commonest, with 49,152 log-probabilities each (5.9 MB that every actor gets).

It is searched here, and by 1, 2 and 4 actors of a cluster on this machine, which share its
cores: what more machines would gain cannot be seen here, only what the way to them costs. Times are
process CPU milliseconds a call, those of the driver and those of all actors, and the wall clock of
the fastest calls (their tenth percentile; the machine may be shared). ``added`` is what the driver
and the actors take together, over what the search takes here. Results are compared, and a run in
which they differ fails. Needs Ray and the model package of smollm2.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from texts import draw, questions

from rag import Collection
from rag.collection.spread import SpreadSnapshot
from rag.encoders import load
from rag.indexers import Dense, Lexical, NGrams

DIMENSIONS, SEGMENTS, HYPOTHESES = 128, 8, 30
Figures = dict[str, Any]
Work = Callable[[Any], Any]
"""A call, given a snapshot."""


class Drawn:
    """An encoder that draws vectors."""

    kind, dimensions, similarity, name, hash = "dense", DIMENSIONS, "cosine", "drawn", "d" * 64

    def __init__(self) -> None:
        self.draw = np.random.default_rng(0)

    def encode(self, texts: Sequence[str], kind: str = "query") -> Any:
        """So many vectors."""
        return self.draw.standard_normal((len(texts), DIMENSIONS), np.float32)


def build(folder: Path, rows: list[dict[str, str]], ngrams: int) -> tuple[Collection, Collection]:
    """The collection of all rows, and that of n-grams."""
    load.load_encoder = lambda name, device="auto": Drawn()  # type: ignore[assignment]
    load.encoder_hash = lambda name: Drawn.hash  # type: ignore[assignment]
    size = -(-len(rows) // SEGMENTS)
    indexes = {"lexical": Lexical(), "dense": Dense(encoder="drawn")}
    whole, _ = Collection.build(rows, folder / "all", indexes=indexes, segment_rows=size)
    few, _ = Collection.build(
        rows[:ngrams],
        folder / "ngrams",
        indexes={"ngrams": NGrams(model="smollm2")},
        segment_rows=-(-ngrams // SEGMENTS),
    )
    return whole, few


def works(few: Collection, queries: list[str]) -> dict[str, tuple[str, int, Work]]:
    """What is measured: name to which collection, how often in a round, and the call."""
    vectors = np.random.default_rng(1).standard_normal((len(queries), DIMENSIONS), np.float32)
    index = few.snapshot().index("ngrams").index
    root = index.next_tokens(index.whole())
    commonest = root.tokens[np.argsort(-root.counts, kind="stable")[:HYPOTHESES]]
    ranges = index.find([[token] for token in commonest.tolist()])
    log_probs = np.log(
        np.random.default_rng(3).dirichlet(np.full(49_152, 0.01), HYPOTHESES).astype(np.float32)
        + np.float32(1e-30)
    )

    def lexical(some: list[str]) -> Work:
        return lambda snapshot: snapshot.index("lexical").search(some, 10)

    def dense(some: Any) -> Work:
        return lambda snapshot: snapshot.index("dense").search(some, 10)

    return {
        "bm25, one query": ("all", 20, _each([lexical([query]) for query in queries[:20]])),
        "bm25, 256 queries": ("all", 1, lexical(queries)),
        "dense, one query": ("all", 5, _each([dense(vectors[i : i + 1]) for i in range(5)])),
        "dense, 256 queries": ("all", 1, dense(vectors)),
        "seal, one step": (
            "ngrams",
            1,
            lambda snapshot: snapshot.index("ngrams").index.top_k(ranges, log_probs, 30),
        ),
    }


def _each(calls: list[Work]) -> Work:
    return lambda snapshot: [call(snapshot) for call in calls]


def cpu_of(processes: Sequence[int]) -> float:
    """Seconds of CPU that other processes of this machine have had."""
    ticks = 0
    for process in processes:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def measured(
    work: Work, calls: int, ways: dict[str, Any], processes: dict[str, list[int]], rounds: int
) -> dict[str, dict[str, float]]:
    """Milliseconds a call of each way to do ``work``, by turns."""
    expected = work(ways["here"])
    for name, snapshot in ways.items():
        if not same(work(snapshot), expected):
            raise SystemExit(f"{name}: the results differ from those here")
    driver: dict[str, list[float]] = {name: [] for name in ways}
    wall: dict[str, list[float]] = {name: [] for name in ways}
    # The clock of other processes ticks 100 times a second: all rounds together are read.
    actors = dict.fromkeys(ways, 0.0)
    for _ in range(rounds):
        for name, snapshot in ways.items():
            before = cpu_of(processes[name])
            start, clock = time.process_time(), time.perf_counter()
            work(snapshot)
            driver[name].append(time.process_time() - start)
            wall[name].append(time.perf_counter() - clock)
            actors[name] += cpu_of(processes[name]) - before
    here = statistics.median(driver["here"])
    found = {}
    for name in ways:
        own, theirs = statistics.median(driver[name]), actors[name] / rounds
        found[name] = {
            "driver_cpu_ms": round(1e3 * own / calls, 3),
            "actors_cpu_ms": round(1e3 * theirs / calls, 3),
            "added_cpu_ms": round(1e3 * (own + theirs - here) / calls, 3),
            "wall_p10_ms": round(1e3 * float(np.quantile(wall[name], 0.1)) / calls, 3),
        }
    return found


def same(found: Any, expected: Any) -> bool:
    """Whether two results are equal, array by array."""
    if isinstance(expected, tuple | list):
        return all(same(a, b) for a, b in zip(found, expected, strict=True))
    return bool(np.array_equal(found, expected))


def main() -> None:
    """Read the arguments, run, print and write the figures."""
    parser = argparse.ArgumentParser(description="What searching spread out costs")
    parser.add_argument("--corpus", type=Path, required=True, help="as corpus.py writes it")
    parser.add_argument("--passages", type=int, default=200_000, help="drawn from the corpus")
    parser.add_argument("--ngrams", type=int, default=20_000, help="passages with n-grams")
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--keep", type=Path, help="build here, and use what lies here already")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    rows = draw(args.corpus, args.passages)
    for number, row in enumerate(rows):
        row["id"] = str(number)
    queries = questions(args.corpus, 256)
    figures: Figures = {
        "passages": args.passages,
        "passages_ngrams": args.ngrams,
        "segments": SEGMENTS,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, Python "
        f"{platform.python_version()}, ray {version('ray')}",
        "search": [],
    }
    with tempfile.TemporaryDirectory() as name:
        whole, few = build(args.keep or Path(name), rows, args.ngrams)
        opened: dict[str, list[SpreadSnapshot]] = {}
        try:
            for shards in args.shards:
                opened[f"{shards}"] = [each.spread(shards=shards) for each in (whole, few)]
            for what, (which, calls, work) in works(few, queries).items():
                at = ("all", "ngrams").index(which)
                ways = {"here": (whole, few)[at].snapshot()}
                ways |= {shards: pair[at] for shards, pair in opened.items()}
                processes: dict[str, list[int]] = {"here": []}
                for shards, pair in opened.items():
                    actors: Any = pair[at].shards
                    processes[shards] = [process for _, process in actors.processes()]
                found = measured(work, calls, ways, processes, args.rounds)
                figures["search"] += [
                    {"what": what, "shards": shards, **row} for shards, row in found.items()
                ]
        finally:
            for pair in opened.values():
                for snapshot in pair:
                    snapshot.close()
    text = json.dumps(figures, indent=1) + "\n"
    sys.stdout.write(text)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(text)


if __name__ == "__main__":
    main()
