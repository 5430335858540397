"""A collection searched spread out: runs of its segments are searched by shards, elsewhere.

    with Collection.open("wiki").spread(shards=4, ray="local") as wiki:
        Pipeline([BM25()], collection=wiki).ask("who discovered oxygen?")

A **shard** has a run of the segments of one manifest open and searches it. The **driver** is the
process that asks. It has the whole snapshot mapped, which costs nothing until pages are read: from
the shared folder it reads what planning a search needs (the dictionaries of terms) and what showing
its result needs (the passages found, explanations). The memory and the work of searching are the
shards'. What they find is merged exactly: a ``SpreadSnapshot`` answers as a ``Snapshot`` does.

How the searchers of an index kind are spread is their own matter. A searcher that can be has a
method ``spread(ask)``: a searcher with the same methods that asks the shards, in one call each a
round, by the ``Ask`` that it is given. At a shard, an index is opened as anywhere, over its
segments only. A kind whose files cannot all be mapped has a method ``open_spread(folders,
vectors)``, which opens what the driver needs of it.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from rag import __version__
from rag.collection import manifest as manifests
from rag.collection.build import kind_of
from rag.collection.manifest import IndexEntry, Manifest
from rag.collection.snapshot import Snapshot
from rag.errors import BackendFailed, Conflict, InvalidInput, NotFound
from rag.run import at_hand
from rag.where import Where

WhenPartial = Literal["fail", "ok"]
"""What a search does while a shard is away: it fails, or its answers say that they are partial."""


class Request(NamedTuple):
    """What one shard is asked in one round."""

    of: str
    """The name of an index; empty where the shard itself is asked."""
    method: str
    """Of the searcher, or of an attribute of it: ``search``, ``index.find_flat``."""
    arguments: tuple[Any, ...]
    settings: Mapping[str, Any] = {}
    keep: Kept | None = None

    def call(self) -> tuple[Any, ...]:
        """What ``Shard.answer`` takes."""
        return self.of, self.method, self.settings, self.keep, *self.arguments


class Kept(NamedTuple):
    """Which rows of a shard may be found, given as its setting ``keep``."""

    where: Where | None = None
    """Those that fulfil it and are not deleted: the shard knows which, and remembers them."""
    bits: NDArray[np.uint8] | None = None
    """These ones, (rows,) bool packed; before ``where``."""


@dataclass(frozen=True)
class Opening:
    """What a shard is opened from; small, and the same on every machine."""

    collection: str
    """The folder, absolute."""
    number: int
    checksum: str
    segments: tuple[int, int]
    """The first, and the one after the last."""
    version: str = __version__
    """Of Ragstone, there and here: what they tell one another is of one version."""


class Shard:
    """A run of the segments of a manifest, opened where this object is made."""

    def __init__(self, opening: Opening) -> None:
        """Open it; its indexes are opened when they are first asked.

        Raises:
            NotFound: the folder is not to be seen from here, or a file of it.
            Conflict: another collection lies there, or another version of Ragstone.
        """
        if opening.version != __version__:
            raise Conflict(
                f"{socket.gethostname()} has Ragstone {__version__}, and the search was started by "
                f"{opening.version}; install the same version on all machines"
            )
        path = Path(opening.collection)
        try:
            whole = manifests.read(path, opening.number)
        except NotFound as error:
            raise NotFound(
                f"{error}; all machines that search a collection must see it at the same path"
            ) from None
        if whole.checksum != opening.checksum:
            raise Conflict(
                f"{path}: manifest {opening.number} is another one here than where the search was "
                "started: two collections lie at this path on two machines; share one folder"
            )
        self.snapshot = Snapshot(path, part(whole, *opening.segments))

    def answer(
        self,
        index: str,
        method: str,
        settings: Mapping[str, Any],
        keep: Kept | None,
        *arguments: Any,
    ) -> Any:
        """What the searcher of an index says: the fields of a ``Request``, arguments last."""
        own = [_own(value) for value in arguments]
        if not index:
            return getattr(self, method)(*own)
        searcher = self.snapshot.index(index)
        more = {} if keep is None else {"keep": self._kept(keep)}
        return attrgetter(method)(searcher)(*own, **settings, **more)

    def mask(self, where: Where) -> NDArray[np.uint8] | None:
        """Which rows are not deleted and fulfil ``where``, packed; None where all do."""
        found = self.snapshot.matching(where)
        return None if found is None else np.packbits(found)

    def _kept(self, kept: Kept) -> NDArray[np.bool_] | None:
        if kept.bits is None:
            return self.snapshot.matching(kept.where)
        rows = np.unpackbits(kept.bits, count=self.snapshot.manifest.rows).view(np.bool_)
        rows.flags.writeable = False
        return rows


class Shards(Protocol):
    """Shards that were opened somewhere, numbered from 0."""

    def ask(self, requests: Mapping[int, Request]) -> dict[int, Any]:
        """What each shard answers to its request, all at once; one that is away is left out.

        What a shard raises is raised.
        """

    def away(self, shard: int) -> str:
        """Why a shard does not answer, and what becomes of it."""

    def close(self) -> None:
        """End them."""


class InProcess:
    """Shards in this process, one after another: for tests, and to see what a merge costs."""

    def __init__(self, openings: Sequence[Opening]) -> None:
        """Open them."""
        self.shards: list[Shard | None] = [Shard(opening) for opening in openings]
        self.asked: list[dict[int, Request]] = []

    def ask(self, requests: Mapping[int, Request]) -> dict[int, Any]:
        """What each shard answers; None among ``shards`` is one that is away."""
        self.asked.append(dict(requests))
        there = ((number, self.shards[number]) for number in requests)
        return {number: shard.answer(*requests[number].call()) for number, shard in there if shard}

    def away(self, shard: int) -> str:
        """It was taken away."""
        return "it was taken away"

    def close(self) -> None:
        """Nothing is left to end."""


class SpreadSnapshot(Snapshot):
    """One manifest whose indexes are searched by shards, and whose passages are read here.

    It is closed by leaving its ``with`` block, or by ``close``; its shards then end.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        cuts: Sequence[tuple[int, int]],
        shards: Shards,
        *,
        partial: WhenPartial = "fail",
    ) -> None:
        """Map the files of ``manifest``, whose segments ``shards`` have by the runs ``cuts``."""
        super().__init__(path, manifest)
        self.cuts, self.shards, self.partial = tuple(cuts), shards, partial
        self._spread: dict[str, Any] = {}

    def __enter__(self) -> Self:
        """Self; leaving the block ends the shards."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the shards."""
        self.close()

    def close(self) -> None:
        """End the shards; passages can still be read."""
        self.shards.close()

    def index(self, name: str) -> Any:
        """The searcher of an index over all segments, which asks the shards.

        Raises:
            InvalidInput: indexes of its type cannot be searched spread out.
        """
        local = super().index(name)
        with self._lock:
            if name not in self._spread:
                if not hasattr(local, "spread"):
                    raise InvalidInput(
                        f"index {name!r}: indexes of the type {self.manifest.indexes[name].type} "
                        "cannot be searched spread out (their searcher has no method 'spread'); "
                        "search without shards"
                    )
                self._spread[name] = local.spread(self.asking(name))
            return self._spread[name]

    def _open(self, name: str, entry: IndexEntry) -> Any:
        kind = kind_of(entry.type, entry.settings)
        if not hasattr(kind, "open_spread"):
            return super()._open(name, entry)
        folders = [self.path / "indexes" / name / folder for folder in entry.folders]
        return kind.open_spread(folders, [self.path / "vectors" / each for each in entry.vectors])

    def asking(self, index: str) -> Ask:
        """What the searcher of an index asks the shards with."""
        return Ask(self, index)

    def _mask(self, where: Where) -> NDArray[np.bool_] | None:
        self._checked(where)
        # Not partial in any case: what is found here is remembered.
        found = self.ask({n: Request("", "mask", (where,)) for n in range(len(self.cuts))}, "fail")
        mask = np.ones(self.manifest.rows, np.bool_)
        for (first, last), packed in zip(self.rows_of_shards, found.values(), strict=True):
            if packed is not None:
                mask[first:last] = np.unpackbits(packed, count=last - first)
        if mask.all():
            return None
        mask.flags.writeable = False
        return mask

    @property
    def rows_of_shards(self) -> list[tuple[int, int]]:
        """The first row of each shard, and the one after its last."""
        return [(int(self.starts[first]), int(self.starts[last])) for first, last in self.cuts]

    def ask(
        self, requests: Mapping[int, Request], partial: WhenPartial | None = None
    ) -> dict[int, Any]:
        """What the shards answer in one round, by ascending number.

        Where answers may be partial, the run at hand is told of the shards that are away.

        Raises:
            BackendFailed: a shard is away, and answers may not be partial; or no one can be told,
                because this is not called by a step of a pipeline; or all shards are away.
        """
        found = self.shards.ask(requests)
        lost = [number for number in requests if number not in found]
        if lost:
            said = "; ".join(self._lost(number) for number in lost)
            if (partial or self.partial) == "fail":
                raise BackendFailed(
                    f"{self.path}: {said}. Ask again in some seconds, or let answers be partial "
                    "(partial: ok)"
                )
            run = at_hand()
            if run is None or not found:
                raise BackendFailed(f"{self.path}: {said}. Ask again in some seconds")
            run.lacks(said)
        return {number: found[number] for number in sorted(found)}

    def _lost(self, shard: int) -> str:
        first, last = self.cuts[shard]
        which = f"segment {first + 1}" if last - first == 1 else f"segments {first + 1} to {last}"
        return (
            f"shard {shard + 1} of {len(self.cuts)} ({which} of {len(self.manifest.segments)}) "
            f"is away: {self.shards.away(shard)}"
        )

    def kept(self, keep: NDArray[np.bool_] | None) -> list[Kept | None]:
        """For each shard, its part of ``keep``, (rows,) bool; None keeps all.

        What ``matching`` gave is not sent: shards know the condition.
        """
        if keep is None:
            return [None] * len(self.cuts)
        if keep.shape != (self.manifest.rows,) or keep.dtype != np.bool_:
            raise InvalidInput(
                f"keep has shape {keep.shape} and type {keep.dtype}; expected "
                f"{(self.manifest.rows,)}, bool"
            )
        if keep is self.keep:
            return [Kept()] * len(self.cuts)
        with self._lock:
            known = [where for where, mask in self._masks.items() if mask is keep]
        if known:
            return [Kept(known[0])] * len(self.cuts)
        return [Kept(None, np.packbits(keep[a:b])) for a, b in self.rows_of_shards]


