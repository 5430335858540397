"""Executors: the same receipts on any, and errors as they were raised."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from rag.errors import BackendFailed, BadRow, Conflict, Damaged, InvalidInput, MissingExtra
from rag.jobs import Executor, Local, Resources, TasksLost, check_importable, executor
from rag.jobs_processes import Processes


# Workers find these functions by the name of their module, which the test runner gives the file;
# functions of installed modules are found everywhere, so the tasks below are made of those.
def test_executor_chooses_by_the_number_of_workers() -> None:
    assert isinstance(executor(1), Local)
    assert isinstance(executor(3), Processes)
    with pytest.raises(InvalidInput, match="workers: found 0, expected 1 or more"):
        executor(0)


EXECUTORS = [Local(), Processes(2)]


@pytest.mark.parametrize("jobs", EXECUTORS, ids=["local", "processes"])
def test_every_task_comes_back_with_its_receipt(jobs: Executor) -> None:
    tasks = [f"{'0' * n}{n}" for n in range(25)]
    assert sorted(jobs.map(int, tasks)) == sorted((task, int(task)) for task in tasks)
    assert list(jobs.map(int, [])) == []


def test_local_keeps_the_order() -> None:
    assert [receipt for _, receipt in Local().map(str, range(5))] == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("jobs", EXECUTORS, ids=["local", "processes"])
def test_tasks_are_taken_as_the_work_goes_on(jobs: Executor) -> None:
    taken: list[str] = []

    def tasks() -> Iterator[str]:
        for number in range(1000):
            taken.append(str(number))
            yield str(number)

    running = jobs.map(int, tasks())
    assert taken == []
    next(running)
    assert len(taken) <= 4
    for done in range(2, 20):
        next(running)
        assert len(taken) <= done + 4
    running.close()  # type: ignore[attr-defined]
    assert len(taken) < 30


@pytest.mark.parametrize("jobs", EXECUTORS, ids=["local", "processes"])
def test_an_error_in_the_tasks_ends_the_job(jobs: Executor) -> None:
    def tasks() -> Iterator[str]:
        yield "1"
        raise BadRow("file", 7, "text", "is empty", "give one")

    with pytest.raises(BadRow, match="^file:7: field 'text': is empty; give one"):
        list(jobs.map(int, tasks()))


WORKERS = """
import os, signal
from pathlib import Path
from rag import errors

def fail(number):
    if number == 1:
        raise errors.BadRow("f", 3, "id", "found", "fix")
    if number == 2:
        raise errors.MissingExtra("models", "torch")
    if number == 3:
        raise errors.Damaged("f: is damaged")
    if number == 4:
        raise errors.Conflict("f: is locked")
    if number == 5:
        raise OSError(28, "No space left on device", "f")
    return number

def die_once(task):
    number, marker = task
    if number == 3 and not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number

