"""Measuring on several processes: the same figures, and questions that no worker survives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rag import Collection, Pipeline
from rag.errors import NotFound
from rag.eval import evaluate, load
from rag.readers.extract import Extract
from rag.retrievers import BM25

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wiki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("wiki") / "wiki"
    Collection.build(ROOT / "examples/xquad-en", path)
    return path


def test_processes_measure_what_one_does(wiki: Path) -> None:
    data = load(ROOT / "examples/xquad-en")
    names = list(data.questions)[:150]
    parts: dict[str, dict[str, Any]] = {
        "questions": data.questions,
        "qrels": data.qrels,
        "answers": data.answers,
    }
    some: Any = {key: {name: part[name] for name in names} for key, part in parts.items()}
    data = replace(data, **some)
    pipeline = Pipeline([BM25(top_k=10), Extract()], wiki)
    one = evaluate(data, pipeline)
    seen: list[int] = []
    two = evaluate(data, pipeline, workers=2, progress=lambda what, done, of: seen.append(done))
    assert replace(two, seconds=0.0) == replace(one, seconds=0.0)
    assert list(two.run) == list(one.run)
    assert seen[-1] == 150


def test_a_dataset_that_is_not_there_is_named(wiki: Path, tmp_path: Path) -> None:
    from rag.eval.work import Task
    from rag.pipelines.run_job import spec_of
    from rag.pipelines.run_rows import Part

    spec = spec_of(Pipeline([BM25()], wiki), 0, 0, texts=False, alone=False)
    task = Task(spec, tmp_path / "no", None, Part(("q",), ("?",)), ranked=True, answered=False)
    with pytest.raises(NotFound, match="no: no such folder; share it, or copy it to every node"):
        task.check()