@dataclass(frozen=True)
class Ask:
    """Asks the shards of a snapshot about one index.

    segments: for each shard its run of segments, (first, one after the last).
    """

    snapshot: SpreadSnapshot = field(repr=False)
    index: str

    @property
    def segments(self) -> tuple[tuple[int, int], ...]:
        """For each shard its first segment, and the one after its last."""
        return self.snapshot.cuts

    @property
    def rows(self) -> list[tuple[int, int]]:
        """For each shard its first row, and the one after its last."""
        return self.snapshot.rows_of_shards

    def __call__(
        self,
        method: str,
        calls: Mapping[int, tuple[Any, ...]],
        *,
        keep: NDArray[np.bool_] | None = None,
        **settings: Any,
    ) -> dict[int, Any]:
        """What ``method`` of the searcher of each shard returns, in one round.

        Args:
            method: a method of the searcher, or of an attribute of it ("index.find_flat").
            calls: shard number to arguments; shards that stand not here are not asked.
            keep: (rows,) bool of the whole index, for a method with such a setting.
            settings: further ones, the same for all shards.

        Returns:
            By ascending shard. One that is away is left out, where answers may be partial; what it
            says is then to be taken as nothing.
        """
        if not calls:
            return {}
        kept = self.snapshot.kept(keep)
        return self.snapshot.ask(
            {
                number: Request(self.index, method, arguments, settings, kept[number])
                for number, arguments in calls.items()
            }
        )


