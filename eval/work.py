"""Measuring on several workers: parts of a dataset's questions, and what is kept of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from rag.errors import NotFound
from rag.eval.datasets import Dataset, load
from rag.eval.results import Results
from rag.jobs import PLAIN, Progress, TasksLost, executor, silent
from rag.pipeline import Pipeline
from rag.pipelines import run_key
from rag.pipelines.run_job import spec_of
from rag.pipelines.run_rows import PART_ROWS, Part
from rag.pipelines.run_work import Spec, worker


@dataclass(frozen=True)
class Task:
    """Ask these questions of a dataset, and keep what is measured: rankings, answers or both."""

    spec: Spec
    dataset: Path
    split: str | None
    part: Part
    ranked: bool
    answered: bool

    @property
    def label(self) -> str:
        """Which questions, by their ids."""
        ids = self.part.ids
        return f"question {ids[0]!r}" if len(ids) == 1 else f"questions {ids[0]!r} to {ids[-1]!r}"

    def check(self) -> None:
        """Raise where this machine lacks the dataset, the collection, a stage or a model."""
        if not self.dataset.is_dir():
            raise NotFound(f"{self.dataset}: no such folder; share it, or copy it to every node")
        self.spec.check()


def ask(task: Task) -> Results:
    """Do a part in a worker, which opens pipeline and dataset once."""
    results = Results(_qrels(task.dataset, task.split) if task.ranked else {}, task.answered)
    results.take(worker(task.spec).answer(task.part))
    return replace(results, qrels={})


@cache
def _qrels(dataset: Path, split: str | None) -> dict[str, dict[str, int]]:
    return load(dataset, split=split).qrels


def spread(
    data: Dataset,
    questions: Mapping[str, str],
    pipeline: Pipeline,
    *,
    ranked: bool,
    answered: bool,
    workers: int | None,
    ray: str | None,
    progress: Progress | None = None,
) -> Iterator[Results]:
    """What is kept of the questions, a part at a time, in the order in which they are done.

    A question that ends its worker each time has failed; the others of its part are asked again.
    """
    spec = spec_of(pipeline, seed=0, documents=0, texts=False, alone=False)
    if spec.collection is not None:
        spec = replace(spec, collection=spec.collection.absolute())
        spec = spec.at(pipeline.snapshot.manifest.number)
    if ray is not None:
        spec = replace(spec, models=run_key.models_of(pipeline.stages, {}))
    names = list(questions)
    parts = [names[start : start + PART_ROWS] for start in range(0, len(names), PART_ROWS)]
    path = data.path.absolute()

    def tasks(parts: list[list[str]]) -> Iterator[Task]:
        for part in parts:
            asked = Part(tuple(part), tuple(questions[name] for name in part))
            yield Task(spec, path, data.split, asked, ranked, answered)

    with closing(
        executor(workers, ray, progress or silent, {ask.__name__: pipeline.resources or PLAIN})
    ) as run:
        try:
            for _, results in run.map(ask, tasks(parts)):
                yield results
            return
        except TasksLost as error:
            if error.gave_up:
                raise
            lost = [[name] for one in error.lost for name in one.task.part.ids]
        try:
            for _, results in run.map(ask, tasks(lost)):
                yield results
        except TasksLost as error:
            if error.gave_up:
                raise
            yield from (_failed(one.task, one.why) for one in error.lost)


def _failed(task: Task, why: str) -> Results:
    """The results of questions that no worker survived."""
    results = Results({}, task.answered)
    results.failed = dict.fromkeys(task.part.ids, f"worker: it ended each time: {why}")
    results.run = {name: [] for name in task.part.ids} if task.ranked else {}
    results.answers = dict.fromkeys(task.part.ids) if task.answered else {}
    return results
