"""Encoded indexes: seven segments answer as one, and filters, deletes and compaction are exact."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("faiss")
pytest.importorskip("scipy.sparse")

from rag import Collection, Pipeline
from rag.collection import manifest
from rag.errors import InvalidInput
from rag.indexers import Dense, Sparse
from rag.retrievers import Dense as DenseStage
from rag.retrievers import Sparse as SparseStage
from tests.rag.drawn_encoders import Drawn, install

WORDS = ["apple", "birch", "cedar", "daisy", "elm", "fern", "grape", "hazel", "iris", "juniper"]
KINDS: dict[str, Any] = {
    "flat": Dense(encoder="drawn"),
    "ivf": Dense(encoder="drawn", factory="IVF20,Flat"),
    "terms": Sparse(encoder="terms"),
}
QUESTIONS = [" ".join(words) for words in itertools.combinations(WORDS[:7], 2)]


@pytest.fixture(autouse=True)
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return install(monkeypatch)


def rows(count: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(3)
    texts = [" ".join(rng.choice(WORDS, 5)) for _ in range(count)]
    return [{"id": f"p{n}", "text": f"{text} {n}", "year": n % 10} for n, text in enumerate(texts)]


def built(path: Path, count: int, kinds: Mapping[str, Any], segment_rows: int) -> Collection:
    made, _ = Collection.build(
        rows(count), path, indexes=kinds, segment_rows=segment_rows, fields={"year": "int"}
    )
    return made


def answers(made: Collection, name: str, **settings: Any) -> list[list[tuple[str, float]]]:
    stage = SparseStage if name == "terms" else DenseStage
    with Pipeline([stage(top_k=20, index=name, **settings)], collection=made) as pipeline:
        found = pipeline.run(QUESTIONS)["documents"]
    return [[(hit.id, hit.score) for hit in row] for row in found]


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same 900 passages in one segment and in seven or more."""
    folder = tmp_path_factory.mktemp("seven")
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        built(folder / "one", 900, KINDS, 1_000_000)
        built(folder / "seven", 900, KINDS, 140)
    return folder / "one", folder / "seven"


@pytest.mark.parametrize("name", KINDS)
def test_seven_segments_answer_as_one(name: str, homes: tuple[Path, Path]) -> None:
    one, seven = map(Collection.open, homes)
    assert len(one.snapshot().segments) == 1 and len(seven.snapshot().segments) >= 7
    for settings in ({}, {"where": {"year": {"lt": 2}}}, {"where": {"year": 11}}):
        assert answers(one, name, **settings) == answers(seven, name, **settings)
    learnt = [made.snapshot().manifest.indexes[name].trained for made in (one, seven)]
    if name == "ivf":  # learnt from the same passages, the same bytes
        files = [
            made.path / "trained" / str(f) for made, f in zip((one, seven), learnt, strict=True)
        ]
        assert len({(file / "trained.faiss").read_bytes() for file in files}) == 1
    else:
        assert learnt == [None, None]


@pytest.mark.parametrize("name", KINDS)
def test_deleted_added_and_compacted(name: str, tmp_path: Path, encoded: list[str]) -> None:
    made = built(tmp_path / "c", 300, {name: KINDS[name]}, 60)
    made.add([{"id": "new", "text": "apple birch apple birch", "year": 3}])
    gone = [f"p{n}" for n in range(0, 300, 3)]
    made.delete(gone)
    trained = manifest.read(made.path).indexes[name].trained
    before = answers(made, name)
    assert not {id for row in before for id, _ in row} & set(gone)
    assert any(id == "new" for id, _ in before[0])
    encoded.clear()
    made.compact()
    assert answers(made, name) == before
    assert encoded == [] and manifest.read(made.path).indexes[name].trained == trained


def test_another_factory_encodes_nothing(tmp_path: Path, encoded: list[str]) -> None:
    made = built(tmp_path / "c", 300, {"flat": KINDS["flat"]}, 60)
    encoded.clear()
    made.add_index({"ivf": KINDS["ivf"], "graph": Dense(encoder="drawn", factory="HNSW16")})
    made.add_index({"ivf": Dense(encoder="drawn", factory="IVF10,SQ8")})
    made.add_index({"ivf": Dense(encoder="drawn", factory="IVF10,SQ8")}, retrain=True)
    assert encoded == []
    state = made.snapshot().manifest
    assert len({entry.vectors for entry in state.indexes.values()}) == 1
    # The index folders of an exact search hold next to nothing.
    flat = [made.path / "indexes" / "flat" / folder for folder in state.indexes["flat"].folders]
    assert max(sum(f.stat().st_size for f in folder.iterdir()) for folder in flat) < 1000
    assert answers(made, "flat")[0][0] == answers(made, "graph")[0][0]
    made.add_index({"other": Dense(encoder="drawn2")})
    assert len(encoded) == 300
    vectors = Drawn("drawn").encode(["apple birch"])
    assert made.snapshot().index("flat").search(vectors, 3)[0].tolist() == [0, 3]


def test_too_few_passages_for_the_factory(tmp_path: Path, encoded: list[str]) -> None:
    with pytest.raises(InvalidInput, match=r"'IVF100,Flat'.* 100 rows.* 60"):
        built(tmp_path / "c", 60, {"ivf": Dense(encoder="drawn", factory="IVF100,Flat")}, 60)
    encoded.clear()
    made = built(tmp_path / "c", 60, {"ivf": KINDS["ivf"]}, 60)
    assert len(made) == 60 and encoded == []
    with pytest.raises(InvalidInput, match=r"'IVF100,Flat'"):
        made.add_index({"big": Dense(encoder="drawn", factory="IVF100,Flat")})
    assert manifest.numbers(made.path) == [1]