def part(manifest: Manifest, first: int, last: int) -> Manifest:
    """The segments ``first`` to ``last`` (not included) of a manifest, and their indexes."""
    segments = manifest.segments[first:last]
    named = {segment.folder for segment in segments}
    return manifest.model_copy(
        update={
            "segments": segments,
            "indexes": {
                name: entry.model_copy(
                    update={
                        "folders": entry.folders[first:last],
                        "vectors": entry.vectors[first:last],
                    }
                )
                for name, entry in manifest.indexes.items()
            },
            "deleted": {k: entry for k, entry in manifest.deleted.items() if k in named},
        }
    )


def cut(manifest: Manifest, shards: int, path: Path) -> list[tuple[int, int]]:
    """The segments in ``shards`` runs with about as many rows each: first, one after the last.

    Raises:
        InvalidInput: there are fewer segments than shards.
    """
    count = len(manifest.segments)
    if shards < 1:
        raise InvalidInput(f"shards: found {shards}, expected 1 or more")
    if shards > count:
        raise InvalidInput(
            f"{path}: has {count} segment{'s' if count != 1 else ''}, and {shards} shards are "
            f"asked for; a shard has one at least: ask for {count} or fewer, or build smaller "
            "segments ('rag index --segment-rows N')"
        )
    ends = np.cumsum([entry.rows for entry in manifest.segments])
    edges = [0]
    for shard in range(1, shards):
        # At least one segment for this shard, and one for each that follows.
        low, high = edges[-1] + 1, count - (shards - shard)
        wanted = ends[-1] * shard / shards
        edges.append(min(range(low, high + 1), key=lambda at: abs(ends[at - 1] - wanted)))
    return list(pairwise([*edges, count]))


