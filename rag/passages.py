"""The columns of a passage: what sources yield, segments store and indexes read.

Every room speaks of passages by these names, so they stand in one place:

- ``id``        unique in the collection; ``{document}#{part}`` where a document was split
- ``document``  the id of the document that the passage was cut from (its own id when unsplit)
- ``part``      0-based number of the passage in its document
- ``start``, ``end``  where ``text`` lies in its document, in characters (code points)
- ``title``, ``text``
- the fields that the index YAML declares, each ``str``, ``int``, ``float`` or ``bool``
- ``meta``      every other key of the source row as a JSON object with sorted keys
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import pyarrow as pa

FieldType = Literal["str", "int", "float", "bool"]

ARROW_TYPES: dict[str, pa.DataType] = {
    "str": pa.large_string(),
    "int": pa.int64(),
    "float": pa.float64(),
    "bool": pa.bool_(),
}

RESERVED = ("id", "document", "part", "start", "end", "title", "text", "meta")
"""Names that a declared field may not take."""


def passage_schema(fields: Mapping[str, FieldType]) -> pa.Schema:
    """The Arrow schema of passages with the declared ``fields`` (name to type, in this order)."""
    return pa.schema(
        [
            pa.field("id", pa.large_string(), nullable=False),
            pa.field("document", pa.large_string(), nullable=False),
            pa.field("part", pa.int32(), nullable=False),
            pa.field("start", pa.int64(), nullable=False),
            pa.field("end", pa.int64(), nullable=False),
            pa.field("title", pa.large_string(), nullable=False),
            pa.field("text", pa.large_string(), nullable=False),
            *(pa.field(name, ARROW_TYPES[kind]) for name, kind in fields.items()),
            pa.field("meta", pa.large_string(), nullable=False),
        ]
    )