def die_at(number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number

def die(number):
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """A module that workers can import: those of tests have names of the test runner."""
    from importlib import import_module, invalidate_caches

    (tmp_path / "rag_test_workers.py").write_text(WORKERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "rag_test_workers", raising=False)
    invalidate_caches()
    return import_module("rag_test_workers")


@pytest.mark.parametrize("jobs", EXECUTORS, ids=["local", "processes"])
def test_errors_of_workers_arrive_as_they_were_raised(jobs: Executor, work: object) -> None:
    fail = work.fail  # type: ignore[attr-defined]
    with pytest.raises(BadRow, match="^f:3: field 'id': found; fix$") as bad:
        list(jobs.map(fail, [0, 1]))
    assert (bad.value.file, bad.value.line, bad.value.field) == ("f", 3, "id")
    with pytest.raises(MissingExtra, match=r"pip install 'ragstone\[models\]'") as missing:
        list(jobs.map(fail, [0, 2]))
    assert (missing.value.extra, missing.value.module) == ("models", "torch")
    with pytest.raises(Damaged, match="^f: is damaged$"):
        list(jobs.map(fail, [3]))
    with pytest.raises(Conflict, match="^f: is locked$"):
        list(jobs.map(fail, [4]))
    with pytest.raises(OSError, match="No space left") as full:
        list(jobs.map(fail, [5]))
    assert (full.value.errno, full.value.filename) == (28, "f")


def test_the_tasks_of_a_killed_worker_are_done_by_another(work: object, tmp_path: Path) -> None:
    tasks = [(number, str(tmp_path / "marker")) for number in range(12)]
    found = list(Processes(2).map(work.die_once, tasks))  # type: ignore[attr-defined]
    assert (tmp_path / "marker").exists()
    assert sorted(found) == [(task, task[0]) for task in tasks]


def test_a_task_that_always_kills_its_worker_is_left_out_and_named(work: object) -> None:
    jobs = Processes(2)
    found: list[object] = []
    with pytest.raises(TasksLost, match=r"^die at: 1 task ended .*: 3 \(killed by SIGKILL\)") as e:
        found += jobs.map(work.die_at, range(9))  # type: ignore[attr-defined]
    (lost,) = e.value.lost
    assert (lost.task, lost.tries, e.value.done) == (3, 3, 8)
    assert [said.partition(": ")[0].split("ended ")[1] for said in jobs.failures] == [
        f"while it did 3 (try {n} of 3)" for n in (1, 2, 3)
    ]


def test_all_others_are_done_before_a_lost_task_ends_the_job(work: object) -> None:
    found = []
    with pytest.raises(TasksLost):
        for task, receipt in Processes(2).map(work.die_at, range(9)):  # type: ignore[attr-defined]
            found.append((task, receipt))
    assert sorted(found) == [(n, n) for n in range(9) if n != 3]


def test_workers_that_always_die_end_the_job(work: object) -> None:
    jobs = Processes(2)
    with pytest.raises(
        BackendFailed, match=r"^die: 3 tasks ended .*; no other was tried.* fewer --workers"
    ):
        list(jobs.map(work.die, range(50)))  # type: ignore[attr-defined]
    assert len(jobs.failures) < 50


def test_work_that_no_other_process_finds_ends_the_job(work: object) -> None:
    nowhere = ModuleType("rag_test_nowhere")
    work.fail.__module__ = "rag_test_nowhere"  # type: ignore[attr-defined]
    nowhere.fail = work.fail  # type: ignore[attr-defined]
    sys.modules["rag_test_nowhere"] = nowhere
    with pytest.raises(BackendFailed, match="between processes: .*rag_test_nowhere"):
        list(Processes(2).map(work.fail, range(5)))  # type: ignore[attr-defined]


def test_what_the_running_program_defines_does_not_travel(work: object) -> None:
    work.fail.__module__ = "__main__"  # type: ignore[attr-defined]
    with pytest.raises(InvalidInput, match="__main__.fail is defined in the running program"):
        check_importable([work.fail], "Ray")  # type: ignore[attr-defined]
    check_importable([int, os.path.basename, Local], "Ray")


def test_resources_are_checked() -> None:
    assert Resources(gpus=0.5).model_dump() == {"cpus": 1, "gpus": 0.5, "memory": 0}
    for bad in ({"cpus": 0}, {"gpus": -1}, {"cores": 3}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            Resources.model_validate(bad)


def test_addresses_that_are_none_are_refused() -> None:
    for address in ("auto", "ray://head:10001", "head", "http://head:8265"):
        with pytest.raises(InvalidInput, match=f"^--ray {address}: expected 'local', or HOST:PORT"):
            executor(2, address)


def test_nothing_runs_on_after_a_job() -> None:
    before = threading.active_count()
    assert len(list(Processes(2).map(os.path.basename, ["a", "b", "c"]))) == 3
    assert threading.active_count() == before
    assert multiprocessing.active_children() == []
