"""Drawings of pipelines: well formed, complete, and the same each time."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from rag import Pipeline, Stage
from rag.flow import Branch, Repeat, Unless
from rag.pipelines import mermaid, shipped, svg
from rag.pipelines.draw_plan import LONGEST, WIDEST, cells, plan, wrapped
from rag.readers.extract import Extract
from rag.retrievers import BM25

SVG = "{http://www.w3.org/2000/svg}"


class Nasty(Stage):
    """A stage whose settings try to leave their place in the drawing."""

    text: str = ""

    def columns(self, have: Any) -> Any:
        return have.put(nasty="str")

    def open(self, context: Any) -> Any:
        raise AssertionError("nothing is opened for a drawing")


def texts(document: str) -> str:
    return "\n".join(node.text or "" for node in ET.fromstring(document).iter(f"{SVG}text"))


def nested() -> Pipeline:
    when: Any = {"confidence": {"gte": 0.8}}
    return Pipeline(
        [
            BM25(name="first", top_k=50),
            Repeat(times=2, trace="hops", stages=[BM25(top_k=7)]),
            Branch(small=[Extract(passages=1)], large=[Extract(passages=3)]),
            Extract(),
            Unless(when=when, stages=[BM25(top_k=9), Extract(passages=2)]),
        ],
        name="hops",
    )


@pytest.mark.parametrize("name", [*shipped(), None])
def test_every_stage_and_every_column_is_named(name: str | None) -> None:
    pipeline = nested() if name is None else Pipeline.load(name)
    drawn, text = texts(svg(pipeline)), mermaid(pipeline)
    for stage in pipeline.stages:
        assert stage.label in drawn
        assert stage.label in text
    for column in pipeline.columns.types:
        assert re.search(rf"\b{re.escape(column)}\b", drawn)
        assert re.search(rf"\b{re.escape(column)}\b", text)


def test_groups_hold_their_stages_with_their_settings() -> None:
    first, repeat, branch, _, unless = plan(nested()).boxes
    assert (first.title, first.settings) == ("first (bm25)", ("top_k: 50",))
    assert repeat.settings == ("times: 2", "trace: hops")
    assert [lane.title for lane in branch.lanes] == ["small", "large"]
    assert [lane.boxes[0].settings for lane in branch.lanes] == [("passages: 1",), ("passages: 3",)]
    inner = [box.writes for box in unless.lanes[0].boxes]
    assert inner == [("documents",), ("answer", "confidence", "citations", "route")]
    assert "small.answer" in branch.writes
    assert "when: {confidence: {gte: 0.8}}" in unless.settings
    text = mermaid(nested())
    assert text.count("subgraph ") == text.count("\n    end") + text.count("\n  end") == 7


NASTY = '</text><script>"x"</script> & ]]> #quot; `a` |b| %% \x00\x1b\ud800\uffff é 漢字 end'


def test_texts_are_escaped() -> None:
    pipeline = Pipeline([Nasty(text=NASTY.replace("\ud800", ""))], name=f"<{NASTY}>")
    document = svg(pipeline)
    document.encode()
    root = ET.fromstring(document)
    assert not list(root.iter(f"{SVG}script"))
    drawn = texts(document)
    assert '<script>"x"</script>' in drawn
    assert "漢字" in drawn
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", document)
    for line in mermaid(pipeline).splitlines():
        assert line.count('"') in (0, 2)
        inside = re.search(r'"(.*)"', line)
        for text in [inside[1].replace("<br/>", "")] if inside else []:
            assert not re.search(r'[<>"`|%&\\]', text)
            assert not re.search(r"#(?!\d+;)", text)


def test_mermaid_ids_are_unique_and_those_of_arrows_exist() -> None:
    text = mermaid(nested())
    assert text.startswith("flowchart TD\n")
    made = re.findall(r"^ +(?:subgraph )?(\w+)(?:\[|\(\[)", text, re.MULTILINE)
    assert len(made) == len(set(made))
    assert not {"end", "graph", "subgraph", "style", "class"} & set(made)
    for left, right in re.findall(r"^ +(\w+) -->(?:\|.*\|)? (\w+)$", text, re.MULTILINE):
        assert {left, right} <= set(made)


def inside(inner: Any, outer: Any) -> bool:
    return bool(
        outer[0] <= inner[0]
        and outer[1] <= inner[1]
        and inner[2] <= outer[2]
        and inner[3] <= outer[3]
    )


def apart(a: Any, b: Any) -> bool:
    return bool(a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1])


def test_boxes_lie_in_one_another_or_apart_and_texts_in_the_page() -> None:
    root = ET.fromstring(svg(nested()))
    boxes = []
    for node in root.iter(f"{SVG}rect"):
        x, y = int(node.get("x", 0)), int(node.get("y", 0))
        boxes.append((x, y, x + int(node.get("width", 0)), y + int(node.get("height", 0))))
    page = boxes[0]
    for number, one in enumerate(boxes):
        assert inside(one, page)
        for other in boxes[number + 1 :]:
            assert apart(one, other) or inside(one, other) or inside(other, one)
    for node in root.iter(f"{SVG}text"):
        x, y = int(node.get("x", 0)), int(node.get("y", 0))
        assert inside((x, y - 12, x + int(cells(node.text or "") * 7.2), y + 3), page)


def test_long_settings_are_wrapped_and_cut() -> None:
    (box,) = plan(Pipeline([Nasty(text="x" * 5000)])).boxes
    assert all(cells(line) <= WIDEST for line in box.settings)
    assert sum(map(len, box.settings)) < LONGEST + 30
    assert wrapped("漢" * 100)[0] == "漢" * (WIDEST // 2)
    assert wrapped("a b", 3) == ["a b"]


def test_the_same_pipeline_gives_the_same_drawing() -> None:
    assert svg(nested()) == svg(nested())
    assert mermaid(nested()) == mermaid(nested())
