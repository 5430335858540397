"""The index file: where documents come from, and which indexes are built over them.

    kind: index
    source: {type: jsonl, path: wiki.jsonl.zst, fields: {id: _id}}   # or a path: wiki.jsonl.zst
    fields: {year: int}                        # optional; str, int, float, bool
    split: {by: words, size: 100, overlap: 20} # optional
    indexes:
      lexical: {type: lexical, stemmer: porter}
    pipeline: bm25-extract                     # optional; the default pipeline
    resources: {index: {gpus: 1}}              # optional; what workers need on Ray (docs/ray.md)

The path of the source starts at the file's folder, unless it is absolute.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SkipValidation

from rag import registry
from rag.collection.kinds import INDEX_NAME, IndexKind
from rag.errors import InvalidInput, NotFound
from rag.jobs import Resources
from rag.passages import RESERVED, FieldType
from rag.pipelines.report import Report, joined
from rag.pipelines.validate import Spot, closest, shown, validated
from rag.pipelines.yaml_nodes import Node
from rag.sources import Source, Split, detect
from rag.stage import reason


class IndexFile(BaseModel):
    """An index file, read and checked."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    source: Source
    fields: dict[str, FieldType] = {}
    split: Split | None = None
    indexes: dict[str, SkipValidation[IndexKind]]
    pipeline: str | None = None
    resources: dict[str, Resources] = {}


class IndexHead(BaseModel):
    """The keys of an index file as they are written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["index"] = Field(description="What the file describes.")
    source: Any = Field(description="Where documents come from: a path, or a mapping.")
    fields: dict[str, FieldType] = Field({}, description="Typed fields to filter on.")
    split: dict[str, Any] | None = Field(None, description="How documents are cut into passages.")
    indexes: dict[str, Any] = Field(
        description="Name of an index: its type and settings.", min_length=1
    )
    pipeline: str | None = Field(None, description="The default pipeline of the collection.")
    resources: dict[Literal["index", "merge", "train", "build"], Resources] = Field(
        {}, description="What a worker needs in a step, where the job runs on a Ray cluster."
    )


def read_index(root: Node, report: Report, folder: Path) -> IndexFile | None:
    """The index file at ``root``; everything wrong with it goes to the report."""
    spot = Spot(root, root.place, "")
    head, _ = validated(IndexHead, spot, report)
    _fields(spot, report)
    source = _source(spot, report, folder)
    split = _split(spot, report)
    indexes = _indexes(spot, report)
    if head is None or source is None or report.problems:
        return None
    _pipeline(head.pipeline, spot, report)
    return IndexFile(
        source=source,
        fields=head.fields,
        split=split,
        indexes=indexes,
        pipeline=head.pipeline,
        resources=dict(head.resources),
    )


def _below(spot: Spot, key: str) -> Spot | None:
    here = isinstance(spot.node.value, dict) and key in spot.node.value
    return spot.below(key) if here else None


def _fields(root: Spot, report: Report) -> None:
    spot = _below(root, "fields")
    for name, place in spot.node.keys.items() if spot else ():
        if name in RESERVED or not name.strip():
            what = f"every passage has {name!r} already; choose another name"
            path = joined("fields", name)
            report.add(place, path, what if name in RESERVED else "the name of a field is empty")


def _source(root: Spot, report: Report, folder: Path) -> Source | None:
    spot = _below(root, "source")
    if spot is None or spot.node.broken:
        return None
    if isinstance(spot.node.value, str):
        try:
            return detect(folder / spot.node.value)
        except (InvalidInput, NotFound) as error:
            report.add(spot.node.place, "source", str(error))
            return None
    if not isinstance(spot.node.value, dict):
        what = f"found {shown(spot.node)}, expected a path or a mapping with type and path"
        report.add(spot.node.place, "source", what)
        return None
    source, _ = validated(Source, spot, report)
    declared = _below(root, "fields")
    columns = ["id", "title", "text", *(declared.node.keys if declared else ())]
    mapping = _below(spot, "fields")
    for name, place in mapping.node.keys.items() if mapping else ():
        if name not in columns:
            what = f"no such column{closest(name, columns)} (there are: {', '.join(columns)}; "
            report.add(place, f"source.fields.{name}", what + "declare others under fields)")
    return source and source.model_copy(update={"path": str(folder / source.path)})


def _split(root: Spot, report: Report) -> Split | None:
    spot = _below(root, "split")
    if spot is None or not isinstance(spot.node.value, dict):
        return None  # what it is instead, the keys of the file say
    return validated(Split, spot, report)[0]


def _indexes(root: Spot, report: Report) -> dict[str, IndexKind]:
    spot = _below(root, "indexes")
    found: dict[str, IndexKind] = {}
    for name in spot.node.keys if spot else ():
        assert spot is not None
        made = _index(spot.below(name), name, report)
        if made is not None:
            found[name] = made
    return found


def _index(spot: Spot, name: str, report: Report) -> IndexKind | None:
    if not INDEX_NAME.fullmatch(name):
        what = f"{name!r} names a folder: letters, digits, dots, - and _, with no dot at its start"
        report.add(spot.place, spot.path, what)
    if spot.node.broken:
        return None
    value = spot.node.value
    if not isinstance(value, dict) or "type" not in value:
        what = "the key is missing" if isinstance(value, dict) else f"found {shown(spot.node)}"
        known = ", ".join(registry.names("indexes"))
        message = f"{what}, expected {{type: ...}} with one of: {known}"
        report.add(spot.place, joined(spot.path, "type"), message)
        return None
    kind = value["type"]
    if kind.broken:
        return None
    if not isinstance(kind.value, str):
        report.add(kind.place, f"{spot.path}.type", f"found {shown(kind)}, expected a text")
        return None
    try:
        cls = registry.find("indexes", kind.value)
    except Exception as error:  # noqa: BLE001 - importing a plugin runs its code
        report.add(kind.place, f"{spot.path}.type", reason(error))
        return None
    settings = Node(spot.node.place, {key: node for key, node in value.items() if key != "type"})
    settings.keys = spot.node.keys
    made: IndexKind | None = validated(cls, Spot(settings, spot.place, spot.path), report)[0]
    return made


def _pipeline(name: str | None, root: Spot, report: Report) -> None:
    from rag.pipelines.load import shipped

    is_file = name is not None and ("/" in name or name.endswith((".yaml", ".yml")))
    if name is not None and not is_file and name not in shipped():
        what = f"no pipeline {name!r} is shipped{closest(name, shipped())}"
        place = root.below("pipeline").node.place
        report.add(place, "pipeline", f"{what} (shipped: {', '.join(shipped())})")
