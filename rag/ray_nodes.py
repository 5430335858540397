"""Does every node of a cluster have what a job needs? It is asked before the job begins."""

from __future__ import annotations

import os
import platform
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rag.errors import BackendFailed
from rag.jobs import Resources

ANSWERED_WITHIN = 120.0
"""Seconds in which a node must answer; it may have to import torch."""

GONE = "is gone"

SAME = ("ragstone", "numpy", "pyarrow")
"""Packages whose version must be the same everywhere, so that the bytes are."""


@dataclass(frozen=True)
class Node:
    """A node of the cluster: its id and what people call it."""

    id: str
    name: str


@dataclass(frozen=True)
class Question:
    """What is asked of a node: the versions it should have, a file it should see, a task to try."""

    versions: dict[str, str]
    file: Path | None
    text: str
    task: Any
    folder: str


def alive(ray: Any, needs: Resources) -> dict[str, Node]:
    """The living nodes that have what a worker ``needs``, busy or not, by id."""
    return {
        node["NodeID"]: Node(node["NodeID"], f"{node['NodeManagerHostname']} ({address})")
        for node in ray.nodes()
        if node["Alive"] and room(node["Resources"], needs)
        for address in [node["NodeManagerAddress"]]
    }


def room(resources: dict[str, float], needs: Resources) -> int:
    """For how many workers a node has room that does nothing else."""
    wanted = {"CPU": needs.cpus, "GPU": needs.gpus, "memory": needs.memory}
    return min(int(resources.get(name, 0) / n + 1e-9) for name, n in wanted.items() if n)


def check_nodes(ray: Any, task: Any, needs: Resources) -> dict[str, Node]:
    """The nodes that may have workers, after asking each of them.

    Raises:
        BackendFailed: nodes lack something; the message names each, and what it lacks.
    """
    nodes = alive(ray, needs)
    problems = ask(ray, list(nodes.values()), task)
    gone = [node for node, problem in problems.items() if problem == GONE]
    if len(gone) < len(nodes):
        nodes = {node: entry for node, entry in nodes.items() if node not in gone}
        problems = {node: problem for node, problem in problems.items() if problem != GONE}
    if problems:
        lines = [f"{nodes[node].name}: {problem}" for node, problem in problems.items()]
        raise BackendFailed(
            f"{len(problems)} of {len(nodes)} nodes of the cluster cannot do this job; nothing was "
            "begun:\n  " + "\n  ".join(lines)
        )
    return nodes


def ask(ray: Any, nodes: list[Node], task: Any) -> dict[str, str]:
    """What each node lacks, by its id; those that lack nothing are left out."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote = ray.remote(num_cpus=0, max_retries=0)(lacks)
    problems = {}
    with _file_for(getattr(task, "shared", None)) as (file, text):
        question = Question(versions(), file, text, task, os.getcwd())
        answers = {}
        for node in nodes:
            there = NodeAffinitySchedulingStrategy(node.id, soft=False)
            answers[node.id] = remote.options(scheduling_strategy=there).remote(question)
        for node_id, answer in answers.items():
            try:
                found = ray.get(answer, timeout=ANSWERED_WITHIN)
            except ray.exceptions.GetTimeoutError:
                found = f"gives no answer within {ANSWERED_WITHIN:.0f} s"
            except ray.exceptions.RayTaskError as error:
                found = in_words(error)
            except ray.exceptions.RayError:  # it was killed, or its cluster has not noticed yet
                found = GONE
            if found is not None:
                problems[node_id] = found
    return problems


def versions() -> dict[str, str]:
    """What must be the same everywhere, here."""
    found = {"Python": ".".join(platform.python_version_tuple()[:2])}
    for name in SAME:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from a checkout
            from rag import __version__

            found[name] = __version__
    return found


def lacks(question: Question) -> str | None:
    """On a node: what it lacks for the job, in words; None where that is nothing."""
    here = versions()
    for name, wanted in question.versions.items():
        if here.get(name) != wanted:
            return f"has {name} {here.get(name)}, and the job runs with {wanted}; install the same"
    if os.path.isdir(question.folder):
        os.chdir(question.folder)  # as workers do
    file = question.file
    if file is not None:
        try:
            seen = file.read_text(encoding="ascii") == question.text
            mine = file.with_name(f"{file.name[:-8]}{uuid.uuid4().hex[:8]}")
            mine.touch(exist_ok=False)
            mine.unlink()
        except OSError as error:
            return (
                f"does not see or cannot write {file.parent}: {error.strerror}; mount the same "
                "folder at the same path on every node (docs/ray.md)"
            )
        if not seen:
            return f"has another folder at {file.parent}; mount the same one on every node"
    try:
        check = getattr(question.task, "check", None)
        if check is not None:
            check()
    except Exception as error:  # noqa: BLE001  (whatever a package or a model raises)
        return str(error) or repr(error)
    return None


@contextmanager
def _file_for(folder: Path | None) -> Iterator[tuple[Path | None, str]]:
    """A file in ``folder`` whose text nobody else knows."""
    if folder is None:
        yield None, ""
        return
    text = uuid.uuid4().hex
    file = folder.absolute() / f".tmp-{uuid.uuid4().hex}"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="ascii")
    try:
        yield file, text
    finally:
        file.unlink(missing_ok=True)


def in_words(error: Exception) -> str:
    """An error of Ray itself, in a line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    missing = next((line for line in lines if "No module named" in line), None)
    if missing is not None:
        return f"{missing[missing.index('No module named') :]}; install it on every node"
    return lines[0] if lines else repr(error)
