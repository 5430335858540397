"""A job maps a pure function over tasks: in this process, on several, or on a Ray cluster.

A task is small and picklable (paths, keys, settings); the work goes from file to file, and what
comes back is a small receipt. So the result is the same on any executor.

A task may have two attributes. ``label`` says in a few words what it is, for reports. ``shared`` is
a folder that every worker must see, and ``check()`` raises where a worker lacks something else
(a package, a model): Ray looks at both on every node before the first task is done there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, Field

from rag.errors import BackendFailed, InvalidInput

Task = TypeVar("Task")
Receipt = TypeVar("Receipt")

Progress = Callable[[str, int, int | None], None]
"""Called as work goes on: what is being done, how much is done, and of how much (if known).

Three names are no step of a job: ``rows`` (passages that are done), ``workers`` (at work, and at
most) and ``failures`` (workers that ended before their time).
"""

TRIES = 3
"""How often a task may end its worker before it is left out."""


def silent(what: str, done: int, total: int | None) -> None:
    """The progress of a job that nobody watches."""


class Resources(BaseModel, frozen=True, extra="forbid"):
    """What a worker of one step needs of its machine; Ray places workers by it."""

    cpus: float = Field(1, gt=0)
    """CPUs, also the threads of numpy, torch and FAISS."""
    gpus: float = Field(0, ge=0)
    """GPUs, or a share of one: 0.5 puts two workers on each."""
    memory: int = Field(0, ge=0)
    """Bytes that Ray sets aside; 0 for none. It bounds nothing."""


PLAIN = Resources()


class Executor(Protocol):
    """Runs the tasks of a job."""

    failures: list[str]
    """What went wrong with workers and was made good, a sentence each."""

    def map(
        self,
        work: Callable[[Task], Receipt],
        tasks: Iterable[Task],
    ) -> Iterator[tuple[Task, Receipt]]:
        """Each task with its receipt, in the order in which they are done.

        ``tasks`` is read as fast as the work is done, so it may be long. The first error stops
        the job and is raised here.

        Raises:
            TasksLost: tasks ended their worker every time; all others are done by then.
        """

    def close(self) -> None:
        """Give back workers and connections."""


@dataclass(frozen=True)
class Lost:
    """A task that ended its worker ``tries`` times, and ``why`` it did the last time."""

    task: Any
    tries: int
    why: str

    def __str__(self) -> str:
        """The task in a few words, and what happened."""
        return f"{label(self.task)} ({self.why})"


class TasksLost(BackendFailed):
    """Tasks that ended their worker every time; all others of the same ``map`` were done.

    Unless none ever was, and the job gave up.
    """

    def __init__(
        self, what: str, lost: tuple[Lost, ...], done: int, *, gave_up: bool = False
    ) -> None:
        """Name ``what`` was done, the tasks that were ``lost``, how many were ``done``.

        ``gave_up`` says that none was ever done, and that others were not tried.
        """
        self.what, self.lost, self.done, self.gave_up = what, lost, done, gave_up
        some = "; ".join(str(one) for one in lost[:5])
        more = f"; and {len(lost) - 5} more" if len(lost) > 5 else ""
        tasks = "task" if len(lost) == 1 else "tasks"
        others = "no other was tried" if gave_up else f"{done} others are done and kept"
        super().__init__(
            f"{what}: {len(lost)} {tasks} ended their worker {lost[0].tries} times each: {some}"
            f"{more}; {others}. If memory is short, use fewer --workers"
        )

    def __reduce__(self) -> tuple[object, ...]:
        """So that it can be sent."""
        return TasksLost, (self.what, self.lost, self.done)


def label(task: object) -> str:
    """A task in a few words."""
    return str(getattr(task, "label", "") or str(task)[:60])


class Local:
    """One task after another, in this process."""

    def __init__(self) -> None:
        """Nothing can fail that would not end this process too."""
        self.failures: list[str] = []

    def map(
        self,
        work: Callable[[Task], Receipt],
        tasks: Iterable[Task],
    ) -> Iterator[tuple[Task, Receipt]]:
        """Each task with its receipt, in order."""
        for task in tasks:
            yield task, work(task)

    def close(self) -> None:
        """Nothing is held."""


def executor(
    workers: int | None = None,
    ray: str | None = None,
    progress: Progress = silent,
    needs: Mapping[str, Resources] | None = None,
) -> Executor:
    """What a job runs on; whoever asks for it closes it.

    Args:
        workers: how many work at once. Default: one, which is this process; on Ray as many as the
            cluster has room for.
        ray: ``local`` or the address of a Ray cluster (``rag.ray_cluster.connect``), which is
            started or joined with the first task; None runs processes of this machine.
        progress: told how many workers there are, and how many ended before their time.
        needs: what workers need on Ray, by the name of the function that they call.

    Raises:
        InvalidInput: fewer workers than one, or no address.
        MissingExtra: Ray is not installed.
    """
    if workers is not None and workers < 1:
        raise InvalidInput(f"workers: found {workers}, expected 1 or more")
    if ray is not None:
        from rag.jobs_ray import Actors

        return Actors(ray, workers, progress, needs or {})
    if workers in (None, 1):
        return Local()
    from rag.jobs_processes import Processes

    return Processes(workers or 1, progress)


def check_importable(things: Iterable[object], how: str) -> None:
    """Raise InvalidInput where a class or function is defined in the running program.

    Other processes find what they run by its module, and nothing else travels to them.
    """
    for thing in things:
        module, name = getattr(thing, "__module__", ""), getattr(thing, "__qualname__", "")
        if module == "__main__" or "<locals>" in name or module not in sys.modules:
            raise InvalidInput(
                f"{module}.{name} is defined in the running program, where {how} does not find "
                "it; put it in a module that is installed there, or use one worker"
            )
