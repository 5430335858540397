"""What Ray adds to a job: CPU seconds of the whole process tree, against one process.

    python benchmarks/ray_jobs.py --corpus corpus/passages.jsonl --json ray_jobs.json

A job is run here, in this process, and on the actors of a Ray cluster of its own (``--ray local``,
``--workers``), over the same source, at two sizes. Costs are CPU seconds: of this process, and of
all processes of the cluster (from ``/proc``). ``start`` is what the cluster costs before the job
begins. What workers cost until they have imported everything is in both sizes, so it is not in the
difference between them: ``ratio`` is the difference on Ray by that in one process, and ``whole``
the ratio of the larger job, workers' start included. What both make is compared byte by byte.

The cheap job builds a lexical index; the dear one encodes passages by a model of sentence-
transformers (``minilm``) with one thread. ``again`` is a run with nothing to do, with ``--ray
local`` too, for few and for many partitions; no cluster is started for it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from texts import draw

from rag import Collection
from rag.indexers import Dense, Lexical
from rag.ray_cluster import connect
from rag.ray_keeper import _processes

TICKS = os.sysconf("SC_CLK_TCK")


def written(folder: Path, rows: Sequence[dict[str, Any]], name: str) -> Path:
    """The rows as a JSON lines file."""
    path = folder / f"{name}.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number, row in enumerate(rows):
            file.write(json.dumps({"id": f"p{number}", **row}) + "\n")
    return path


class Meter(threading.Thread):
    """CPU seconds of this process and of all processes of the cluster in ``folder``.

    Ray's daemon leaves no account of workers that have ended, so they are looked at ten times a
    second; what the looking itself costs is left out.
    """

    def __init__(self, folder: str) -> None:
        super().__init__(daemon=True)
        self._folder, self._costs, self._own = folder, dict[int, float](), 0.0
        self._done = threading.Event()
        self.start()

    def run(self) -> None:
        """Look again and again."""
        rounds = 0
        while not self._done.wait(0.1):
            if rounds % 5 == 0:
                for pid in set(_processes(self._folder)) - {os.getpid()}:
                    self._costs.setdefault(pid, 0.0)
            rounds += 1
            self._look()
            self._own = time.thread_time()

    def _look(self) -> None:
        for pid in self._costs:
            with contextlib.suppress(OSError):
                stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                self._costs[pid] = sum(map(int, stat[11:13])) / TICKS

    def read(self) -> float:
        """What it has come to."""
        time.sleep(0.7)
        return time.process_time() - self._own + sum(self._costs.values())

    def close(self) -> None:
        """Look no more."""
        self._done.set()
        self.join()


def trees(path: Path) -> dict[str, bytes]:
    """The bytes of a collection's files."""
    parts = ("segments", "indexes", "vectors")
    files = [file for part in parts for file in sorted((path / part).rglob("*"))]
    return {str(f.relative_to(path)): f.read_bytes() for f in files if f.is_file()}


def compare(
    folder: Path,
    sources: Sequence[Path],
    kinds: Callable[[], dict[str, Any]],
    rows: int,
    workers: int,
) -> dict[str, Any]:
    """The costs of building each source here and on Ray."""
    here: list[float] = []
    there: list[float] = []
    options = {"indexes": kinds(), "segment_rows": rows}
    for source in sources:
        began = time.process_time()
        Collection.build(source, folder / f"here-{source.stem}", **options)
        here.append(time.process_time() - began)
    began = time.process_time()
    with connect("local", cpus=workers) as ray:
        home = os.path.dirname(ray._private.worker._global_node.get_session_dir_path())
        meter = Meter(home)
        start = meter.read() - began
        for source in sources:
            began = meter.read()
            Collection.build(
                source, folder / f"ray-{source.stem}", ray="local", workers=workers, **options
            )
            there.append(meter.read() - began)
        meter.close()
    same = all(
        trees(folder / f"ray-{source.stem}") == trees(folder / f"here-{source.stem}")
        for source in sources
    )
    return {
        "workers": workers,
        "one_process_cpu_s": [round(cost, 2) for cost in here],
        "ray_cpu_s": [round(cost, 2) for cost in there],
        "start_cpu_s": round(start, 2),
        "ratio": round((there[1] - there[0]) / (here[1] - here[0]), 2),
        "whole": round(there[1] / here[1], 2),
        "same_bytes": same,
    }


def again(folder: Path, sources: Sequence[Path], rows: int, rounds: int = 15) -> dict[str, Any]:
    """Milliseconds of CPU of a run with nothing to do, for each source."""
    found: list[float] = []
    partitions: list[int] = []
    for source in sources:
        path = folder / f"again-{source.stem}"
        options: dict[str, Any] = {"indexes": {"lexical": Lexical()}, "segment_rows": rows}
        built, _ = Collection.build(source, path, **options)
        partitions.append(sum(len(s.covers) for s in built.snapshot().manifest.segments))
        costs = []
        for _ in range(rounds):
            began = time.process_time()
            done = Collection.build(source, path, ray="local", **options)[1]
            costs.append(1000 * (time.process_time() - began))
            assert done.unchanged
        found.append(statistics.median(costs))
    return {
        "partitions": partitions,
        "cpu_ms": [round(cost, 2) for cost in found],
        "ms_a_partition": round((found[1] - found[0]) / (partitions[1] - partitions[0]), 3),
    }


def main() -> None:
    """Run all of it, or what ``--only`` names."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--corpus", type=Path, required=True, help="passages of corpus.py")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--only", choices=("lexical", "dense", "again"))
    parser.add_argument("--workers", type=int, default=2, help="on Ray")
    asked = parser.parse_args()
    figures: dict[str, Any] = {}
    if asked.json is not None and asked.json.exists():
        figures = json.loads(asked.json.read_text())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if asked.only in (None, "lexical"):
            sizes = (20_000, 220_000)
            rows = draw(asked.corpus, sizes[1])
            sources = [written(folder, rows[:n], f"lexical{n}") for n in sizes]
            del rows
            warm = {"lexical": Lexical()}
            Collection.build(sources[0], folder / "warm", indexes=warm)  # compiles, if need be
            figures["lexical"] = {
                "passages": sizes,
                **compare(
                    folder, sources, lambda: {"lexical": Lexical()}, 1_000_000, asked.workers
                ),
            }
        if asked.only in (None, "dense"):
            sizes = (200, 1_000)
            rows = draw(asked.corpus, sizes[1])
            sources = [written(folder, rows[:n], f"dense{n}") for n in sizes]
            figures["dense"] = {
                "passages": sizes,
                **compare(
                    folder, sources, lambda: {"dense": Dense(encoder="minilm")}, 100, asked.workers
                ),
            }
        if asked.only in (None, "again"):
            sizes = (2_000, 50_000)
            rows = draw(asked.corpus, sizes[1])
            sources = [written(folder, rows[:n], f"again{n}") for n in sizes]
            figures["again"] = again(folder, sources, 100)
    figures["versions"] = {
        "python": platform.python_version(),
        "system": platform.platform(),
        "ray": version("ray"),
    }
    text = json.dumps(figures, indent=1) + "\n"
    print(text, end="")
    if asked.json is not None:
        asked.json.write_text(text)


if __name__ == "__main__":
    main()
