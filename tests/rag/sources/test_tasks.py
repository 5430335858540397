"""Tasks by name, from local folders in the layout of the published repositories."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rag import eval as evaluation
from rag.errors import Damaged, InvalidInput, NotFound
from rag.sources import detect, tasks
from rag.sources.tasks import LOCO, TASKS, is_task, task_folder

DOCUMENTS = [
    {"pid": "p1", "passage": "The committee met about iron towers.", "dataset": "qmsum"},
    {"pid": "p2", "passage": "The council met about stone bridges.", "dataset": "qmsum"},
    {"pid": "p3", "passage": "About steel.", "dataset": "qasper_title"},
    {"pid": "p4", "passage": None, "dataset": "qasper_title"},
]
QUERIES = [
    {
        "qid": "q1",
        "query": "iron towers",
        "answer": [""],
        "answer_pids": ["p1"],
        "dataset": "qmsum",
    },
    {"qid": "q2", "query": "met", "answer": [""], "answer_pids": ["p2", "p1"], "dataset": "qmsum"},
    {"qid": "q3", "query": "steel", "answer": [], "answer_pids": ["p3"], "dataset": "qasper_title"},
    {"qid": "q4", "query": "lost", "answer": [], "answer_pids": ["p4"], "dataset": "qasper_title"},
]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of repositories: LoCoV1 in parquet files, one task of BEIR of each layout."""
    monkeypatch.setattr(tasks, "user_cache", lambda: tmp_path / "cache")
    monkeypatch.setenv("RAG_DATASETS", str(tmp_path / "sets"))
    repositories: dict[str, list[Any]] = {"Documents": DOCUMENTS, "Queries": QUERIES}
    for name, rows in repositories.items():
        folder = tmp_path / "sets" / "hazyresearch" / f"LoCoV1-{name}" / "data"
        folder.mkdir(parents=True)
        for part in range(2):
            table = pa.Table.from_pylist(rows[part::2])
            pq.write_table(table, folder / f"test-0000{part}-of-00002.parquet")
    corpus = [{"_id": "d1", "title": "A", "text": "iron"}, {"_id": "d2", "title": "", "text": "x"}]
    queries = [{"_id": "1", "text": "iron?"}, {"_id": "2", "text": "x?"}]
    beir = tmp_path / "sets" / "BeIR"
    for task in ("scifact", "nfcorpus"):
        (beir / f"{task}-qrels").mkdir(parents=True)
        judged = beir / f"{task}-qrels"
        (judged / "test.tsv").write_text("query-id\tcorpus-id\tscore\n1\td1\t1\n")
        (judged / "train.tsv").write_text("query-id\tcorpus-id\tscore\n2\td2\t1\n")
        for kind, lines in (("corpus", corpus), ("queries", queries)):
            (beir / task / kind).mkdir(parents=True)
            if task == "scifact":
                table = pa.Table.from_pylist(lines)
                pq.write_table(table, beir / task / kind / f"{kind}-00000-of-00001.parquet")
            else:
                text = "".join(json.dumps(line) + "\n" for line in lines)
                (beir / task / f"{kind}.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    return tmp_path / "sets"


@pytest.mark.parametrize("task", ["beir/scifact", "beir/nfcorpus"])
def test_a_task_of_beir_in_both_layouts(root: Path, task: str) -> None:
    assert detect(task).type == "beir"
    dataset = evaluation.load(task)
    assert dataset.name == task.removeprefix("beir/")
    assert dataset.questions == {"1": "iron?"}
    assert dataset.qrels == {"1": {"d1": 1}}
    assert evaluation.load(task, split="train").qrels == {"2": {"d2": 1}}


def test_a_task_of_loco_from_index_to_measure(root: Path, tmp_path: Path, rag: Callable) -> None:  # type: ignore[type-arg]
    code, _, err = rag("index", "loco/qmsum", "--out", tmp_path / "wiki", "--json")
    assert code == 0, err
    code, out, err = rag(
        "eval", "loco/qmsum", "-c", tmp_path / "wiki", "-p", "bm25", "-m", "nDCG@10", "--json"
    )
    assert code == 0, err
    report = json.loads(out)
    assert report["dataset"] == "qmsum"
    assert report["questions"] == 2
    assert report["measures"]["nDCG@10"] == pytest.approx(1.0)


def test_rows_without_a_passage_go_with_their_questions(root: Path) -> None:
    dataset = evaluation.load("loco/qasper_title")
    assert dataset.questions == {"q3": "steel"}
    assert dataset.qrels == {"q3": {"p3": 1}}
    assert evaluation.load("loco/qmsum").qrels == {"q1": {"p1": 1}, "q2": {"p2": 1, "p1": 1}}


def test_a_task_is_made_once_and_anew_where_its_files_change(root: Path) -> None:
    first = task_folder("beir/scifact")
    kept = (first / "corpus.jsonl").stat().st_mtime_ns
    assert task_folder("beir/scifact") == first
    assert (first / "corpus.jsonl").stat().st_mtime_ns == kept
    (root / "BeIR" / "scifact-qrels" / "test.tsv").write_text("1\td2\t1\n")
    assert task_folder("beir/scifact") != first
    assert evaluation.load("beir/scifact").qrels == {"1": {"d2": 1}}
    assert not [path for path in first.parent.parent.rglob(".tmp-*")]


def test_a_path_goes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_task("loco/mine")
    folder = tmp_path / "loco" / "mine"
    folder.mkdir(parents=True)
    (folder / "corpus.jsonl").write_text('{"_id": "1", "text": "x"}\n')
    assert detect("loco/mine").path == "loco/mine"
    assert not is_task("wiki/qmsum")
    assert not is_task("beir/scifact/qrels")


def test_what_is_wrong_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(LOCO) == 12
    assert len(set(TASKS)) == len(TASKS)
    with pytest.raises(InvalidInput, match=r"no task 'beir/scifcat'; did you mean 'beir/scifact'"):
        detect("beir/scifcat")
    with pytest.raises(NotFound, match=r"BeIR.nq: no such folder; RAG_DATASETS names"):
        evaluation.load("beir/nq")
    with pytest.raises(InvalidInput, match="no question of the data set 'gov_report'"):
        task_folder("loco/gov_report")
    queries = root / "hazyresearch" / "LoCoV1-Queries" / "data"
    table = pa.Table.from_pylist([{**QUERIES[0], "answer_pids": ["p9"]}])
    pq.write_table(table, queries / "test-00000-of-00002.parquet")
    with pytest.raises(InvalidInput, match="'q1' is answered by 'p9', and no document"):
        task_folder("loco/qmsum")
    pq.write_table(table.drop_columns(["qid"]), queries / "test-00000-of-00002.parquet")
    with pytest.raises(InvalidInput, match="has no column 'qid'; it has: query"):
        task_folder("loco/qmsum")
    (queries / "test-00000-of-00002.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(Damaged, match="cannot be read as parquet"):
        task_folder("loco/qmsum")


def test_nothing_is_downloaded_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.delenv("RAG_DATASETS", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(NotFound, match="no data set 'BeIR/scifact': .*RAG_DATASETS=DIR"):
        task_folder("beir/scifact")
