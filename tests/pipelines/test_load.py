"""Pipeline files: what they give, and that all their errors are reported at once."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel, Field, field_validator, model_validator

from rag.errors import InvalidFile, InvalidInput, NotFound, RagError
from rag.pipeline import Pipeline
from rag.pipelines.load import load_pipeline, problems, shipped
from rag.stage import Columns, Context, Stage, Step


class Find(Stage, name="find_test"):
    """Writes documents."""

    top_k: int = Field(10, ge=1)
    k1: float = Field(0.9, ge=0, le=10)
    merge: Literal["rrf", "max"] = "rrf"
    exact: bool = False
    into: str = "documents"

    def columns(self, have: Columns) -> Columns:
        return have.need("query").put(**{self.into: "ranking"})

    def open(self, context: Context) -> Step:
        raise AssertionError("loading opens nothing")


class Backend(BaseModel, extra="forbid"):
    """Settings below a stage's key."""

    model: str
    threads: int = 1


class Say(Stage, name="say_test"):
    """Writes an answer."""

    backend: Backend | str = "none"
    one_of: dict[str, object] = Field({})
    first: int = 1
    last: int = 9
    of: str = "documents"
    into: str = "answer"

    @field_validator("one_of", mode="before")
    @classmethod
    def _known(cls, value: dict[str, object]) -> dict[str, object]:
        for name, settings in value.items():
            if name != "llama":
                raise InvalidInput(f"unknown backend {name!r}")
            Backend.model_validate(settings)
        return value

    @model_validator(mode="after")
    def _ordered(self) -> Say:
        if self.first > self.last:
            raise ValueError("first is above last")
        return self

    def columns(self, have: Columns) -> Columns:
        return have.need(self.of, type="ranking").put(**{self.into: "str"})

    def open(self, context: Context) -> Step:
        raise AssertionError("loading opens nothing")


class Broken(Stage, name="broken_test"):
    """Its columns cannot be told."""

    def columns(self, have: Columns) -> Columns:
        raise ZeroDivisionError("a mistake of the plugin")


