"""Stages inside stages in YAML: what they give, and that every mistake has its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from rag.errors import InvalidFile
from rag.flow import Branch, Repeat, SubPipeline, Unless
from rag.pipelines.load import load_pipeline, problems
from rag.readers.reorder import Reorder
from rag.retrievers.bm25 import BM25
from rag.where import Where


def written(folder: Path, stages: str, name: str = "p.yaml", head: str = "") -> Path:
    path = folder / name
    path.write_text(f"kind: pipeline\n{head}stages:\n{stages}\n")
    return path


def said(path: Path) -> list[str]:
    return [str(problem).removeprefix(f"{path.parent}/") for problem in problems(path)]


def test_stages_inside_stages(tmp_path: Path) -> None:
    stages = """\
  - bm25
  - unless:
      when: {any: [{question: x}, {id: {in: [a, b]}}]}
      stages:
        - repeat:
            times: 2
            keep: [documents]
            trace: hops
            stages: [bm25: {top_k: 5}, reorder]
  - branch:
      name: both
      collection: ./other
      small: [bm25: {into: few, collection: ./wiki}]
      large:
        - reorder"""
    pipeline = load_pipeline(written(tmp_path, stages))
    repeat = Repeat(times=2, keep=("documents",), trace="hops", stages=[BM25(top_k=5), Reorder()])
    few = BM25(into="few", collection=str(tmp_path / "wiki"))
    either = Where({"any": [{"question": "x"}, {"id": {"in": ["a", "b"]}}]})
    assert pipeline.stages == (
        BM25(),
        Unless(when=either, stages=(repeat,)),
        Branch(name="both", collection=str(tmp_path / "other"), small=(few,), large=(Reorder(),)),
    )
    assert pipeline.columns.types["small.few"] == "ranking"
    for stage in pipeline.stages:
        assert type(stage).model_validate_json(stage.model_dump_json()) == stage


def test_mistakes_inside_are_all_reported_where_they_stand(tmp_path: Path) -> None:
    stages = """\
  - unless:
      when: {question: {gte: 3}}
      stages: [reorder]
  - unless:
      wenn: {question: x}
      stages:
        - bm25: {top_k: 0}
        - branch:
            one: [bm52, bm25: {topk: 3}]
            two: 5
            three: []
  - repeat: {times: none, stages: [bm25]}
  - unless: {when: {question: {get: a}}, stages: [bm25]}
  - pipeline: {}
  - branch"""
    found = said(written(tmp_path, stages))
    starts = [
        "p.yaml:5:16: stages[0].unless.stages[0].reorder: stage 'reorder' reads column 'documents'",
        "p.yaml:7:7: stages[1].unless.wenn: unknown key; did you mean 'when'?",
        "p.yaml:6:5: stages[1].unless.when: the key is missing: Rows for which it holds skip",
        "p.yaml:9:25: stages[1].unless.stages[0].bm25.top_k: found 0, expected a number above 0",
        "p.yaml:11:19: stages[1].unless.stages[1].branch.one[0].bm52: unknown stage 'bm52'; did yo",
        "p.yaml:11:32: stages[1].unless.stages[1].branch.one[1].bm25.topk: unknown key; did you me",
        "p.yaml:12:18: stages[1].unless.stages[1].branch.two: found 5, expected a list",
        "p.yaml:13:20: stages[1].unless.stages[1].branch.three: found an empty list, expected at l",
        "p.yaml:14:21: stages[2].repeat.times: found the text 'none', expected a whole number",
        "p.yaml:15:20: stages[3].unless.when: where: question: unknown operator 'get'",
        "p.yaml:16:5: stages[4].pipeline.stages: the key is missing: The stages of the other pipel",
        "p.yaml:17:5: stages[5].branch: a branch has no side; write branch: {small: [...], large: ",
    ]
    starts.sort(key=lambda line: tuple(map(int, line.split(":")[1:3])))
    assert [line[: len(start)] for line, start in zip(found, starts, strict=True)] == starts


@pytest.mark.parametrize(
    ("stages", "start"),
    [
        (
            "  - repeat: {times: 2, stages: [bm25, reorder: {of: documnets}]}",
            "p.yaml:3:39: stages[0].repeat.stages[1].reorder: stage 'reorder' reads column 'docum",
        ),
        (
            "  - repeat: {times: 2, until: {answered: true}, stages: [bm25]}",
            "p.yaml:3:5: stages[0].repeat: stage 'repeat' reads column 'answer', which no earlier",
        ),
        (
            "  - unless: {when: {answer: {gt: a}}, stages: [bm25]}\n  - reorder",
            "p.yaml:3:5: stages[0].unless: stage 'unless' reads column 'answer', which no earlier",
        ),
    ],
)
def test_columns_that_a_stage_inside_lacks(tmp_path: Path, stages: str, start: str) -> None:
    assert [line[: len(start)] for line in said(written(tmp_path, stages))] == [start]


def test_a_mistake_inside_has_no_knock_on_errors(tmp_path: Path) -> None:
    stages = """\
  - branch:
      one: [bm25: {topk: 3}]
  - reorder: {of: one.documents, into: documents}
  - reorder"""
    (found,) = said(written(tmp_path, stages))
    assert found.startswith("p.yaml:4:20: stages[0].branch.one[0].bm25.topk: unknown key")


def test_another_file_as_a_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    written(tmp_path / "sub", "  - pipeline: ./deep.yaml\n  - reorder", "inner.yaml")
    written(tmp_path / "sub", "  - bm25", "deep.yaml", "name: deepest\ncollection: ./wiki\n")
    path = written(tmp_path, "  - pipeline: ./sub/inner.yaml\n  - pipeline: bm25\n  - reorder")
    pipeline = load_pipeline(path)
    deep = SubPipeline(name="deepest", collection=str(tmp_path / "sub" / "wiki"), stages=[BM25()])
    assert pipeline.stages == (
        SubPipeline(name="inner", stages=[deep, Reorder()]),
        SubPipeline(name="bm25", stages=[BM25()]),
        Reorder(),
    )
    monkeypatch.chdir(tmp_path)
    assert SubPipeline.model_validate("./sub/inner.yaml").stages[1] == Reorder()


def test_an_included_file_is_checked_with_the_columns_before_it(tmp_path: Path) -> None:
    written(tmp_path, "  - reorder", "inner.yaml")
    assert problems(written(tmp_path, "  - bm25\n  - pipeline: ./inner.yaml")) == []
    path = written(tmp_path, "  - pipeline: ./inner.yaml\n  - reorder: {into: []}\n  - bm52")
    found = said(path)
    starts = [
        f"p.yaml:3:15: stages[0].pipeline: the pipeline {tmp_path}/inner.yaml has 1 error; see",
        "p.yaml:4:21: stages[1].reorder.into: found an empty list, expected a text",
        "p.yaml:5:5: stages[2].bm52: unknown stage",
        "inner.yaml:3:5: stages[0].reorder: stage 'reorder' reads column 'documents'",
    ]
    assert [line[: len(start)] for line, start in zip(found, starts, strict=True)] == starts
    with pytest.raises(InvalidFile, match="inner.yaml:3:5"):
        load_pipeline(path)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("./none.yaml", "none.yaml: no such file"),
        ("inner.yaml", "no such file; write ./inner.yaml for the one beside this file"),
        ("bm52", "no pipeline 'bm52' is shipped; did you mean 'bm25'?"),
        ("./p.yaml", "the pipeline includes itself: p.yaml > p.yaml"),
        ("./round.yaml", "round.yaml has 1 error; see below"),
        ("./index.yaml", "index.yaml has 1 error; see below"),
        ("./broken.yaml", "broken.yaml has 1 error; see below"),
        ("./sub/", "no such file"),
        ("7", "found 7, expected settings"),
        ("''", "is shipped"),
    ],
)
def test_files_that_cannot_be_included(tmp_path: Path, given: str, expected: str) -> None:
    (tmp_path / "sub").mkdir()
    written(tmp_path, "  - bm25", "inner.yaml")
    written(tmp_path, "  - pipeline: ./p.yaml", "round.yaml")
    (tmp_path / "index.yaml").write_text("kind: index\nsource: x.jsonl\nindexes: {}\n")
    (tmp_path / "broken.yaml").write_text("a: [")
    found = said(written(tmp_path, f"  - pipeline: {given}"))
    assert found[0].startswith("p.yaml:3:15: stages[0].pipeline: ")
    assert expected in found[0]


def test_files_that_multiply_are_refused(tmp_path: Path) -> None:
    """Each level includes the next one ten times: 10^9 files, if nobody counted."""
    for level in range(9):
        twice = f"  - pipeline: ./{level + 1}.yaml\n" * 10
        written(tmp_path, twice, f"{level}.yaml")
    written(tmp_path, "  - bm25", "9.yaml")
    assert any("more than 100 pipelines are included" in line for line in said(tmp_path / "0.yaml"))
