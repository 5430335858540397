"""Questions, judgements, gold answers and runs that are broken, through ``rag eval``."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from rag import Collection
from rag.errors import RagError
from rag.eval import read_run

Rag = Callable[..., tuple[int, str, str]]

QUERIES = b'{"_id":"q1","text":"apple"}\n'
QRELS = b"query-id\tcorpus-id\tscore\nq1\tp1\t1\n"
ANSWERS = b'{"id":"q1","question":"apple","answers":["x"]}\n'

LINES: dict[str, tuple[str, bytes, str]] = {
    # which file gets which second line, what follows "FILE:LINE: field "
    "queries: no JSON": ("queries.jsonl", b"{", "'row': no JSON"),
    "queries: a list": ("queries.jsonl", b"[1]", "'row': a JSON list"),
    "queries: NUL bytes": ("queries.jsonl", bytes(99), "'row': no JSON"),
    "queries: Latin-1": ("queries.jsonl", b'{"_id":"q2","text":"\xe9"}', "'row': not UTF-8"),
    "queries: deep": ("queries.jsonl", b"[" * 100_000, "'row': no usable JSON"),
    "queries: no id": ("queries.jsonl", b'{"text":"t"}', "'_id': no key"),
    "queries: no text": ("queries.jsonl", b'{"_id":"q2"}', "'text': no key"),
    "queries: null": ("queries.jsonl", b'{"_id":"q2","text":null}', "'text': .*null"),
    "queries: an empty text": ("queries.jsonl", b'{"_id":"q2","text":" "}', "'text': empty"),
    "queries: a float as id": ("queries.jsonl", b'{"_id":2.5,"text":"t"}', "'_id': .*2.5"),
    "queries: an id twice": ("queries.jsonl", b'{"_id":"q1","text":"t"}', "'id': .*twice"),
    "qrels: two columns": ("qrels/test.tsv", b"q1\tp2", "'row': 2 columns, not 3 or 4"),
    "qrels: six columns": ("qrels/test.tsv", b"q1 Q0 p2 1 0.5 tag", "'row': 6 columns"),
    "qrels: a fraction": ("qrels/test.tsv", b"q1\tp2\t0.5", "'grade': '0.5' is no integer"),
    "qrels: a word": ("qrels/test.tsv", b"q1\tp2\tgood", "'grade': 'good' is no integer"),
    "qrels: a digit of Thai": ("qrels/test.tsv", "q1\tp2\t๑".encode(), "'grade': .*no integer"),
    "qrels: a huge grade": ("qrels/test.tsv", b"q1\tp2\t" + b"9" * 5000, "'grade': "),
    "qrels: no question": ("qrels/test.tsv", b"\tp2\t1", "'query-id': empty"),
    "qrels: no document": ("qrels/test.tsv", b"q1\t\t1", "'corpus-id': empty"),
    "qrels: an unknown question": (
        "qrels/test.tsv",
        b"q9\tp2\t1",
        "'query-id': 'q9' is in neither",
    ),
    "qrels: two grades": ("qrels/test.tsv", b"q1\tp1\t2", "'grade': .*graded 1 and 2"),
    "qrels: Latin-1": ("qrels/test.tsv", b"q1\tp\xe9\t1", "'row': not UTF-8"),
    "qrels: NUL bytes": ("qrels/test.tsv", bytes(99), "'row': 1 columns"),
    "qa: no JSON": ("qa.jsonl", b"nothing", "'row': no JSON"),
    "qa: no answers": ("qa.jsonl", b'{"id":"q2","question":"t"}', "'answers': no key"),
    "qa: a number": ("qa.jsonl", b'{"id":"q2","question":"t","answers":7}', "'answers': "),
    "qa: numbers": ("qa.jsonl", b'{"id":"q2","question":"t","answers":[7]}', "'answers': "),
    "qa: null": ("qa.jsonl", b'{"id":"q2","question":"t","answers":null}', "'answers': "),
    "qa: no question": ("qa.jsonl", b'{"id":"q2","answers":[]}', "'question': no key"),
    "qa: an id twice": ("qa.jsonl", b'{"id":"q1","question":"t","answers":[]}', "'id': .*twice"),
}

RUNS: dict[str, tuple[bytes, str]] = {
    "five columns": (b"q1 Q0 p1 1 0.5", "'row': 5 columns, not 6; a line is: qid Q0 docid rank"),
    "seven columns": (b"q1 Q0 p1 1 0.5 tag x", "'row': 7 columns"),
    "JSON": (b'{"q1":{"p1":0.5}}', "'row': 1 columns"),
    "a score that is none": (b"q1 Q0 p2 1 high tag", "'score': 'high' is no finite number"),
    "not a number": (b"q1 Q0 p2 1 nan tag", "'score': 'nan' is no finite number"),
    "an infinite score": (b"q1 Q0 p2 1 -inf tag", "'score': '-inf' is no finite number"),
    "a document twice": (b"q1 Q0 p1 2 0.4 tag", "'docid': 'p1' stands twice for question 'q1'"),
    "Latin-1": (b"q1 Q0 p\xe9 1 0.5 tag", "'row': not UTF-8"),
    "NUL bytes": (bytes(99), "'row': 1 columns"),
    "a score beyond float64": (b"q1 Q0 p2 1 1e999 tag", "'score': '1e999' is no finite number"),
}


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("eval") / "c"
    Collection.build([{"id": "p1", "text": "apple"}], path)
    return path


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "qrels").mkdir(parents=True)
    (folder / "queries.jsonl").write_bytes(QUERIES)
    (folder / "qrels" / "test.tsv").write_bytes(QRELS)
    (folder / "qa.jsonl").write_bytes(ANSWERS)
    return folder


def test_the_dataset_without_a_fault_is_measured(rag: Rag, dataset: Path, collection: Path) -> None:
    code, _, err = rag("eval", dataset, "-c", collection, "-p", "bm25", "-m", "nDCG@10", "--json")
    assert code == 0, err


@pytest.mark.parametrize("case", LINES)
def test_a_line_of_a_dataset_is_refused_at_its_place(
    case: str, rag: Rag, dataset: Path, collection: Path
) -> None:
    name, line, pattern = LINES[case]
    file = dataset / name
    number = file.read_bytes().count(b"\n") + 1
    file.write_bytes(file.read_bytes() + line + b"\n")
    code, out, err = rag("eval", dataset, "-c", collection, "-p", "bm25")
    assert code == 2, (out, err)
    assert re.search(re.escape(f"{file}:{number}: field ") + pattern, err), err
    assert len(err) < 1500


@pytest.mark.parametrize("name", ["queries.jsonl", "qrels/test.tsv", "qa.jsonl"])
def test_a_file_of_a_dataset_that_is_cut_short_is_named(
    name: str, rag: Rag, dataset: Path, collection: Path
) -> None:
    file = dataset / name
    packed = file.with_name(f"{file.name}.gz")
    packed.write_bytes(gzip.compress(file.read_bytes())[:-9])
    file.unlink()
    code, _, err = rag("eval", dataset, "-c", collection, "-p", "bm25")
    assert code == 1
    assert f"{packed}: the gzip data ends early or is damaged" in err


@pytest.mark.parametrize("case", RUNS)
def test_a_line_of_a_run_is_refused_at_its_place(case: str, tmp_path: Path) -> None:
    line, pattern = RUNS[case]
    (tmp_path / "run.trec").write_bytes(b"q1 Q0 p1 1 0.5 tag\n" + line + b"\n")
    with pytest.raises(RagError, match=r"run\.trec:2: field " + re.escape(pattern)):
        read_run(tmp_path / "run.trec")


def test_folders_that_are_no_dataset_say_what_was_looked_for(
    rag: Rag, tmp_path: Path, collection: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for folder in (empty, tmp_path / "absent", loop, collection):
        code, _, err = rag("eval", folder, "-c", collection, "-p", "bm25")
        assert code == 2
        assert str(folder) in err
        assert "queries" in err