def written(folder: Path, text: str, name: str = "p.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def said(folder: Path, stages: str) -> list[str]:
    """The problems of a file with these stages, from the column on."""
    path = written(folder, f"kind: pipeline\nstages:\n{stages}\n")
    return [str(problem).removeprefix(f"{path}:") for problem in problems(path)]


def test_a_file_becomes_a_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAG_TEST_K", "7")
    monkeypatch.setenv("RAG_TEST_MODEL", "123")
    text = """
        kind: pipeline
        description: what it is for
        collection: ./wiki
        on_error: stop
        stages:
          - find_test
          - find_test:
          - find_test: {top_k: "${RAG_TEST_K}", into: other, k1: 2, collection: ../memory}
          - say_test:
              name: speaker
              backend: {model: "${RAG_TEST_MODEL}"}
    """
    pipeline = load_pipeline(written(tmp_path, text))
    assert pipeline.stages == (
        Find(),
        Find(),
        Find(top_k=7, into="other", k1=2, collection=str(tmp_path / "../memory")),
        Say(name="speaker", backend=Backend(model="123")),
    )
    assert (pipeline.name, pipeline.on_error) == ("p", "stop")
    assert pipeline.collection == str(tmp_path / "wiki")
    assert problems(tmp_path / "p.yaml") == []
    assert Pipeline.load(tmp_path / "p.yaml", collection="mine").collection == "mine"


@pytest.mark.parametrize("given", ["wiki", "/data/wiki", "data/wiki"])
def test_only_a_path_with_a_dot_first_starts_at_the_file(tmp_path: Path, given: str) -> None:
    text = f"kind: pipeline\nname: n\ncollection: {given}\nstages: [find_test]"
    pipeline = load_pipeline(written(tmp_path, text))
    assert (pipeline.collection, pipeline.name) == (given, "n")


def test_ten_mistakes_are_all_reported_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = """\
kind: pipeline
colection: ./wiki
on_error: kep
stages:
  - find_tset: {top_k: 5}
  - find_test: {topk: 5, top_k: 0, merge: rff, merge: max}
  - find_test: {k1: high, exact: yes}
  - find_test: 100
  - say_test: {of: documnets, backend: {threads: 1.5}}
  - say_test: {backend: "${RAG_TEST_UNSET}"}
    find_test: {}
  - say_test: {one_of: !!python/name:os.system {}}
name: [a]
"""
    path = written(tmp_path, text)
    found = problems(path)
    lines = "\n".join(str(problem).removeprefix(f"{path}:") for problem in found)
    expected = [
        r"2:1: colection: unknown key; did you mean 'collection'\? \(allowed: collection, .*\)",
        r"3:11: on_error: found the text 'kep', expected 'keep' or 'stop'; did you mean 'keep'\?",
        r"5:5: stages\[0\]\.find_tset: unknown stage 'find_tset'; did you mean 'find_test'\? .*",
        r"6:17: stages\[1\]\.find_test\.topk: unknown key; did you mean 'top_k'\? \(allowed: .*",
        r"6:33: stages\[1\]\.find_test\.top_k: found 0, expected at least 1",
        r"6:43: stages\[1\]\.find_test\.merge: found the text 'rff', expected 'rrf' or 'max'; .*",
        r"6:48: stages\[1\]\.find_test\.merge: the key 'merge' stands twice \(first at line 6, .*",
        r"7:21: stages\[2\]\.find_test\.k1: found the text 'high', expected a number",
        r"7:34: stages\[2\]\.find_test\.exact: found yes; write true or false, .*",
        r"8:16: stages\[3\]\.find_test: found 100, expected settings: find_test: \{key: value\}",
        r"9:5: stages\[4\]\.say_test: stage 'say_test' reads column 'documnets', .*",
        r"9:31: stages\[4\]\.say_test\.backend\.model: the key is missing",
        r"9:50: stages\[4\]\.say_test\.backend\.threads: found 1.5, expected a whole number",
        r"10:5: stages\[5\]: found the keys say_test, find_test; a stage is a name, or .*",
        r"10:25: stages\[5\]\.say_test\.backend: the environment variable RAG_.* not set",
        r"12:24: stages\[6\]\.say_test\.one_of: the tag '!!python/name:os\.system' is not .*",
        r"13:7: name: found a list, expected a text",
    ]
    for line, pattern in zip(lines.split("\n"), expected, strict=True):
        assert re.fullmatch(pattern, line)
    with pytest.raises(InvalidFile) as caught:
        load_pipeline(path)
    assert list(caught.value.problems) == found


@pytest.mark.parametrize(
    ("stages", "start"),
    [
        ("  []", "3:3: stages: found an empty list, expected at least 1 item"),
        ("  find_test", "3:3: stages: found the text 'find_test', expected a list"),
        ("", "2:8: stages: found nothing, expected a list"),
        ("  -", "3:4: stages[0]: found nothing; a stage is a name"),
        ("  - ''", "3:5: stages[0]: found an empty name; a stage is a name"),
        ("  - '': {}", "3:5: stages[0]: found an empty name; a stage is a name"),
        ("  - {}", "3:5: stages[0]: found an empty mapping; a stage is a name"),
        ("  - [find_test]", "3:5: stages[0]: found a list; a stage is a name"),
        ("  - 7", "3:5: stages[0]: found 7; a stage is a name"),
        ("  - zzzzzz", "3:5: stages[0].zzzzzz: unknown stage 'zzzzzz' (known: "),
        ("  - find_test: {top_k: '5'}", "3:24: stages[0].find_test.top_k: found the text '5', exp"),
        ("  - find_test: {top_k: true}", "3:24: stages[0].find_test.top_k: found true, expected"),
        ("  - find_test: {exact: 1}", "3:24: stages[0].find_test.exact: found 1, expected true or"),
        ("  - find_test: {k1: .nan}", "3:21: stages[0].find_test.k1: found nan, expected at"),
        ("  - find_test: {name: 5}", "3:23: stages[0].find_test.name: found 5, expected a text"),
        (
            "  - broken_test",
            "3:5: stages[0].broken_test: ZeroDivisionError: a mistake of the plugin",
        ),
        (
            "  - say_test",
            "3:5: stages[0].say_test: stage 'say_test' reads column 'documents', which",
        ),
        (
            "  - find_test\n  - say_test: {first: 10}",
            "4:5: stages[1].say_test: first is above last",
        ),
        (
            "  - find_test\n  - say_test: {of: query}",
            "4:5: stages[1].say_test: stage 'say_test' re",
        ),
        (
            "  - find_test\n  - say_test: {one_of: {lama: {}}}",
            "4:24: stages[1].say_test.one_of: unknown backend 'lama'",
        ),
        (
            "  - find_test\n  - say_test: {one_of: {llama: {model: x, modl: 3}}}",
            "4:43: stages[1].say_test.one_of.llama.modl: unknown key",
        ),
        (
            "  - find_test\n  - say_test: {backend: 7}",
            "4:25: stages[1].say_test.backend: found 7, expected a mapping or a text",
        ),
    ],
)
def test_single_mistakes(tmp_path: Path, stages: str, start: str) -> None:
    found = said(tmp_path, stages)
    assert [line[: len(start)] for line in found] == [start]


@pytest.mark.parametrize(
    "stages",
    [
        "  - zzzzzz\n  - say_test\n  - say_test: {of: mine}",
        "  - find_tset: {into: mine}\n  - say_test: {of: mine}",
        "  - find_test: {topk: 5}\n  - say_test",
        "  - find_test: {into: 5}\n  - say_test: {of: mine}",
        "  - find_test: 5\n  - say_test",
        "  - find_test\n  - say_test: {of: [1]}",
        "  - broken_test\n  - say_test",
        "  - say_test\n  - say_test: {of: answer}",
        "  - ''\n  - say_test",
    ],
)
def test_a_mistake_has_no_knock_on_errors(tmp_path: Path, stages: str) -> None:
    found = said(tmp_path, stages)
    assert {line.split(":")[0] for line in found} <= {"3", "4"}
    assert len([line for line in found if "reads column" in line]) == ("answer" in stages) * 2 or 1
    assert len(found) == (2 if "answer" in stages else 1)


def test_a_missing_column_is_found_behind_other_mistakes(tmp_path: Path) -> None:
    found = said(tmp_path, "  - find_test: {topk: 5}\n  - say_test: {of: documnets}")
    assert len(found) == 2
    assert "the nearest is 'documents', written by stage 'find_test'" in found[1]


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("stages: [find_test]", "1:1: kind: the key is missing; write kind: pipeline (this versi"),
        ("kind: pipelin\nstages: [find_test]", "1:7: kind: found the text 'pipelin'; did you mean"),
        (
            "kind: rezept\nsteps: []",
            "1:7: kind: found the text 'rezept' (this version knows: index",
        ),
        ("kind: [pipeline]\nstages: [find_test]", "1:7: kind: found a list (this version knows"),
        ("kind: pipeline", "1:1: stages: the key is missing"),
        ("kind: pipeline\nstages: [find_test]\ncollection: ''", "3:13: collection: found the text"),
        ("[a]", "1:1: found a list, expected keys such as kind: pipeline"),
        ("a: [", "1:5: YAML syntax"),
        ("", "1:1: the file is empty"),
    ],
)
def test_wrong_files(tmp_path: Path, text: str, start: str) -> None:
    path = written(tmp_path, text)
    found = [str(problem).removeprefix(f"{path}:") for problem in problems(path)]
    assert [line[: len(start)] for line in found] == [start]
    with pytest.raises(InvalidFile):
        load_pipeline(path)


