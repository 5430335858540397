"""Recall of a dense index, measured without encoding anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag import Collection
from rag.indexers import Dense
from rag.indexers.dense import unit
from rag.indexers.dense_index import DenseIndex, Segment
from rag.indexers.dense_recall import recall
from tests.rag.drawn_encoders import install

Rag = Callable[..., tuple[int, str, str]]


class Half(DenseIndex):
    """Finds every other of the rows that exact search finds."""

    def search(self, queries: Any, k: int, *, exact: bool = False, **settings: Any) -> Any:
        offsets, rows, scores = super().search(queries, k, exact=True, **settings)
        if exact:
            return offsets, rows, scores
        some = rows.reshape(len(queries), -1)[:, ::2]
        return np.arange(len(queries) + 1) * some.shape[1], some.ravel(), scores[::2]


def test_recall_is_the_share_that_is_found() -> None:
    vectors = unit(np.random.default_rng(1).standard_normal((300, 8)).astype(np.float32))
    parts = [Segment(vectors[:100], "cosine", None), Segment(vectors[100:], "cosine", None)]
    whole, half = (cls(parts, "drawn", "") for cls in (DenseIndex, Half))
    assert recall(whole) == (200, {10: 1.0, 100: 1.0})
    keep = np.arange(300) < 40
    assert recall(whole, keep=keep) == (40, {10: 1.0, 100: 1.0})
    # Of its own row and the k next ones it finds its own and then those of even ranks.
    count, values = recall(half)
    assert (count, values) == (200, {10: 0.5, 100: 0.5})
    count, values = recall(half, (9,), queries=vectors[:7])
    assert count == 7 and values[9] == pytest.approx(5 / 9)
    assert recall(whole, keep=np.zeros(300, bool)) == (0, {10: 1.0, 100: 1.0})
    assert recall(whole, keep=np.arange(300) == 7) == (1, {10: 1.0, 100: 1.0})


def test_from_the_command_line(rag: Rag, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    encoded = install(monkeypatch)
    kinds = {
        "flat": Dense(encoder="drawn"),
        "few": Dense(encoder="drawn", factory="IVF100,SQ4"),
        "graph": Dense(encoder="drawn", factory="HNSW16"),
    }
    rng = np.random.default_rng(1)
    words = [f"w{n}" for n in range(50)]
    rows = [{"id": f"p{n}", "text": " ".join(rng.choice(words, 6))} for n in range(600)]
    made, _ = Collection.build(rows, tmp_path / "c", indexes=kinds, segment_rows=300)
    made.delete(["p1", "p2"])
    encoded.clear()
    code, out, err = rag("info", made.path, "--recall", "--json")
    assert code == 0, err
    found = {name: entry["recall"] for name, entry in json.loads(out)["indexes"].items()}
    assert encoded == []
    assert found["flat"] == {
        "queries": 200, "of": "its own vectors", "recall": {"10": 1.0, "100": 1.0}
    }  # fmt: skip
    assert 0.3 < found["few"]["recall"]["10"] <= 1
    assert found["graph"]["recall"]["10"] > 0.95
    assert rag("info", made.path, "--recall", "--json")[1] == out
    questions = tmp_path / "q.jsonl"
    questions.write_text(
        "".join(json.dumps({"question": f"w{n} w{n + 1}"}) + "\n" for n in range(9))
    )
    code, out, err = rag("info", made.path, "--recall", "--queries", questions)
    assert code == 0 and "9 queries" in out.replace("\n", " "), err
    assert rag("info", made.path, "--queries", questions)[0] == 2
    plain, _ = Collection.build(rows[:5], tmp_path / "plain")
    code, _, err = rag("info", plain.path, "--recall")
    assert code == 2 and "--index dense" in err
