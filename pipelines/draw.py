"""A pipeline as a picture, from its settings alone: SVG, or text for Mermaid.

Mermaid is what GitHub, GitLab and many wikis draw from a block of text. Both are the same for the
same pipeline, and nothing is opened or asked over the network.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from rag.pipeline import Pipeline
from rag.pipelines import draw_svg
from rag.pipelines.draw_plan import Box, Lane, plan
from rag.stage import Columns

START, END = "questions", "result"


def svg(pipeline: Pipeline) -> str:
    """The pipeline as an SVG document, readable in light and in dark."""
    return draw_svg.document(plan(pipeline), _given(), (START, END))


def mermaid(pipeline: Pipeline) -> str:
    """The pipeline as a flowchart in Mermaid's text, ending in a newline."""
    return "\n".join(["flowchart TD", *_root(plan(pipeline), count(1))]) + "\n"


def _given() -> tuple[str, ...]:
    """The columns that there are before any stage."""
    return tuple(Columns().types)


def _root(lane: Lane, numbers: Iterator[int]) -> Iterator[str]:
    yield f'  start(["{START}"])'
    last, label = "start", _given()
    for box in lane.boxes:
        name = f"s{next(numbers)}"
        yield from _node(name, box, numbers, "  ")
        yield f"  {_arrow(last, label, name)}"
        last, label = name, box.writes
    yield f'  finish(["{END}"])'
    yield f"  {_arrow(last, label, 'finish')}"


def _node(name: str, box: Box, numbers: Iterator[int], indent: str) -> Iterator[str]:
    text = "<br/>".join(map(_escaped, (box.title, *box.settings)))
    if not box.lanes:
        yield f'{indent}{name}["{text}"]'
        return
    yield f'{indent}subgraph {name}["{text}"]'
    for lane in box.lanes:
        yield from _lane(f"s{next(numbers)}", lane, numbers, f"{indent}  ")
    yield f"{indent}end"


def _lane(name: str, lane: Lane, numbers: Iterator[int], indent: str) -> Iterator[str]:
    yield f'{indent}subgraph {name}["{_escaped(lane.title)}"]'
    before: tuple[str, Box] | None = None
    for box in lane.boxes:
        inner = f"s{next(numbers)}"
        yield from _node(inner, box, numbers, f"{indent}  ")
        if before is not None:
            yield f"{indent}  {_arrow(before[0], before[1].writes, inner)}"
        before = inner, box
    yield f"{indent}end"


def _arrow(left: str, columns: tuple[str, ...], right: str) -> str:
    label = f'|"{_escaped(", ".join(columns))}"|' if columns else ""
    return f"{left} -->{label} {right}"


def _escaped(text: str) -> str:
    """A text inside Mermaid's quotation marks, where HTML and #codes; have a meaning."""
    return "".join(c if c.isalnum() or c in " ,.:_-/(){}[]=+…" else f"#{ord(c)};" for c in text)