def opened(
    path: Path,
    manifest: Manifest,
    *,
    shards: int,
    ray: str = "local",
    partial: WhenPartial = "fail",
) -> SpreadSnapshot:
    """A manifest with its segments at so many actors; see ``Collection.spread``."""
    from rag.ray_shards import RayShards

    if partial not in ("fail", "ok"):
        raise InvalidInput(f"partial: found {partial!r}, expected fail or ok")
    cuts = cut(manifest, shards, path)
    actors = RayShards(openings(path, manifest, cuts), ray)
    try:
        return SpreadSnapshot(path, manifest, cuts, actors, partial=partial)
    except BaseException:
        actors.close()
        raise


def openings(path: Path, manifest: Manifest, cuts: Sequence[tuple[int, int]]) -> list[Opening]:
    """What the shards that have these runs of segments are opened from."""
    folder = str(path.resolve())
    return [Opening(folder, manifest.number, manifest.checksum, run) for run in cuts]


def _own(value: Any) -> Any:
    """An argument as kernels take it: what came over the wire may be read-only.

    A compiled loop is compiled anew for arrays that are, which takes seconds; copying does not.
    """
    if isinstance(value, np.ndarray):
        return value if value.flags.writeable else value.copy()
    if isinstance(value, list):
        return [_own(each) for each in value]
    if isinstance(value, tuple):
        own = [_own(each) for each in value]
        return type(value)(*own) if hasattr(value, "_fields") else tuple(own)
    return value.copy() if hasattr(value, "indptr") else value  # of scipy, with arrays inside
