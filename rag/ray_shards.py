"""Shards of a collection (``rag.collection.spread``) as actors of a Ray cluster.

A round is one call an actor. An array that several of them get, and that is large, is put into
Ray's store once. An actor that dies is started anew, on another node if there is one; until it has
opened its segments again, its shard is away. Actors reserve no CPU, so that one that was lost does
not wait for a job to end; they are put on the nodes that have CPUs, as evenly as can be.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np

from rag.collection.spread import Opening, Request, Shard
from rag.errors import BackendFailed, RagError
from rag.ray_cluster import connect

STARTS, WITHIN = 3, 600.0
"""How often a shard is started anew at most, in so many seconds."""

OPENS_WITHIN = 120.0
"""Seconds in which all shards must be open at the beginning."""

AT_ONCE = 4
"""Calls that one actor works on at the same time: kernels let go of Python's lock."""

LARGE = 1 << 16
"""Bytes from which on an array for several actors is put into the store."""


class Actor:
    """The process of one shard."""

    def open(self, opening: Opening) -> tuple[str, int, str]:
        """Open the segments: on which machine, by which process, on which of Ray's nodes."""
        import ray

        self.shard = Shard(opening)
        return socket.gethostname(), os.getpid(), ray.get_runtime_context().get_node_id()

    def answer(self, *asked: Any) -> Any:
        """What the shard answers."""
        return self.shard.answer(*asked)


