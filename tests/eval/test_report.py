from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ir_measures
import pytest
from rich.console import Console

from rag import Batch, Columns, Context, Pipeline, Ranking, Run, Stage
from rag.errors import BackendFailed, InvalidInput
from rag.eval import Dataset, evaluate, write_run
from rag.stage import Step
from rag.testing import MemorySnapshot

Ranks = list[tuple[str, float]]


class Given(Stage):
    """Find what the test says: question to (passage id, score); one without an entry fails."""

    found: dict[str, Ranks]
    into: str = "documents"

    def columns(self, have: Columns) -> Columns:
        return have.put(**{self.into: "ranking"})

    def open(self, context: Context) -> Step:
        snapshot = context.snapshot()

        def step(batch: Batch, run: Run) -> Batch:
            rows = []
            for row, question in enumerate(batch["question"]):
                if question not in self.found:
                    run.fail(row, BackendFailed("out of order"))
                entries = self.found.get(question, [])
                numbers = snapshot.numbers([name for name, _ in entries]).tolist()
                rows.append(list(zip(numbers, [score for _, score in entries], strict=True)))
            return batch.put(**{self.into: Ranking.of(rows, snapshot)})

        return step


class Say(Stage):
    """Answer what the test says."""

    answers: dict[str, str | None]

    def columns(self, have: Columns) -> Columns:
        return have.put(answer="str")

    def open(self, context: Context) -> Step:
        return lambda batch, run: batch.put(
            answer=[self.answers[question] for question in batch["question"]]
        )


def dataset(
    qrels: Mapping[str, dict[str, int]], answers: Mapping[str, tuple[str, ...]] | None = None
) -> Dataset:
    gold = dict(answers or {})
    questions = {name: name for name in [*qrels, *gold]}
    return Dataset("toy", Path("toy"), "test", questions, dict(qrels), gold)


def passages(*ids: str) -> Any:
    """Passages whose documents are called as their ids are, up to ``#``."""
    rows = [{"id": name, "document": name.partition("#")[0], "text": name} for name in ids]
    return MemorySnapshot(rows)


def pipeline(found: dict[str, Ranks], snapshot: Any) -> Pipeline:
    return Pipeline([Given(found=found)], snapshot, name="toy-pipeline")


def ranked(
    qrels: Mapping[str, dict[str, int]], found: dict[str, Ranks], snapshot: Any
) -> dict[str, list[str]]:
    """The documents that are measured, in order."""
    run = evaluate(dataset(qrels), pipeline(found, snapshot)).run
    return {query: [name for name, _ in entries] for query, entries in run.items()}


def test_the_default_measures_are_those_that_can_be_measured() -> None:
    snapshot = passages("a", "b")
    report = evaluate(
        dataset({"q1": {"a": 1}, "q2": {"b": 1}}), pipeline({"q1": [("a", 1)], "q2": []}, snapshot)
    )
    # A question without results is in the mean.
    assert report.measures == {"nDCG@10": 0.5, "R@100": 0.5, "RR@10": 0.5}
    assert report.per_question["q2"] == {"nDCG@10": 0.0, "R@100": 0.0, "RR@10": 0.0}
    assert report.collection == snapshot.identity
    assert report.answers == {}


def test_answers_are_measured_where_there_is_gold() -> None:
    stages = [Say(answers={"q1": "The x!", "q2": None})]
    report = evaluate(dataset({}, {"q1": ("y", "x"), "q2": ("z",)}), Pipeline(stages))
    assert report.measures == {"EM": 0.5, "F1": 0.5}
    assert report.answers == {"q1": "The x!", "q2": None}
    assert (report.run, report.collection) == ({}, None)


