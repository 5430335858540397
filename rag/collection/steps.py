"""The steps of a job by name: what ``resources:`` of an index file speaks of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rag.collection import build, compaction, training
from rag.collection.writing import Job
from rag.errors import InvalidInput
from rag.jobs import Resources, TasksLost

STEPS = {
    "index": (build.build_piece,),
    "merge": (build.build_segment, compaction.build_compacted),
    "train": (training.train,),
    "build": (build.build_index,),
}
"""Step to what does it: partitions (text indexes and vectors), segments (suffix arrays), what an
index learns (FAISS), indexes over vectors (FAISS)."""


def by_work(resources: Mapping[str, Resources]) -> dict[str, Resources]:
    """The resources by the name of the function that a step calls.

    Raises:
        InvalidInput: there is no such step.
    """
    for step in resources:
        if step not in STEPS:
            raise InvalidInput(f"resources: no step {step!r}; there are: {', '.join(STEPS)}")
    return {work.__name__: needs for step, needs in resources.items() for work in STEPS[step]}


@contextmanager
def running(job: Job) -> Iterator[None]:
    """Give back the executor of a job at its end, and say of lost tasks what that means."""
    try:
        yield
    except TasksLost as error:
        error.add_note(
            "nothing was committed, and all else is kept: without these passages, or on workers "
            "with more memory, the same command goes on from there"
        )
        raise
    finally:
        job.executor.close()