class RayShards:
    """One actor a shard, as long as this object is not closed."""

    def __init__(self, openings: Sequence[Opening], address: str = "local") -> None:
        """Open them on the cluster at ``address`` (see ``rag.ray_cluster.connect``).

        Raises:
            NotFound: a node does not see the collection.
            Conflict: it sees another one at its path.
            BackendFailed: a shard did not open in time, or died. What ``connect`` raises, too.
        """
        self._lock = threading.Lock()
        self._shards: list[_Held] = []
        with ExitStack() as stack:
            self._ray: Any = stack.enter_context(connect(address, cpus=len(openings)))
            stack.callback(self._kill)
            self._remote: Any = self._ray.remote(Actor)
            for opening in openings:
                self._shards.append(_Held(opening))
                self._start(self._shards[-1])
            self._wait()
            self._stack = stack.pop_all()

    def ask(self, requests: Mapping[int, Request]) -> dict[int, Any]:
        """What each shard answers to its request; see ``rag.collection.spread.Shards``."""
        actors = {number: actor for number in requests if (actor := self._open(number)) is not None}
        shared = self._shared([requests[number].arguments for number in actors])
        sent = {
            number: actor.answer.remote(
                *(shared.get(id(value), value) for value in requests[number].call())
            )
            for number, actor in actors.items()
        }
        answers: dict[int, Any] = {}
        for number, reference in sent.items():
            try:
                answers[number] = self._got(reference)
            except self._ray.exceptions.RayTaskError:
                raise
            except self._ray.exceptions.RayError as error:
                self._lost(number, actors[number], error)
        return answers

    def away(self, shard: int) -> str:
        """Why a shard does not answer, and what becomes of it."""
        with self._lock:
            held = self._shards[shard]
            if held.ready is None:
                return (
                    f"{held.why}; it was started {STARTS} times in {WITHIN / 60:.0f} minutes and "
                    "is not started again for now"
                )
            return f"{held.why}; it is being opened again"

    def processes(self) -> list[tuple[str, int]]:
        """The machine and the process of each shard, where they are or were last."""
        with self._lock:
            return [held.where for held in self._shards]

    def nodes(self) -> list[str]:
        """The id of the node that each shard is or was on."""
        with self._lock:
            return [held.node for held in self._shards]

    def close(self) -> None:
        """End the actors, and the connection if nobody else uses it."""
        self._stack.close()

    def _start(self, held: _Held) -> None:
        """A new actor for a shard, on the node with the fewest, and not where it was last."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        alive = [node for node in self._ray.nodes() if node["Alive"]]
        nodes = [node["NodeID"] for node in alive if node["Resources"].get("CPU")]
        others = [node for node in nodes if node != held.node] or nodes
        have = Counter(each.node for each in self._shards if each is not held)
        where = {}
        if others:
            held.node = min(others, key=lambda node: have[node])
            # Ray notices only after a while that a node is gone: soft, it then takes another one.
            # It does so on a busy machine too, which would put the first ones together.
            where["scheduling_strategy"] = NodeAffinitySchedulingStrategy(
                held.node, soft=bool(held.starts)
            )
        held.actor = self._remote.options(num_cpus=0, max_concurrency=AT_ONCE, **where).remote()
        held.ready = held.actor.open.remote(held.opening)

    def _wait(self) -> None:
        """Wait for all shards at the beginning."""
        ready = [held.ready for held in self._shards]
        _, late = self._ray.wait(ready, num_returns=len(ready), timeout=OPENS_WITHIN)
        if late:
            raise BackendFailed(
                f"{len(late)} of {len(ready)} shards did not open within {OPENS_WITHIN:.0f} s; "
                "'ray status' says whether the cluster has room and whether its nodes are well"
            )
        for number, held in enumerate(self._shards, 1):
            try:
                held.opened(self._got(held.ready))
            except self._ray.exceptions.RayError as error:
                raise BackendFailed(
                    f"shard {number} of {len(ready)} died as it was opened: {_line(error)}"
                ) from error

    def _open(self, number: int) -> Any:
        """The actor of a shard; None while it is away."""
        with self._lock:
            held = self._shards[number]
            if held.is_open:
                return held.actor
            if held.ready is None:
                self._start_again(held)
                return None
            if not self._ray.wait([held.ready], timeout=0)[0]:
                return None
            try:
                held.opened(self._got(held.ready))
            except (RagError, self._ray.exceptions.RayError) as error:
                held.why = f"it could not be opened again: {_line(error)}"
                self._start_again(held)
                return None
            return held.actor

    def _lost(self, number: int, actor: Any, error: Exception) -> None:
        """An actor did not answer: start another one, unless somebody did so before."""
        with self._lock:
            held = self._shards[number]
            if held.actor is actor:
                host, process = held.where
                held.why = f"process {process} on {host} died ({_line(error)})"
                self._start_again(held)

    def _start_again(self, held: _Held) -> None:
        with suppress(Exception):  # it is dead, most often
            self._ray.kill(held.actor)
        now = time.monotonic()
        held.starts = [at for at in held.starts if now - at < WITHIN]
        held.is_open, held.ready = False, None
        if len(held.starts) < STARTS:
            held.starts.append(now)
            self._start(held)

    def _got(self, reference: Any) -> Any:
        """What a call returned; what it raised, as if it had been raised here."""
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause
            raise (cause if isinstance(cause, Exception) else error) from None

    def _shared(self, calls: Sequence[tuple[Any, ...]]) -> dict[int, Any]:
        """References to the large arrays that several calls have, by their id()."""
        arrays = {
            id(value): value
            for arguments in calls
            for value in arguments
            if isinstance(value, np.ndarray) and value.nbytes >= LARGE
        }
        times = Counter(id(value) for arguments in calls for value in arguments)
        return {key: self._ray.put(each) for key, each in arrays.items() if times[key] > 1}

    def _kill(self) -> None:
        for held in self._shards:
            with suppress(Exception):
                self._ray.kill(held.actor)


class _Held:
    """A shard, and how its actor is."""

    def __init__(self, opening: Opening) -> None:
        self.opening = opening
        self.actor: Any = None
        self.ready: Any = None  # tells when it is open; None where it is not started any more
        self.is_open = False
        self.starts: list[float] = []
        self.node = ""
        self.where = ("", 0)
        self.why = ""

    def opened(self, where: tuple[str, int, str]) -> None:
        self.is_open, self.where, self.node = True, where[:2], where[2]


def _line(error: BaseException) -> str:
    """The line of an error that says what it was: the last of a traceback, else the first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[-1] if any(line.startswith("File ") for line in lines) else lines[0]
