"""What ``rag info`` shows of a collection: a table, and how much its dense indexes find."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag.cli.output import console

if TYPE_CHECKING:
    from rag.collection.snapshot import Snapshot


def recalls(snapshot: Snapshot, queries: Path | None) -> dict[str, dict[str, Any]]:
    """The recall of each dense index by its name: how many queries, what they are, and values.

    ``queries`` is a file of questions, as ``rag run`` reads it; only they are encoded. Without one
    the index is searched with vectors of its own, and nothing is encoded.

    Raises:
        InvalidInput: there is no dense index, or its encoder has changed.
        BadRow: a question cannot be used.
    """
    from rag.collection.build import kind_of
    from rag.collection.kinds import EncodedKind
    from rag.errors import InvalidInput
    from rag.indexers.dense_recall import recall

    names = [
        name
        for name, entry in snapshot.manifest.indexes.items()
        if isinstance(kind_of(entry.type, entry.settings), EncodedKind)
        and hasattr(snapshot.index(name), "vectors")
    ]
    if not names:
        raise InvalidInput(
            f"--recall: {snapshot.path} has no dense index; "
            f"'rag index {snapshot.path} --index dense --encoder NAME' adds one"
        )
    asked = _questions(queries) if queries is not None else None
    found = {}
    for name in names:
        index = snapshot.index(name)
        vectors = None if asked is None else _encoded(index, asked)
        count, values = recall(index, queries=vectors, keep=snapshot.keep)
        found[name] = {
            "queries": count,
            "of": "its own vectors" if queries is None else str(queries),
            "recall": {str(k): value for k, value in values.items()},
        }
    return found


def _questions(file: Path) -> list[str]:
    from rag.pipelines.run_rows import parts

    return [question for part in parts(file) for question in part.questions]


def _encoded(index: Any, questions: list[str]) -> Any:
    from rag.encoders.load import encoder_hash, load_encoder
    from rag.indexers.dense import check_hash

    check_hash(index.encoder, encoder_hash(index.encoder), index.hash)
    return load_encoder(index.encoder).encode(questions, kind="query")


def print_facts(path: Path, facts: Mapping[str, Any]) -> None:
    """A table of what ``rag.collection.info.describe`` says."""
    from rich.table import Table

    table = Table("", "", title=str(path), show_header=False, title_justify="left")
    for key in ("manifest", "passages", "deleted", "characters", "bytes", "pipeline", "split"):
        value = facts[key]
        if value is not None:
            table.add_row(key, f"{value:,}" if isinstance(value, int) else str(value))
    for name, kind in facts["fields"].items():
        table.add_row(f"field {name}", kind)
    for name, entry in facts["indexes"].items():
        settings = ", ".join(f"{key}: {value}" for key, value in entry["settings"].items())
        sizes = [f"{entry['bytes']:,} bytes"]
        for part in ("vectors", "trained"):
            size = entry[f"{part}_bytes"]
            sizes += [f"{part} {size:,}"] if size else []
        table.add_row(f"index {name}", f"{entry['type']} ({settings}), {', '.join(sizes)}")
        if "recall" in entry:
            said = entry["recall"]
            values = ", ".join(f"{value:.4f} at {k}" for k, value in said["recall"].items())
            table.add_row("  recall", f"{values} ({said['queries']:,} queries: {said['of']})")
    table.add_row("segments", str(len(facts["segments"])))
    for entry in facts["segments"][:20]:
        deleted = f", {entry['deleted']:,} deleted" if entry["deleted"] else ""
        table.add_row(f"  {entry['folder'][:16]}…", f"{entry['rows']:,} rows{deleted}")
    if len(facts["segments"]) > 20:
        table.add_row("  …", f"{len(facts['segments']) - 20} more; --json lists all")
    console().print(table)
