"""Tasks on the actors of a Ray cluster.

Plain actors with one task at a time: only tasks and receipts pass through Ray, everything else
through files, and an actor keeps the models that its first task opened. Ray restarts and retries
nothing by itself; ``rag.jobs_pool`` does, and so knows which task an actor died of.
"""

from __future__ import annotations

import errno
import math
import os
import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from rag.errors import BackendFailed, RagError
from rag.jobs import PLAIN, Progress, Resources, check_importable, silent
from rag.jobs_pool import READY, Died, Pool, Said, Worker, said, unpacked
from rag.ray_cluster import LOCAL, check_address, connect
from rag.ray_nodes import Node, alive, ask, check_nodes, in_words, room

PLACED_WITHIN = 600.0
"""Seconds that a cluster has to place an actor: an autoscaler may have to start a node."""

RENEWED = 10.0
"""Seconds after which the size of a cluster is looked at again."""

OF_NODE = (None, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EROFS, errno.ENOMEM)
"""With these numbers (numpy gives none) a system refuses what it may grant on another node."""


class Actors(Pool):
    """Tasks on up to ``workers`` actors of the cluster at ``address``; None: all it has room for.

    The cluster is started or joined with the first task, and left by ``close``. Actors are kept
    from step to step where they have what the next one needs.
    """

    def __init__(
        self,
        address: str,
        workers: int | None = None,
        progress: Progress = silent,
        needs: Mapping[str, Resources] | None = None,
    ) -> None:
        """Remember the settings; InvalidInput where ``address`` is none."""
        check_address(address)
        super().__init__(workers or 1, progress)
        self.address, self._asked, self._of_work = address, workers, needs or {}
        self._ray: Any = None
        self._stack = ExitStack()
        self._nodes: dict[str, Node] = {}
        self._avoided: set[str] = set()
        self._checked: dict[type, Any] = {}
        self._needs = PLAIN
        self._sized = self._placed = 0.0

    def begin(self, work: Callable[[Any], Any], task: Any) -> None:
        """Connect, and ask every node whether it can do such tasks, unless that is known."""
        check_importable([work, type(task)], "Ray")
        needs = self._of_work.get(work.__name__, PLAIN)
        if needs != self._needs:
            self._end_idle()
            self._needs = needs
        if self._ray is None:
            most = max(step.cpus for step in (needs, *self._of_work.values()))
            cpus = math.ceil(max(most, needs.cpus * (self._asked or 1)))
            self._ray = self._stack.enter_context(connect(self.address, cpus=cpus))
        known = type(task) in self._checked or (self._checked and not hasattr(task, "check"))
        if self.address != LOCAL and not known:
            self._nodes |= check_nodes(self._ray, task, needs)
        if not known:
            self._checked[type(task)] = task
        self._placed = time.monotonic()
        self._resize()
        if self.address == LOCAL and not alive(self._ray, needs):
            raise self._no_room()

    def start(self) -> Worker:
        """A new actor; it is placed by what it needs, and away from nodes that failed."""
        needs = self._needs
        options: dict[str, Any] = {"num_cpus": needs.cpus, "num_gpus": needs.gpus}
        options |= {"max_restarts": 0, "max_task_retries": 0, "scheduling_strategy": "SPREAD"}
        if needs.memory:
            options["memory"] = needs.memory
        good = sorted(set(alive(self._ray, needs)) - self._avoided) if self._avoided else []
        if good:
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

            node = good[len(self._crew) % len(good)]
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node, soft=True)
        return Actor(self, options)

    def wait(self, workers: Sequence[Worker], seconds: float) -> list[Worker]:
        """Those whose answer is there."""
        asked = {worker.answer: worker for worker in workers if isinstance(worker, Actor)}
        ready, _ = self._ray.wait(list(asked), timeout=seconds) if asked else ([], [])
        now = time.monotonic()
        if ready or self._busy or not self._starting:
            self._placed = now
        elif now - self._placed > PLACED_WITHIN:
            raise self._no_room()
        if now - self._sized > RENEWED:
            self._resize()
        return [asked[answer] for answer in ready]

    def finish(self) -> None:
        """End the actors that are at work; the others may serve the next step."""
        for worker in (*self._starting, *self._busy):
            worker.end()
        self._starting, self._busy = [], {}

    def close(self) -> None:
        """End all actors, and leave the cluster; one of our own ends."""
        self._end_idle()
        self._ray = None
        self._stack.close()

    def check_new(self, node_id: str) -> None:
        """Ask a node that joined while the job ran; ``Died`` where it lacks something."""
        if self.address == LOCAL or node_id in self._nodes:
            return
        found = alive(self._ray, self._needs).get(node_id, Node(node_id, node_id))
        for task in self._checked.values():
            problem = ask(self._ray, [found], task).get(node_id)
            if problem is not None:
                self._avoided.add(node_id)
                raise Died(f"{found.name} {problem}", blame=False)
        self._nodes[node_id] = found

    def elsewhere(self, node_id: str) -> bool:
        """Place no more actors on a node; whether there is another."""
        self._avoided.add(node_id)
        return bool(set(alive(self._ray, self._needs)) - self._avoided)

    def is_alive(self, node_id: str) -> bool:
        """Whether the cluster still counts on a node."""
        return any(node["NodeID"] == node_id and node["Alive"] for node in self._ray.nodes())

    @property
    def remote(self) -> Any:
        """The module ``ray``, connected."""
        return self._ray

    def _end_idle(self) -> None:
        for worker, _ in self._idle:
            worker.end()
        self._idle = []

    def _resize(self) -> None:
        self._sized = time.monotonic()
        if self._asked is None:
            living = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
            self.workers = max(1, sum(room(resources, self._needs) for resources in living))

    def _no_room(self) -> BackendFailed:
        wanted = ", ".join(f"{name}: {n:g}" for name, n in self._needs.model_dump().items() if n)
        have = [
            f"{node['NodeManagerHostname']}: {node['Resources'].get('CPU', 0):g} CPUs, "
            f"{node['Resources'].get('GPU', 0):g} GPUs"
            for node in self._ray.nodes()
            if node["Alive"]
        ]
        return BackendFailed(
            f"--ray {self.address}: no node had room for a worker that needs {{{wanted}}}; there "
            f"are {'; '.join(have)}; change 'resources', or wait until the cluster is free"
        )


