"""Several datasets in one table: the mean over LoCoV1's tasks from local folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from rag import Collection
from rag.cli.app import app
from rag.sources import tasks
from rag.sources.tasks import LOCO, tasks_of

WORDS = ("iron towers", "stone bridges", "wooden boats")


@pytest.fixture
def loco(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """LoCoV1's repositories with three documents a task, and a folder for collections.

    The question of every task but the first is the text of its document.
    """
    monkeypatch.setattr(tasks, "user_cache", lambda: tmp_path / "cache")
    monkeypatch.setenv("RAG_DATASETS", str(tmp_path / "sets"))
    documents, queries = [], []
    for number, task in enumerate(LOCO):
        for at, words in enumerate(WORDS):
            passage = f"About {words} in {task.replace('_', ' ')}."
            documents.append({"pid": f"{task}-{at}", "passage": passage, "dataset": task})
        query = WORDS[0] if number else WORDS[1]
        row: dict[str, Any] = {"qid": f"{task}-q", "query": query, "answer_pids": [f"{task}-0"]}
        queries.append(row | {"dataset": task})
    for name, rows in (("Documents", documents), ("Queries", queries)):
        folder = tmp_path / "sets" / "hazyresearch" / f"LoCoV1-{name}"
        folder.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), folder / "test.parquet")
    (tmp_path / "made").mkdir()
    return tmp_path / "made"


def rag(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_suite_gives_a_row_for_each_task_and_their_mean(loco: Path) -> None:
    for task in tasks_of("loco"):
        Collection.build(task, loco / task.removeprefix("loco/"))
    found = rag("eval", "loco", "-c", loco, "-p", "bm25", "-m", "nDCG@10", "--json")
    assert found.exit_code == 0, found.output
    given = json.loads(found.stdout)
    values = {row["dataset"]: row["measures"]["nDCG@10"] for row in given["datasets"]}
    assert list(values) == list(LOCO)
    assert values["summ_screen_fd"] == 0  # its question asks for another document
    assert [value for name, value in values.items() if name != "summ_screen_fd"] == [1.0] * 11
    assert given["mean"] == {"nDCG@10": pytest.approx(11 / 12)}
    shown = rag("eval", "loco/qmsum", "loco/gov_report", "-c", loco, "-p", "bm25").output
    assert "qmsum" in shown
    assert "gov_report" in shown
    assert "mean" in shown


def test_a_collection_that_is_not_there_is_named_with_what_makes_it(loco: Path) -> None:
    Collection.build("loco/qmsum", loco / "qmsum")
    found = rag("eval", "loco/qmsum", "loco/gov_report", "-c", loco, "-p", "bm25")
    assert found.exception is not None
    message = " ".join((found.output + str(found.exception)).split())
    assert f"{loco / 'gov_report'}: there is no such collection (1 of 2" in message
    assert "rag index loco/gov_report --out" in message
    for arguments, said in (
        (("-c", loco, "--save-run", loco / "x"), "one dataset"),
        ((), "-c DIR"),
    ):
        refused = rag("eval", "loco", "-p", "bm25", *arguments)
        assert said in refused.output + str(refused.exception)


def test_a_folder_of_the_name_of_a_suite_goes_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(tasks_of("loco")) == 12
    assert tasks_of("loco/qmsum") == tasks_of("other") == []
    (tmp_path / "loco").mkdir()
    monkeypatch.chdir(tmp_path)
    assert tasks_of("loco") == []
