"""A batch as an Arrow table and back, without loss.

Passage numbers hold only inside a snapshot, so a ranking is written with the passages' ids; each
field's metadata says its column type, and for a ranking which snapshot it came from.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from rag.batch import Batch, Citation, Column
from rag.errors import InvalidInput
from rag.ranking import Ranking, Snapshot

_TEXT = pa.large_string()
_CITATION = pa.struct(
    [
        ("marker", pa.int64()),
        ("id", _TEXT),
        ("title", _TEXT),
        ("start", pa.int64()),
        ("end", pa.int64()),
        ("text", _TEXT),
    ]
)
_ARROW = {
    "str": _TEXT,
    "float": pa.float32(),
    "bool": pa.bool_(),
    "texts": pa.large_list(_TEXT),
    "citations": pa.large_list(_CITATION),
    "struct": _TEXT,
    "null": pa.null(),
}


def to_arrow(batch: Batch) -> pa.Table:
    """The batch as a table, one row a question; ``from_arrow`` gives the same batch back.

    Raises:
        InvalidInput: a text cannot be written as UTF-8 (a lone surrogate).
    """
    arrays, fields = [], []
    for name, kind in {"id": "str", **batch.columns}.items():
        column = batch[name]
        try:
            array = _ranking_array(column) if kind == "ranking" else _array(column, kind)
        except UnicodeEncodeError as error:
            raise InvalidInput(f"batch: column {name!r}: {error}; remove the surrogate") from None
        metadata = {"rag.type": kind}
        if kind == "ranking":
            metadata |= {
                "rag.snapshot": column.snapshot.identity,
                "rag.evidence": json.dumps(list(column.evidence)),
                "rag.spans": json.dumps(column.spans is not None),
                "rag.texts": json.dumps(column.texts is not None),
                "rag.valid": json.dumps(column.valid is not None),
            }
        arrays.append(array)
        fields.append(pa.field(name, array.type, nullable=name != "id", metadata=metadata))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def from_arrow(table: pa.Table, snapshot: Snapshot | None = None) -> Batch:
    """The batch that ``to_arrow`` wrote; ``snapshot`` gives the passages of its rankings.

    Raises:
        InvalidInput: the table was not written by ``to_arrow``, or it holds rankings and no
            ``snapshot`` is given.
        NotFound: the snapshot lacks a passage of a ranking.
    """
    columns: dict[str, Column] = {}
    for field in table.schema:
        if field.name == "id":
            continue
        metadata = {k.decode(): v.decode() for k, v in (field.metadata or {}).items()}
        kind = metadata.get("rag.type")
        if kind is None:
            raise InvalidInput(f"arrow table: field {field.name!r} does not name its column type")
        array = table[field.name].combine_chunks()
        if kind == "ranking":
            if snapshot is None:
                raise InvalidInput(
                    f"arrow table: column {field.name!r} ranks passages of "
                    f"{metadata['rag.snapshot']}; give that snapshot to from_arrow"
                )
            columns[field.name] = _ranking(array, metadata, snapshot)
        else:
            columns[field.name] = tuple(_value(value, kind) for value in array.to_pylist())
    if "id" not in table.column_names:
        raise InvalidInput("arrow table: there is no column 'id'")
    return Batch(table["id"].to_pylist(), columns)


def _array(column: Sequence[Any], kind: str) -> pa.Array:
    if kind == "struct":
        column = [None if v is None else json.dumps(dict(v), sort_keys=False) for v in column]
    if kind == "citations":
        column = [None if v is None else [asdict(part) for part in v] for v in column]
    return pa.array(column, _ARROW[kind])


def _value(value: Any, kind: str) -> Any:
    if value is None:
        return None
    if kind == "struct":
        return json.loads(value)
    if kind == "citations":
        return tuple(Citation(**part) for part in value)
    return tuple(value) if kind == "texts" else value


def _ranking_array(ranking: Ranking) -> pa.Array:
    ids = ranking.snapshot.rows(ranking.docs, ("id",))["id"].combine_chunks()
    parts = {"id": ids, "score": pa.array(ranking.scores, pa.float32())}
    if ranking.spans is not None:
        parts["start"] = pa.array(ranking.spans[:, 0], pa.int32())
        parts["end"] = pa.array(ranking.spans[:, 1], pa.int32())
    if ranking.texts is not None:
        parts["text"] = pa.array(ranking.texts, _TEXT)
    for name, values in ranking.evidence.items():
        parts[f"evidence.{name}"] = pa.array([json.dumps(value) for value in values], _TEXT)
    if isinstance(ids, pa.ChunkedArray):
        parts["id"] = pa.concat_arrays(ids.chunks) if ids.num_chunks else pa.array([], _TEXT)
    entries = pa.StructArray.from_arrays(list(parts.values()), names=list(parts))
    mask = None if ranking.valid is None else pa.array(~ranking.is_valid)
    return pa.LargeListArray.from_arrays(pa.array(ranking.offsets), entries, mask=mask)


def _ranking(array: pa.Array, metadata: dict[str, str], snapshot: Snapshot) -> Ranking:
    # A null row may still span entries after a slice, so lengths come from the list itself.
    lengths = array.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    flat = array.flatten()

    def entry(name: str) -> Any:
        return flat.field(name).to_pylist()

    spans = None
    if json.loads(metadata["rag.spans"]):
        spans = np.column_stack((entry("start"), entry("end"))).reshape(-1, 2)
    evidence = {
        name: [json.loads(value) for value in entry(f"evidence.{name}")]
        for name in json.loads(metadata["rag.evidence"])
    }
    return Ranking(
        np.concatenate(([0], np.cumsum(lengths))),
        snapshot.numbers(entry("id")),
        flat.field("score").to_numpy(zero_copy_only=False),
        snapshot,
        spans=spans,
        texts=entry("text") if json.loads(metadata["rag.texts"]) else None,
        evidence=evidence,
        valid=array.is_valid().to_numpy(zero_copy_only=False)
        if json.loads(metadata["rag.valid"])
        else None,
    )