def test_the_message_of_an_index_file_says_what_it_is(tmp_path: Path) -> None:
    path = written(tmp_path, "kind: index\nsource: x.jsonl\nindexes: {}")
    with pytest.raises(InvalidFile, match="1:7: kind: the file is of kind index, and kind pipel"):
        load_pipeline(path)


def test_a_secret_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAG_TEST_KEY", "hunter2")
    (found,) = said(tmp_path, '  - find_test: {top_k: "${RAG_TEST_KEY}"}')
    assert "hunter2" not in found
    assert "${RAG_TEST_KEY}" in found


def test_sources_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFound, match=r"no such file"):
        load_pipeline("./none.yaml")
    with pytest.raises(NotFound, match=r"did you mean 'bm25'\? \(shipped: bm25, "):
        load_pipeline("bm52")
    written(tmp_path, "", "mine.yaml")
    with pytest.raises(NotFound, match=r"did you mean the file mine.yaml\?"):
        load_pipeline("mine")
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(InvalidInput, match="cannot be read"):
        load_pipeline("folder.yaml")
    for wrong in ("./none.yaml", "bm52", "folder.yaml"):
        with pytest.raises(RagError):
            problems(wrong)


@pytest.mark.parametrize("name", shipped())
def test_the_shipped_pipelines_are_good(name: str) -> None:
    assert problems(name) == []
    pipeline = load_pipeline(name)
    assert (pipeline.name, pipeline.collection) == (name, None)


