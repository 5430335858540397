"""``Collection``: passages and their indexes in a folder, as SDK and command line see it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rag.collection import folders, index_job, leases, log, manifest
from rag.collection.addition import add
from rag.collection.cleaning import DAY, Cleaned, clean
from rag.collection.compaction import compact
from rag.collection.deletion import delete
from rag.collection.existing import OnExisting
from rag.collection.given import Rows, as_source
from rag.collection.kinds import IndexKind
from rag.collection.manifest import Manifest
from rag.collection.partitions import SEGMENT_ROWS
from rag.collection.snapshot import Snapshot
from rag.collection.steps import by_work, running
from rag.collection.verify import verify
from rag.collection.wanted import index_kinds, wanted_manifest
from rag.collection.writing import Done, Job, commit_after
from rag.errors import Damaged, InvalidInput
from rag.jobs import Progress, Resources, executor, silent
from rag.passages import FieldType
from rag.ranking import Hit, Ranking
from rag.sources import Reader, Source, Split
from rag.where import Where

if TYPE_CHECKING:
    from rag.collection.spread import SpreadSnapshot


class Collection:
    """Passages and their indexes in a folder; see ``docs/formats.md`` for what lies in it.

    Make one with ``Collection.create`` or ``Collection.build``, open one with ``Collection.open``.
    Reading goes through a ``Snapshot`` of the newest manifest; every change commits a new one.
    """

    def __init__(self, path: Path) -> None:
        """Name the folder; ``open`` and ``create`` check it."""
        self.path = path
        self._snapshot: Snapshot | None = None
        self._opened: Manifest | None = None

    def __repr__(self) -> str:
        """The folder."""
        return f"<Collection {self.path}>"

    def __len__(self) -> int:
        """The number of passages."""
        return len(self.snapshot())

    @classmethod
    def open(cls, path: str | Path) -> Collection:
        """The collection in the folder ``path``.

        Raises:
            NotFound: there is none, or its first job has not finished.
            Damaged: its newest manifest does not hold what was committed.
        """
        collection = cls(Path(path))
        collection._opened = manifest.read(collection.path)
        return collection

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        fields: Mapping[str, FieldType] | None = None,
        split: Split | None = None,
        indexes: Mapping[str, IndexKind] | None = None,
        pipeline: str | None = None,
    ) -> Collection:
        """A new, empty collection in the folder ``path``.

        Args:
            path: a folder that does not exist or is empty.
            fields: the declared fields of passages, name to type.
            split: how documents are cut into passages; None keeps them whole.
            indexes: name to index kind; default: one ``Lexical()`` called ``lexical``.
            pipeline: the default pipeline, by name or file.

        Raises:
            InvalidInput: the folder holds something, or a field has a reserved name.
        """
        collection = cls(Path(path))
        if manifest.numbers(collection.path):
            raise InvalidInput(f"{path}: is a collection already; Collection.open opens it")
        wanted = wanted_manifest(None, fields, split, indexes, pipeline, {})
        with leases.writing(collection.path, rewrites=True, pieces=False):
            commit_after(collection.path, None, lambda _: wanted)
        return collection

    @classmethod
    def build(
        cls,
        source: str | Path | Source | Rows,
        path: str | Path,
        *,
        fields: Mapping[str, FieldType] | None = None,
        split: Split | None = None,
        indexes: Mapping[str, IndexKind] | None = None,
        pipeline: str | None = None,
        segment_rows: int = SEGMENT_ROWS,
        workers: int | None = None,
        ray: str | None = None,
        resources: Mapping[str, Resources] | None = None,
        progress: Progress = silent,
    ) -> tuple[Collection, Done]:
        """Make the collection in the folder ``path`` equal ``source``.

        Parts of the source that have not changed are kept. Run again after it was killed, it goes
        on where it stopped. Nothing is visible before the one commit at its end.

        Args:
            source: a path that ``rag.sources.detect`` knows, a ``Source``, or rows.
            path: the folder; made where it does not exist.
            fields: the declared fields, name to type.
            split: how documents are cut into passages.
            indexes: name to index kind; those that the collection has are kept too. Default: one
                ``Lexical()`` called ``lexical``.
            pipeline: the default pipeline, by name or file.
            segment_rows: the most passages in a segment. Fewer mean less memory while building.
            workers: processes that build; default: this one alone, and on Ray as many as there is
                room for.
            ray: build on a Ray cluster: ``local``, or the address of one (docs/ray.md).
            resources: what workers need in the steps ``index``, ``merge``, ``train``, ``build``.
            progress: called as the work goes on.

        Returns:
            The collection, and what was done.

        Raises:
            BadRow: a row cannot be indexed; nothing has changed.
            Conflict: another job is writing here.
        """
        collection = cls(_place(path, ray))
        job = _job(workers, ray, progress, segment_rows, resources)
        began = time.monotonic()
        with (
            running(job),
            leases.writing(collection.path, rewrites=True),
            as_source(collection.path, source, {}) as resolved,
        ):
            known = manifest.numbers(collection.path)
            old = manifest.read(collection.path) if known else None
            wanted = wanted_manifest(old, fields, split, indexes, pipeline, resolved.fields)
            settings = [wanted.content(), resolved.model_dump(), segment_rows]
            listing = log.listing(resolved.files(), settings)
            if old is not None and collection._is_as_logged(old, listing):
                return collection, Done(old, unchanged=True)
            reader, bad_file = collection._reader(resolved, wanted)
            done = index_job.mirror(collection.path, reader, wanted, job)
            done = _with_bad(done, reader, bad_file, job)
            collection._log(done, began, source=resolved.path, listing=listing, job="index")
        return collection, done

    def add(
        self,
        source: str | Path | Source | Rows,
        *,
        on_existing: OnExisting = "fail",
        on_bad: Literal["stop", "skip"] = "stop",
        segment_rows: int = SEGMENT_ROWS,
        workers: int | None = None,
        ray: str | None = None,
        progress: Progress = silent,
    ) -> Done:
        """Add the documents of ``source`` as new segments, in one commit.

        A document that is there already stops the job (``fail``), is kept (``skip``) or gives way
        to the new one (``replace``); a row that cannot be read stops it too, or is skipped
        (``on_bad``). The field mapping of the first source is used again, where
        ``source`` is a path.

        Raises:
            BadRow: a row cannot be indexed; nothing has changed.
            InvalidInput: a document is there already and ``on_existing`` is ``fail``.
            Conflict: another job is writing here.
        """
        job = _job(workers, ray, progress, segment_rows)
        place = _place(self.path, ray)
        began = time.monotonic()
        with running(job), leases.writing(self.path):
            current = manifest.read(self.path)
            with as_source(self.path, source, current.mapping) as resolved:
                resolved = resolved.model_copy(update={"on_bad": on_bad})
                reader, bad_file = self._reader(resolved, current)
                done = add(place, reader, on_existing, job)
                done = _with_bad(done, reader, bad_file, job)
                self._log(done, began, source=resolved.path, job="add")
        return done

    def add_index(
        self,
        indexes: Mapping[str, IndexKind],
        *,
        retrain: bool = False,
        workers: int | None = None,
        ray: str | None = None,
        resources: Mapping[str, Resources] | None = None,
        progress: Progress = silent,
    ) -> Done:
        """Build further ``indexes`` (name to kind) of the passages that are there.

        Vectors that another index has of the same encoder are shared, and not made again.

        Args:
            indexes: name to kind.
            retrain: have those that are there already and were trained (``IVF…``) learn anew from
                all passages, after many were added.
            workers: processes that build, as in ``build``.
            ray: a Ray cluster to build on, as in ``build``.
            resources: what workers need, as in ``build``.
            progress: called as the work goes on.

        Raises:
            InvalidInput: an index needs more passages to learn from than there are.
            Damaged: a segment is damaged.
            Conflict: another job is writing here.
        """
        job = _job(workers, ray, progress, SEGMENT_ROWS, resources)
        place = _place(self.path, ray)
        began = time.monotonic()
        with running(job), leases.writing(self.path, rewrites=True):
            wanted = index_kinds(indexes)
            done = index_job.add_indexes(place, wanted, job, retrain=retrain)
            done = replace(done, failures=tuple(job.executor.failures))
            self._log(done, began, job="add_index", indexes=sorted(indexes))
        return done

    def delete(self, ids: Sequence[str]) -> Done:
        """Hide passages by id, or all passages of a document by the document's id.

        Raises:
            NotFound: an id is neither; all that are missing are named, and nothing is deleted.
        """
        if isinstance(ids, str):
            raise InvalidInput("delete takes a list of ids; write delete([id])")
        began = time.monotonic()
        names = list(dict.fromkeys(ids))
        for name in names:
            if not isinstance(name, str):
                raise InvalidInput(f"delete takes a list of ids; found {name!r}, expected a string")
        with leases.writing(self.path, pieces=False):
            done = delete(self.path, names)
            if not done.unchanged:
                self._log(done, began, job="delete")
        return done

    def compact(
        self,
        *,
        segment_rows: int = SEGMENT_ROWS,
        workers: int | None = None,
        ray: str | None = None,
        progress: Progress = silent,
    ) -> Done:
        """Merge small segments and drop deleted rows; statistics are then a fresh build's."""
        job = _job(workers, ray, progress, segment_rows)
        began = time.monotonic()
        with running(job), leases.writing(self.path, rewrites=True):
            done = compact(_place(self.path, ray), job)
            done = replace(done, failures=tuple(job.executor.failures))
            self._log(done, began, job="compact")
        return done

    def clean(self, keep: int = 1, older_than: float = DAY) -> Cleaned:
        """Remove what the newest ``keep`` manifests do not name; frees the disk after ``compact``.

        Whatever is younger than ``older_than`` seconds stays, and so does what a snapshot that is
        open anywhere on this machine reads.

        Raises:
            Conflict: a job is writing here.
        """
        return clean(self.path, keep, older_than)

    def snapshot(self, number: int | None = None) -> Snapshot:
        """The newest manifest opened for reading, or the one with this ``number``."""
        newest = manifest.numbers(self.path)[-1:]
        held = self._snapshot
        if number is None and held is not None and [held.manifest.number] == newest:
            return held
        found = self._opened
        if found is None or [found.number] != newest or number not in (None, found.number):
            found = manifest.read(self.path, number)
        snapshot = Snapshot(self.path, found)
        if number is None:
            self._snapshot, self._opened = snapshot, None
        return snapshot

    def spread(
        self, *, shards: int, ray: str = "local", partial: Literal["fail", "ok"] = "fail"
    ) -> SpreadSnapshot:
        """The newest manifest, searched by actors of a Ray cluster, each with some segments.

        A pipeline takes it instead of a collection, and finds what it finds in the collection::

            with Collection.open("wiki").spread(shards=4, ray="10.0.0.5:6379") as wiki:
                Pipeline.load("wiki-qa.yaml", collection=wiki).ask("who discovered oxygen?")

        Args:
            shards: how many actors; at most as many as there are segments.
            ray: ``local`` for a cluster of this process's own, or HOST:PORT of one.
            partial: what a search does while an actor that died is started again: ``fail``, or
                ``ok``, and the column ``partial`` of its rows says what was not searched.

        Raises:
            InvalidInput: there are fewer segments than shards.
            NotFound: a machine of the cluster does not see the collection's folder.
            MissingExtra: Ray is not installed. What ``rag.ray_cluster.connect`` raises, too.
        """
        from rag.collection.spread import opened

        state = self.snapshot().manifest
        return opened(self.path, state, shards=shards, ray=ray, partial=partial)

    def search(
        self, question: str, k: int = 10, *, where: Where | Mapping[str, Any] | None = None
    ) -> list[Hit]:
        """The ``k`` best passages by BM25 (k1 0.9, b 0.4), best first.

        Args:
            question: words to search for.
            k: the most passages.
            where: a condition that passages fulfil, ``{"year": {"gte": 1990}}``; see ``rag.where``.
        """
        if k < 1:
            raise InvalidInput(f"search: found k = {k}, expected 1 or more")
        snapshot = self.snapshot()
        condition = where if where is None or isinstance(where, Where) else Where(where)
        searcher = snapshot.index(snapshot.index_name("lexical"))
        offsets, docs, scores = searcher.search([question], k, keep=snapshot.matching(condition))
        return Ranking(offsets, docs, scores, snapshot)[0]

    def passages(self) -> Iterator[dict[str, Any]]:
        """All passages in order, as mappings of their columns (``meta`` as a mapping too)."""
        for batch in self.snapshot().passages():
            for row in batch.to_pylist():
                yield {**row, "meta": json.loads(row["meta"])}

    def verify(self, progress: Progress = silent) -> list[Damaged]:
        """Read every byte and say what is damaged; the message begins with the file's path.

        The next ``build`` from the source then builds again what is damaged, but for manifests and
        hidden rows.
        """
        return verify(self.path, progress)

    def _reader(self, source: Source, wanted: Manifest) -> tuple[Reader, Path]:
        number = (manifest.numbers(self.path) or [0])[-1] + 1
        bad_file = self.path / "log" / f"skipped-{number:06d}.jsonl"
        split = Split.model_validate(wanted.split) if wanted.split is not None else None
        return Reader(source, fields=wanted.fields, split=split, skipped=bad_file), bad_file

    def _log(self, done: Done, began: float, **entry: Any) -> None:
        entry |= {"seconds": round(time.monotonic() - began, 3)}
        entry |= {"rows": done.added, "bad": done.bad, "failures": done.failures}
        state = done.manifest
        log.record(self.path, state.number, manifest=state.checksum, **entry)

    def _is_as_logged(self, state: Manifest, listing: str) -> bool:
        """Whether the job that made ``state`` read these very files, and its folders are whole."""
        entry = log.entry(self.path, state.number)
        return (
            (entry.get("manifest"), entry.get("listing")) == (state.checksum, listing)
            and not entry.get("bad")
            and all(folders.whole(self.path / name) for name in state.folders())
        )


def _job(
    workers: int | None,
    ray: str | None,
    progress: Progress,
    segment_rows: int,
    resources: Mapping[str, Resources] | None = None,
) -> Job:
    if segment_rows < 1:
        raise InvalidInput(f"segment rows: found {segment_rows}, expected 1 or more")
    needs = by_work(resources or {})
    return Job(executor(workers, ray, progress, needs), progress, segment_rows)


def _place(path: str | Path, ray: str | None) -> Path:
    """The folder as workers find it: those of Ray may run in another one."""
    return Path(path) if ray is None else Path(path).absolute()


def _with_bad(done: Done, reader: Reader, bad_file: Path, job: Job) -> Done:
    done = replace(done, bad=reader.bad, bad_file=bad_file if reader.bad else None)
    return replace(done, failures=tuple(job.executor.failures))
