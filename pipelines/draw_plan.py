"""What a drawing of a pipeline shows: boxes with settings, columns between them, groups."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rag.errors import RagError
from rag.named import Named
from rag.pipeline import Pipeline
from rag.stage import Columns, Stage

WIDEST = 48
"""Cells of a line of settings; longer ones are wrapped."""

LONGEST = 240
"""Characters of one setting; the rest of a long prompt is left out."""


@dataclass(frozen=True)
class Box:
    """A stage: its name, its settings that are not the default, and the columns it writes.

    A stage that holds stages has a lane for each list of them.
    """

    title: str
    settings: tuple[str, ...]
    writes: tuple[str, ...]
    lanes: tuple[Lane, ...] = ()


@dataclass(frozen=True)
class Lane:
    """Stages that run one after another."""

    title: str
    boxes: tuple[Box, ...]


def plan(pipeline: Pipeline) -> Lane:
    """The boxes of a pipeline; nothing is opened for it."""
    return _lane(pipeline.name, pipeline.stages, Columns())


def _lane(title: str, stages: Sequence[Stage], have: Columns | None) -> Lane:
    boxes = []
    for stage in stages:
        after = _after(stage, have)
        # In the order of the batch's columns, since what was written is a set.
        writes = () if after is None else tuple(n for n in after.types if n in after.written)
        lanes = tuple(_lane(name, inner, have) for name, inner in held(stage).items())
        boxes.append(Box(_title(stage), tuple(_settings(stage)), writes, lanes))
        have = after
    return Lane(_printable(title), tuple(boxes))


def _after(stage: Stage, have: Columns | None) -> Columns | None:
    """The columns after a stage; None where a list inside another stage cannot tell by itself.

    Those of the whole pipeline were checked when it was made. A stage that holds stages may give
    the lists inside it columns of its own, of which nobody else knows.
    """
    try:
        return have and stage.columns(replace(have.at(stage.label), written=frozenset()))
    except RagError:
        return None


def held(stage: Stage) -> dict[str, list[Stage]]:
    """The stages that the settings of a stage hold, by the setting's name; most hold none."""
    found: dict[str, list[Stage]] = {}
    for name, value in _fields(stage).items():
        parts = (
            {f"{name}.{key}": v for key, v in value.items()} if _is_map(value) else {name: value}
        )
        for title, part in parts.items():
            inner = list(part) if isinstance(part, list | tuple) else [part]
            if inner and all(isinstance(one, Stage) for one in inner):
                found[title] = inner
    return found


def _is_map(value: Any) -> bool:
    return isinstance(value, Mapping)


def _fields(stage: Stage) -> dict[str, Any]:
    values = {name: getattr(stage, name) for name in type(stage).model_fields}
    return values | (stage.model_extra or {})


def _title(stage: Stage) -> str:
    kind = stage.kind or type(stage).__name__
    return _printable(kind if stage.name in (None, kind) else f"{stage.name} ({kind})")


def _settings(stage: Stage) -> Iterator[str]:
    """``key: value`` of the settings that are not the default, wrapped to ``WIDEST`` cells."""
    inside = {title.partition(".")[0] for title in held(stage)}
    plain = stage.model_dump(mode="json", exclude_defaults=True, exclude={"name", *inside})
    for key, value in plain.items():
        given = getattr(stage, key)
        if isinstance(given, Named):  # a backend: its name with what is set of it
            value = {given.kind: given.model_dump(mode="json", exclude_defaults=True)}
        text = " ".join(_printable(f"{key}: {_shown(value)}").split())
        if len(text) > LONGEST:
            text = text[:LONGEST] + "…"
        yield from wrapped(text)


def _shown(value: Any) -> str:
    """A setting as YAML has it on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_shown(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_shown, value)) + "]"
    if isinstance(value, bool | None):
        return {True: "true", False: "false", None: "null"}[value]
    return str(value).replace("\n", "\\n")


def wrapped(text: str, widest: int = WIDEST) -> list[str]:
    """The lines of a text of at most ``widest`` cells, cut at spaces where there are any."""
    lines, line = [], ""
    for word in text.split(" "):
        joined = f"{line} {word}" if line else word
        if cells(joined) <= widest:
            line = joined
            continue
        if line:
            lines.append(line)
        line = word
        while cells(line) > widest:
            # As many characters as surely fit: none is wider than two cells.
            cut = widest if line.isascii() else widest // 2
            lines.append(line[:cut])
            line = "  " + line[cut:]
    return [*lines, line]


def cells(text: str) -> int:
    """How many cells of a fixed-width font a text takes; East Asian wide ones take two."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def _printable(text: str) -> str:
    """The text without what XML forbids: control characters, halves of surrogate pairs."""
    return "".join(
        c
        if unicodedata.category(c) not in ("Cc", "Cs") and c not in "\ufffe\uffff"
        else " "
        if c in "\t\n\r"
        else "\ufffd"
        for c in text
    )
