"""The steps of a job by name: what ``resources:`` of an index file speaks of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rag.collection import build, compaction, training
from rag.collection.writing import Job
from rag.errors import InvalidInput
from rag.jobs import Resources, TasksLost
from rag.jobs_pool import Pool

STEPS = {
    "index": (build.build_piece,),
    "merge": (build.build_segment, compaction.build_compacted),
    "train": (training.train,),
    "build": (build.build_index,),
}
"""Step to what does it: partitions (text indexes and vectors), segments (suffix arrays), what an
index learns (FAISS), indexes over vectors (FAISS)."""


NARROWED = 3
"""In how many lost partitions the passage is looked for; each costs a worker for each halving."""


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
        for note in _culprits(error, job):
            error.add_note(note)
        error.add_note(
            "nothing was committed, and all else is kept: without these passages, or on workers "
            "with more memory, the same command goes on from there"
        )
        raise
    finally:
        job.executor.close()


def _culprits(error: TasksLost, job: Job) -> Iterator[str]:
    """Which passage of a lost partition ends its worker by itself, by halving the partition."""
    pool = job.executor
    if error.gave_up or not isinstance(pool, Pool):
        return
    pool.tries = 1
    for lost in error.lost[:NARROWED]:
        task = lost.task
        if not isinstance(task, build.PieceTask):
            continue
        start, stop = 0, task.piece.rows
        while stop - start > 1:
            half = (start + stop) // 2
            trials = [
                build.ProbeTask(task.collection, task.piece, task.indexes, *rows)
                for rows in ((start, half), (half, stop))
            ]
            try:
                for _ in pool.map(build.probe_piece, trials):
                    pass
            except TasksLost as again:
                bad = again.lost[0].task
                start, stop = bad.start, bad.stop
            else:
                break
        if stop - start == 1:
            name = task.piece.read()["id"][start].as_py()
            yield f"passage {name!r} ends its worker by itself"
