"""The cost of the frame: five stages that only pass documents on.

    python benchmarks/pipeline.py --json benchmarks/results/pipeline.json

100 questions with 100 documents each run through ``Pipeline.run``, and through a plain loop that
calls the same five steps on the same batch. Each stage writes the documents back (``pass_on``), as
a component of Haystack returns them, or returns the batch as it is (``nothing``), where all that is
measured is the frame. Where Haystack can be imported, five components that return their documents
run, one question after another, as its pipelines do. Times are process CPU seconds of one call for
all questions, the median of rounds by turns in one process.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rag import Batch, Columns, Context, Pipeline, Run, Stage
from rag.ranking import Ranking
from rag.stage import Step
from rag.testing import MemorySnapshot

STAGES = 5


class PassOn(Stage):
    """Writes the documents that it reads."""

    def columns(self, have: Columns) -> Columns:
        """Nothing is checked: the documents come with the batch."""
        return have

    def open(self, context: Context) -> Step:
        """A step that puts the documents back."""
        return lambda batch, run: batch.put(documents=batch["documents"])


class Nothing(PassOn):
    """Returns its batch."""

    def open(self, context: Context) -> Step:
        """A step that does nothing."""
        return lambda batch, run: batch


def ours(stage: Stage, batch: Batch) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """The pipeline of five such stages, and the loop over their steps."""
    pipeline = Pipeline([stage] * STAGES)
    steps = [stage.open(Context()) for _ in range(STAGES)]

    def loop() -> Batch:
        after, run = batch, Run()
        for step in steps:
            after = step(after, run)
        return after

    if pipeline.run(batch)["documents"] != loop()["documents"]:
        raise SystemExit("the pipeline and the loop give different documents")
    return lambda: pipeline.run(batch), loop


def haystack(questions: int, documents: int) -> Callable[[], Any]:
    """Five components of Haystack that return their documents, once for each question."""
    from haystack import Document, component
    from haystack import Pipeline as Peer

    class Passes:
        def run(self, documents: list[Document]) -> dict[str, Any]:
            return {"documents": documents}

    Passes.run.__annotations__.update(documents=list[Document])
    made = component(Passes)
    made.run = component.output_types(documents=list[Document])(made.run)
    peer = Peer()
    for number in range(STAGES):
        peer.add_component(f"c{number}", made())
        if number:
            peer.connect(f"c{number - 1}.documents", f"c{number}.documents")
    rows = [
        Document(content=f"the text of passage {n} " * 20, meta={"title": f"title {n}", "n": n})
        for n in range(documents)
    ]

    def run() -> None:
        for _ in range(questions):
            peer.run({"c0": {"documents": rows}})

    return run


def seconds(work: Callable[[], Any], calls: int) -> float:
    """Process CPU seconds of one call, the mean of ``calls``."""
    start = time.process_time()
    for _ in range(calls):
        work()
    return (time.process_time() - start) / calls


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """All ways by turns, and their ratios."""
    texts = [{"text": f"the text of passage {n} " * 20} for n in range(args.documents)]
    rows = [[(n, float(-n)) for n in range(args.documents)]] * args.questions
    batch = Batch.of([f"question {n}" for n in range(args.questions)])
    batch = batch.put(documents=Ranking.of(rows, MemorySnapshot(texts)))
    ways: dict[str, tuple[Callable[[], Any], int]] = {}
    for name, stage in {"pass_on": PassOn(), "nothing": Nothing()}.items():
        pipeline, loop = ours(stage, batch)
        ways |= {f"{name}_pipeline": (pipeline, 2000), f"{name}_loop": (loop, 2000)}
    with_peer = importlib.util.find_spec("haystack") is not None
    if with_peer:
        ways["haystack"] = (haystack(args.questions, args.documents), 1)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.rounds):
        for name, (work, calls) in ways.items():
            times[name].append(seconds(work, calls))
    us = {name: statistics.median(values) * 1e6 for name, values in times.items()}
    out: dict[str, Any] = {
        "questions": args.questions,
        "documents": args.documents,
        "microseconds": {name: round(value, 2) for name, value in us.items()},
        "pass_on_ratio": round(us["pass_on_pipeline"] / us["pass_on_loop"], 2),
        "nothing_ratio": round(us["nothing_pipeline"] / us["nothing_loop"], 2),
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
    }
    if with_peer:
        from haystack import __version__

        out["haystack"] = __version__
        out["haystack_ratio"] = round(us["haystack"] / us["pass_on_pipeline"])
    return out


def main() -> None:
    """Read the arguments, run, print and write the figures."""
    parser = argparse.ArgumentParser(description="five pass-through stages, see the docstring")
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--documents", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    text = json.dumps(measured(args), indent=1) + "\n"
    sys.stdout.write(text)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(text)


if __name__ == "__main__":
    main()