def test_each_measure_has_its_own_questions() -> None:
    data = dataset({"q1": {"a": 1}}, {"q1": ("x",), "q2": ("y",)})
    stages = [Given(found={"q1": [("a", 1)], "q2": []}), Say(answers={"q1": "x", "q2": "no"})]
    report = evaluate(data, Pipeline(stages, passages("a")))
    assert report.counts == {"nDCG@10": 1, "R@100": 1, "RR@10": 1, "EM": 2, "F1": 2}
    assert (report.measures["nDCG@10"], report.measures["EM"]) == (1.0, 0.5)
    only = evaluate(data, Pipeline(stages, passages("a")), measures=["AP", "P_5"])
    assert only.measures == {"AP": 1.0, "P@5": pytest.approx(0.2)}
    assert only.questions == 1


@pytest.mark.parametrize(
    ("data", "measure", "message"),
    [
        (dataset({"q": {"a": 1}}), "EM", "EM cannot be measured: toy has no gold answers"),
        (dataset({}, {"q": ("x",)}), "nDCG@10", "toy has no judgements"),
        (dataset({}, {"q": ("x",)}), "F1", "the pipeline writes no column 'answer'"),
        (dataset({}, {"q": ("x",)}), None, "nothing can be measured: toy has no judgements"),
    ],
)
def test_what_cannot_be_measured(data: Dataset, measure: str | None, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        evaluate(data, pipeline({}, passages("a")), measures=[measure] if measure else None)


def test_no_documents_no_retrieval() -> None:
    data = dataset({"q": {"a": 1}}, {"q": ("x",)})
    with pytest.raises(InvalidInput, match="the pipeline writes no column 'documents'"):
        evaluate(data, Pipeline([Say(answers={"q": "x"})]), measures=["AP"])
    other = Pipeline([Given(found={"q": []}, into="lexical")], passages("a"))
    with pytest.raises(InvalidInput, match="writes no column 'documents'"):
        evaluate(data, other)


def test_measures_is_a_list() -> None:
    with pytest.raises(InvalidInput, match=r"write \['AP'\]"):
        evaluate(dataset({"q": {"a": 1}}), pipeline({}, passages("a")), measures="AP")


def test_ties_keep_the_order_that_the_user_sees() -> None:
    snapshot = passages("a", "b", "c")
    found: dict[str, Ranks] = {"q": [("c", 1), ("a", 1), ("b", 1)]}
    assert ranked({"q": {"a": 1}}, found, snapshot) == {"q": ["c", "a", "b"]}


def test_reading_order_is_not_measured() -> None:
    snapshot = passages("a", "b", "c", "d")
    found: dict[str, Ranks] = {"q": [("c", 1), ("a", 3), ("d", 2), ("b", 2)], "r": [("b", 1)]}
    after = ranked({"q": {"a": 1}, "r": {"b": 1}}, found, snapshot)
    assert after == {"q": ["a", "b", "d", "c"], "r": ["b"]}


def test_passages_of_a_judged_document_count_once() -> None:
    snapshot = passages("d1#0", "d1#1", "d2#0", "d3#0")
    found: dict[str, Ranks] = {"q": [("d2#0", 4), ("d1#1", 3), ("d1#0", 2), ("d3#0", 1)]}
    assert ranked({"q": {"d1": 1, "d3": 1}}, found, snapshot) == {"q": ["d2", "d1", "d3"]}


def test_judged_passages_of_one_document_are_kept_apart() -> None:
    snapshot = passages("d1#0", "d1#1", "d2#0")
    found: dict[str, Ranks] = {"q": [("d2#0", 4), ("d1#1", 3), ("d1#0", 2)]}
    assert ranked({"q": {"d1#0": 1}}, found, snapshot) == {"q": ["d2#0", "d1#1", "d1#0"]}


def test_a_document_called_like_the_question_is_dropped_unless_judged() -> None:
    found: dict[str, Ranks] = {"a": [("a", 2), ("b", 1)]}
    assert ranked({"a": {"b": 1}}, found, passages("a", "b")) == {"a": ["b"]}
    assert ranked({"a": {"a": 1}}, found, passages("a", "b")) == {"a": ["a", "b"]}


def test_judgements_of_another_corpus_are_an_error() -> None:
    with pytest.raises(InvalidInput, match=r"none of the judged .*'x'\); was it built from"):
        evaluate(dataset({"q": {"x": 1}}), pipeline({"q": [("a", 1)]}, passages("a")))


def test_judged_documents_that_are_absent_stay_in_the_ideal_ranking() -> None:
    report = evaluate(
        dataset({"q": {"a": 1, "gone": 1}}), pipeline({"q": [("a", 1)]}, passages("a"))
    )
    assert report.measures["R@100"] == 0.5


def test_a_failed_question_counts_zero_and_is_listed() -> None:
    data = dataset({"q1": {"a": 1}, "q2": {"a": 1}})
    report = evaluate(data, pipeline({"q1": [("a", 1)]}, passages("a")))
    assert report.measures["R@100"] == 0.5
    assert list(report.failed) == ["q2"]
    assert "out of order" in report.failed["q2"]
    assert report.to_json()["failed"] == 1
    assert "1 failed" in shown(report)


def test_all_questions_may_fail() -> None:
    data = dataset({"q1": {"a": 1}}, {"q1": ("x",)})
    stages = [Given(found={}), Say(answers={})]
    report = evaluate(data, Pipeline(stages, passages("a")))
    assert set(report.measures.values()) == {0.0}
    assert report.answers == {"q1": None}


def test_a_score_that_is_no_number_names_the_question() -> None:
    with pytest.raises(InvalidInput, match="question 'q': score nan"):
        evaluate(dataset({"q": {"a": 1}}), pipeline({"q": [("a", float("nan"))]}, passages("a")))


def test_the_written_run_gives_the_same_measures(tmp_path: Path) -> None:
    names = [f"d{n}" for n in range(40)]
    qrels = {f"q{n}": {names[n]: 1, names[n + 5]: 2, names[n + 9]: 0} for n in range(20)}
    found: dict[str, Ranks] = {
        query: [(name, float((7 * n + len(query)) % 5)) for n, name in enumerate(names[:30])]
        for query in qrels
    }
    measures = ["nDCG@10", "R@100", "RR@10", "AP", "P@5", "RR"]
    report = evaluate(dataset(qrels), pipeline(found, passages(*names)), measures=measures)
    write_run(tmp_path / "run.gz", report.run)
    again = ir_measures.calc_aggregate(
        [ir_measures.parse_measure(name) for name in measures],
        qrels,
        ir_measures.read_trec_run(str(tmp_path / "run.gz")),
    )
    assert {str(measure): value for measure, value in again.items()} == report.measures


def test_progress_and_batches_cover_all_questions() -> None:
    qrels = {f"q{n}": {"a": 1} for n in range(600)}
    told: list[tuple[str, int, int | None]] = []
    report = evaluate(
        dataset(qrels),
        pipeline({query: [("a", 1)] for query in qrels}, passages("a")),
        progress=lambda what, done, total: told.append((what, done, total)),
    )
    assert told[-1] == ("questions", 600, 600)
    assert report.measures["nDCG@10"] == 1.0
    assert list(report.run) == list(qrels)


def test_json_and_table() -> None:
    report = evaluate(dataset({"q": {"a": 1}}), pipeline({"q": [("a", 1)]}, passages("a")))
    plain: dict[str, Any] = json.loads(json.dumps(report.to_json()))
    assert plain["measures"] == {"nDCG@10": 1.0, "R@100": 1.0, "RR@10": 1.0}
    assert {"dataset": "toy", "pipeline": "toy-pipeline", "questions": 1}.items() <= plain.items()
    assert set(plain["versions"]) == {"ragstone", "ir-measures", "python"}
    assert "toy-pipeline on toy" in shown(report)
    assert "nDCG@10" in shown(report)


def shown(report: Any) -> str:
    text = io.StringIO()
    Console(file=text, width=120).print(report.table())
    return text.getvalue()
