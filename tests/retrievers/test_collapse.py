"""The stage ``collapse`` on top of what ``rag.collapse`` does."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from rag.batch import Batch
from rag.errors import InvalidInput, MissingColumn
from rag.pipeline import Pipeline
from rag.ranking import Ranking
from rag.retrievers.collapse import Collapse
from rag.stage import Columns
from rag.testing import MemorySnapshot, check_stage

PASSAGES = [
    {"id": f"{'ab'[n % 2]}#{n}", "document": "ab"[n % 2], "text": text}
    for n, text in enumerate(["x y z", "X, y z!", "p q r", "x y"])
]
SNAPSHOT = MemorySnapshot(PASSAGES)
BATCH = Batch.of(["q", "r", "s"]).put(
    documents=Ranking.of(
        [[(0, 1.0), (1, 3.0), (2, 2.0), (3, 1.0)], None, [(3, 1.0), (1, 0.5)]], SNAPSHOT
    )
)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [["b#1", "a#2"], [], ["b#3"]]),
        ({"top_k": 1}, [["b#1"], [], ["b#3"]]),
        ({"by": "text"}, [["a#0", "a#2", "b#3"], [], ["b#3", "b#1"]]),
        ({"by": "text", "threshold": 1.0, "top_k": 2}, [["a#0", "a#2"], [], ["b#3", "b#1"]]),
    ],
)
def test_one_of_each_stays(settings: dict[str, Any], expected: list[list[str]]) -> None:
    after = check_stage(Collapse(into="few", **settings), BATCH)
    assert [[hit.id for hit in after["few"][row]] for row in range(3)] == expected
    assert after["few"].is_valid.tolist() == [True, False, True]
    assert after["documents"] == BATCH["documents"]


def test_mistakes_are_named() -> None:
    with pytest.raises(ValidationError, match="threshold: is of 'by: text'; add that"):
        Collapse(threshold=0.5)
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        Collapse(by="text", threshold=2)
    with pytest.raises(MissingColumn, match="'documents', which no earlier stage writes"):
        Pipeline([Collapse()])
    with pytest.raises(InvalidInput, match="reads column 'question' as ranking"):
        Collapse(of="question").columns(Columns(stage="collapse"))
