"""One manifest of a collection, opened for reading."""

from __future__ import annotations

import hashlib
import os
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rag import registry
from rag.collection import leases
from rag.collection.build import kind_of, trained_path
from rag.collection.kinds import EncodedKind
from rag.collection.manifest import DeletedEntry, IndexEntry, Manifest, path_of
from rag.collection.segments import Segment
from rag.errors import REFUSED, Damaged, InvalidInput, NotFound
from rag.passages import passage_schema
from rag.where import Where

MASKS_HELD = 16
"""How many conditions a snapshot remembers the rows of."""

_COMPARED = {"id": "str", "document": "str", "title": "str"}
"""What a condition may compare besides the declared fields."""


class Snapshot:
    """The passages and the indexes that one manifest names; later commits do not disturb it.

    A passage's **number** is its segment's first row plus its row: one integer space for text and
    every index. Numbers hold only inside this snapshot; files hold ids.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        """Map the files that ``manifest``, a committed one, names.

        Raises:
            Damaged: a file is missing.
            NotFound: the manifest was removed by ``clean``.
        """
        self.path, self.manifest = path, manifest
        self._name = path.resolve().name
        # While it is open, 'rag clean' keeps what the manifest names: files are opened when needed.
        held = leases.reading(path_of(path, manifest.number))
        self._release = weakref.finalize(self, os.close, held)
        self.schema = passage_schema(manifest.fields)
        self.segments = [
            Segment(path / "segments" / entry.folder, entry.rows) for entry in manifest.segments
        ]
        rows = [entry.rows for entry in manifest.segments]
        self.starts: NDArray[np.int64] = np.cumsum([0, *rows], dtype=np.int64)
        self._searchers: dict[str, Any] = {}
        self._masks: OrderedDict[Where, NDArray[np.bool_] | None] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        """The number of passages, without the deleted ones."""
        return self.manifest.live

    @cached_property
    def identity(self) -> str:
        """The collection's name, the manifest's number and the beginning of its checksum."""
        return f"{self._name}@{self.manifest.number}-{self.manifest.checksum[:12]}"

    @cached_property
    def keep(self) -> NDArray[np.bool_] | None:
        """(rows,) bool, False for deleted passages; None where nothing is deleted."""
        if not self.manifest.deleted:
            return None
        kept = np.ones(self.manifest.rows, np.bool_)
        for start, entry in zip(self.starts, self.manifest.segments, strict=False):
            if entry.folder in self.manifest.deleted:
                gone = read_deleted(self.path, self.manifest.deleted[entry.folder])
                kept[start + gone.astype(np.int64)] = False
        kept.flags.writeable = False
        return kept

    def matching(self, where: Where | None) -> NDArray[np.bool_] | None:
        """Which passages are not deleted and fulfil ``where``; kernels take it as ``keep``.

        A condition compares the declared fields, ``id``, ``document`` and ``title``. A passage
        without a value passes no operator. The last ``MASKS_HELD`` conditions are remembered.

        Returns:
            (rows,) bool, read-only, or None where every passage stays.

        Raises:
            InvalidInput: a field is unknown, or a value does not fit its type.
        """
        if where is None:
            return self.keep
        with self._lock:
            if where in self._masks:
                self._masks.move_to_end(where)
                return self._masks[where]
        mask = self._mask(where)
        with self._lock:
            self._masks[where] = mask
            while len(self._masks) > MASKS_HELD:
                self._masks.popitem(last=False)
        return mask

    def _checked(self, where: Where) -> dict[str, str]:
        """The types of what may be compared; InvalidInput where ``where`` does not fit them."""
        types: dict[str, str] = {**self.manifest.fields, **_COMPARED}
        try:
            where.check(types)
        except InvalidInput as error:
            raise InvalidInput(f"{self.path}: {error}") from None
        return types

    def _mask(self, where: Where) -> NDArray[np.bool_] | None:
        types = self._checked(where)
        names = [name for name in types if name in where.fields()]
        mask = np.empty(self.manifest.rows, np.bool_)
        for start, segment in zip(self.starts.tolist(), self.segments, strict=False):
            whole = segment.whole_batches(names)
            for first, batch in zip(segment.starts.tolist(), whole, strict=False):
                table = pa.Table.from_batches([batch])
                mask[start + first : start + first + batch.num_rows] = where.mask(table)
        if self.keep is not None:
            mask &= self.keep
        if mask.all():
            return None
        mask.flags.writeable = False
        return mask

    def rows(self, numbers: NDArray[np.int64], columns: Sequence[str]) -> pa.Table:
        """The ``columns`` of the passages with these ``numbers``, in this order."""
        unknown = [name for name in columns if name not in self.schema.names]
        if unknown:
            raise InvalidInput(
                f"passages have no column {unknown[0]!r}; they have: {', '.join(self.schema.names)}"
            )
        numbers = np.asarray(numbers, np.int64)
        if len(numbers) and (numbers.min() < 0 or numbers.max() >= self.manifest.rows):
            raise InvalidInput(f"{self.identity}: passage numbers run to {self.manifest.rows - 1}")
        places = np.searchsorted(self.starts, numbers, "right") - 1
        used = np.unique(places).tolist()
        if len(used) == 1:
            return self.segments[used[0]].take(numbers - self.starts[used[0]], columns)
        order = np.argsort(places, kind="stable")
        tables = [
            self.segments[place].take(numbers[places == place] - self.starts[place], columns)
            for place in used
        ]
        if not tables:
            return pa.schema([self.schema.field(name) for name in columns]).empty_table()
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        return pa.concat_tables(tables).take(pa.array(back))

    def find(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """The number of each passage id, (n,) int64; -1 where there is none (or it is deleted)."""
        found = np.full(len(ids), -1, np.int64)
        for start, segment in zip(self.starts, self.segments, strict=False):
            rows = segment.rows_of(ids)
            there = (rows >= 0) & self._kept(rows + start)
            found[there] = rows[there] + start
        return found

    def find_documents(self, documents: Sequence[str]) -> dict[int, NDArray[np.int64]]:
        """Place in ``documents`` to the numbers of its passages, for those that are there."""
        found: dict[int, NDArray[np.int64]] = {}
        for start, segment in zip(self.starts, self.segments, strict=False):
            for place, rows in segment.document_rows(documents).items():
                numbers = rows[self._kept(rows + start)] + start
                if len(numbers):
                    earlier = found.get(place, numbers[:0])
                    found[place] = np.concatenate([earlier, numbers])
        return found

    def _kept(self, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
        if self.keep is None:
            return np.ones(len(numbers), np.bool_)
        return self.keep[numbers]

    def numbers(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """The number of each passage id, (n,) int64.

        Raises:
            NotFound: an id is absent or deleted.
        """
        found = self.find(ids)
        missing = np.flatnonzero(found < 0)
        if len(missing):
            raise NotFound(f"{self.identity}: no passage {ids[int(missing[0])]!r}")
        return found

    def passages(self) -> Iterator[pa.RecordBatch]:
        """All passages that are not deleted, in order, as record batches."""
        for start, segment in zip(self.starts.tolist(), self.segments, strict=False):
            for first, batch in zip(segment.starts.tolist(), segment.whole_batches(), strict=False):
                if self.keep is None:
                    yield batch
                else:
                    part = slice(start + first, start + first + batch.num_rows)
                    yield batch.filter(pa.array(self.keep[part]))

    def index_name(self, type: str, name: str | None = None) -> str:
        """The name of the index of a ``type``; the only one, where ``name`` is None.

        Raises:
            NotFound: there is none, or none of this name.
            InvalidInput: there are several and none is named, or the named one has another type.
        """
        entries = self.manifest.indexes
        fitting = [known for known, entry in entries.items() if entry.type == type]
        if name is not None:
            if name in fitting:
                return name
            if name in entries:
                raise InvalidInput(f"index {name!r} is {entries[name].type}, not {type}")
            have = ", ".join(entries) or "none"
            raise NotFound(f"{self.path}: no index {name!r}; there are: {have}")
        if not fitting:
            fields = getattr(registry.find("indexes", type), "model_fields", {})
            needs = [f" --{key} NAME" for key in ("model", "encoder") if key in fields]
            raise NotFound(
                f"{self.path}: has no {type} index; "
                f"'rag index {self.path} --index {type}{''.join(needs)}' adds one"
            )
        if len(fitting) > 1:
            raise InvalidInput(
                f"{self.path}: has several {type} indexes ({', '.join(fitting)}); "
                f"name one with 'index:'"
            )
        return fitting[0]

    def index(self, name: str) -> Any:
        """The searcher of an index over all segments, opened once."""
        with self._lock:
            if name not in self._searchers:
                self._searchers[name] = self._open(name, self.manifest.indexes[name])
            return self._searchers[name]

    def _open(self, name: str, entry: IndexEntry) -> Any:
        kind = kind_of(entry.type, entry.settings)
        folders = [self.path / "indexes" / name / folder for folder in entry.folders]
        if not isinstance(kind, EncodedKind):
            return kind.open(folders)
        vectors = [self.path / "vectors" / folder for folder in entry.vectors]
        return kind.open(folders, vectors, trained_path(self.path, entry.trained))


_ANEW = "'rag index' from the source shows all its passages again; then delete anew"


def read_deleted(path: Path, entry: DeletedEntry) -> NDArray[np.uint32]:
    """The hidden rows of one segment, ascending uint32; ``Damaged`` if the file changed."""
    file = path / "deleted" / entry.file
    try:
        data = file.read_bytes()
    except OSError as error:
        if error.errno in REFUSED:
            raise
        raise Damaged(f"{file}: {error.strerror or error}; {_ANEW}") from None
    found = hashlib.sha256(data).hexdigest()
    if found != entry.sha256:
        what = f"sha256 is {found[:16]}…, not {entry.sha256[:16]}…"
        raise Damaged(f"{file}: {what}; {_ANEW}")
    with file.open("rb") as stream:
        rows: NDArray[np.uint32] = np.load(stream, allow_pickle=False)
    return rows