def test_the_shipped_pipelines_are_these() -> None:
    names = ["bm25", "bm25-extract", "bm25-qa", "dense", "dupmae", "hybrid", "seal", "sparse"]
    assert shipped() == names


def test_loading_opens_no_model_and_no_index() -> None:
    program = (
        "import sys; from rag.pipelines import problems, shipped\n"
        "assert [problems(name) for name in shipped()] == [[], [], [], [], [], [], [], []]\n"
        "heavy = {'torch', 'transformers', 'xllamacpp', 'numba', 'rag.collection'}\n"
        "print(*heavy & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def test_the_errors_of_a_backend_have_their_places(tmp_path: Path) -> None:
    stages = """\
  - bm25: {top_k: 0}
  - generate: {backend: {llama_cpp: {modl: smollm2, context: a}}}
  - generate: {backend: {lama_cpp: {}}}
  - generate"""
    found = said(tmp_path, stages)
    starts = [
        "3:19: stages[0].bm25.top_k: found 0, expected a number above 0",
        "4:26: stages[1].generate.backend.llama_cpp.model: the key is missing",
        "4:38: stages[1].generate.backend.llama_cpp.modl: unknown key; did you mean 'model'?",
        "4:62: stages[1].generate.backend.llama_cpp.context: found the text 'a', expected a whole",
        "5:25: stages[2].generate.backend: unknown backend 'lama_cpp'; did you mean 'llama_cpp'?",
        "6:5: stages[3].generate.backend: the key is missing",
    ]
    assert [line[: len(start)] for line, start in zip(found, starts, strict=True)] == starts


def test_a_path_of_a_setting_starts_at_the_folder_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    file = tmp_path / "conf" / "qa.yaml"
    file.write_text(
        "kind: pipeline\nstages:\n  - bm25: {collection: ../wiki}\n"
        "  - generate: {backend: {llama_cpp: {model: ./my.gguf}}, stop: [../x]}\n"
    )
    bm25, generate = load_pipeline(file).stages
    assert bm25.collection == str(tmp_path / "conf" / "../wiki")
    assert generate.model_dump()["backend"]["llama_cpp"]["model"] == str(tmp_path / "conf/my.gguf")


def test_a_file_says_what_a_worker_needs_on_ray(tmp_path: Path) -> None:
    file = tmp_path / "gpus.yaml"
    text = "kind: pipeline\nresources: {cpus: 4, gpus: 0.5}\nstages: [bm25]\n"
    file.write_text(text)
    loaded = load_pipeline(file)
    assert loaded.resources is not None
    assert (loaded.resources.cpus, loaded.resources.gpus) == (4, 0.5)
    file.write_text(text.replace("gpus: 0.5", "gpu: 1"))
    (problem,) = problems(file)
    assert (problem.line, problem.key) == (2, "resources.gpu")
    index = tmp_path / "index.yaml"
    index.write_text(
        "kind: index\nsource: rows.jsonl\nindexes: {lexical: {type: lexical}}\n"
        "resources: {index: {gpus: 1}, encode: {gpus: 1}}\n"
    )
    (tmp_path / "rows.jsonl").write_text('{"id": "1", "text": "a"}\n')
    (problem,) = problems(index)
    assert (problem.line, problem.key) == (4, "resources.encode")
