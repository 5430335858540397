"""What a job is to reach: what is asked for, as a manifest without segments."""

from __future__ import annotations

from collections.abc import Mapping

from rag import registry
from rag.collection.kinds import INDEX_NAME, EncodedKind, IndexKind, Pinned, PlainKind
from rag.collection.manifest import IndexEntry, Manifest
from rag.errors import InvalidInput
from rag.passages import ARROW_TYPES, RESERVED, FieldType
from rag.sources import Split


def index_kinds(indexes: Mapping[str, IndexKind]) -> dict[str, IndexEntry]:
    """The entries of index kinds by name, pinned, without folders.

    Raises:
        InvalidInput: a name that no folder can have, or a value that is no index kind.
    """
    for name in indexes:
        if not INDEX_NAME.fullmatch(name):
            raise InvalidInput(f"index name {name!r}: use letters, digits, -, _ and dots")
    for name, kind in indexes.items():
        if not isinstance(kind, (PlainKind, EncodedKind)):
            raise InvalidInput(f"index {name!r}: found {kind!r}, expected an index kind: Lexical()")
    entries = {}
    for name, kind in indexes.items():
        pinned = kind.pinned() if isinstance(kind, Pinned) else kind
        settings = pinned.model_dump(mode="json")
        entries[name] = IndexEntry(type=kind.kind, settings=settings, folders=())
    return entries


def wanted_manifest(
    old: Manifest | None,
    fields: Mapping[str, FieldType] | None,
    split: Split | None,
    indexes: Mapping[str, IndexKind] | None,
    pipeline: str | None,
    mapping: Mapping[str, str],
) -> Manifest:
    """The manifest to reach, without segments: what is asked, else what the collection has.

    Raises:
        InvalidInput: a field's name is taken, its type is unknown, or what ``index_kinds`` raises.
    """
    for name, kind in (fields or {}).items():
        if name in RESERVED:
            raise InvalidInput(f"field {name!r}: the name is taken ({', '.join(RESERVED)})")
        if kind not in ARROW_TYPES:
            raise InvalidInput(f"field {name!r}: found {kind!r}, expected {', '.join(ARROW_TYPES)}")
    if indexes is None and old is None:
        indexes = {"lexical": registry.find("indexes", "lexical")()}
    entries = {
        name: entry.model_copy(update={"folders": (), "vectors": ()})
        for name, entry in (old.indexes if old is not None else {}).items()
    }
    return Manifest(
        # Sorted, as a manifest is written: the columns of all segments stand in one order.
        fields=dict(sorted((fields or {}).items())),
        split=split.model_dump() if split is not None else None,
        mapping=dict(mapping),
        indexes=dict(sorted({**entries, **index_kinds(indexes or {})}.items())),
        pipeline=pipeline if pipeline is not None else (old.pipeline if old is not None else None),
    )