class Actor(Worker):
    """One actor, and the answer that is expected of it."""

    def __init__(self, pool: Actors, options: dict[str, Any]) -> None:
        """Start it."""
        self._pool = pool
        self._remote = pool.remote.remote(Remote).options(**options).remote(os.getcwd())
        self.answer = self._remote.where.remote()
        self.name, self._node = "actor", ""

    def give(self, work: Callable[[Any], Any], task: Any) -> None:
        """Send it a task."""
        self.answer = self._remote.do.remote(work, task)

    def take(self) -> Any:
        """What it answered."""
        ray = self._pool.remote
        try:
            answer = ray.get(self.answer)
        except ray.exceptions.ActorUnavailableError:
            raise Died("it, or its node, could not be reached any more", blame=False) from None
        except ray.exceptions.RayActorError as error:
            raise self._died(error) from None
        except ray.exceptions.RayError as error:
            raise BackendFailed(f"{self.name}: {in_words(error)}") from error
        if not self._node:
            self._node, machine, pid = answer
            self.name = f"worker process {pid} on {machine}"
            self._pool.check_new(self._node)
            return READY
        outcome: Said = answer
        done, value, _ = outcome
        if not done:
            value.add_note(f"in {self.name}")
        if _is_of_node(value) and self._pool.elsewhere(self._node):
            raise Died(f"{value}; other nodes go on", blame=False, error=value)
        return unpacked(outcome)

    def end(self) -> None:
        """End it, whatever it does."""
        self._pool.remote.kill(self._remote)

    def _died(self, error: Exception) -> Died:
        if self._node and not self._pool.is_alive(self._node):
            return Died("its node is gone", blame=False)
        return Died(_detail(error), blame=bool(self._node))


def _is_of_node(error: Any) -> bool:
    known = isinstance(error, OSError) and not isinstance(error, RagError)
    return known and error.errno in OF_NODE


def _detail(error: Exception) -> str:
    """What Ray knows of the end of a process, in a sentence."""
    text = " ".join(str(error).split())
    if "node" in text and "died" in text and "exit detail" not in text:
        return "its node is gone"
    found = re.search(r"[Ee]xit detail: (.*?)(?: There are some potential root causes|$)", text)
    detail = found[1].rstrip(". ") if found else text[:200]
    if "connection error code 2" in detail:
        return "its process was killed, or crashed (SIGKILL, out of memory, SIGSEGV)"
    return detail


class Remote:
    """In the actor's process."""

    def __init__(self, folder: str) -> None:
        """Work in the folder of the job, where there is such a one here: paths may start there."""
        if os.path.isdir(folder):
            os.chdir(folder)

    def where(self) -> tuple[str, str, int]:
        """Node, name of the machine, process."""
        import ray

        return ray.get_runtime_context().get_node_id(), platform.node(), os.getpid()

    def do(self, work: Callable[[Any], Any], task: Any) -> Said:
        """Do a task."""
        return said(work, task)
