"""What users of other frameworks suffered, and a test of each that it does not happen here.

A test is named after the complaint; its docstring says where it was made. Complaints about one
thing share a test. Those that cannot apply yet, and why:

- memory of embeddings of a whole corpus (FlashRAG #84), additions that corrupt a FAISS index
  (faiss #3498), GPU builds of FAISS (pyserini #566, #2098): there is no dense index yet;
- objects spilled by Ray (ray #26441, #42479, #34041): there is no Ray executor yet;
- a Java heap (pyserini #1740), a JVM in several processes (#1761, #139) and two JVMs (patapsco
  #23): there is no Java; the extra for Lucene is not built yet;
- breakpoints in asynchronous pipelines (haystack #9465): there are no breakpoints.

Full disks (FlashRAG #168, faiss #607) are in tests/killed/test_full_disk.py.
"""

from __future__ import annotations

import ast
import copy
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rag import Batch, Collection, Columns, Context, Pipeline, Stage
from rag.collection import build
from rag.collection.segments import Segment
from rag.errors import InvalidFile, InvalidInput, NotFound, RagError
from rag.eval import Dataset, evaluate
from rag.eval.measures import answers, retrieval
from rag.indexers import Lexical
from rag.indexers.lexical_index import LexicalIndex
from rag.pipelines import draw
from rag.retrievers import BM25
from rag.sources import Reader, Split
from rag.stage import Step

ROOT = Path(__file__).parents[2]
ROOMS = ("rag", "indexers", "retrievers", "readers", "pipelines", "eval")
WORDS = ["apple", "birch", "cedar", "dog", "elm", "fig"]
ROWS = [
    {"id": f"p{n}", "title": f"T{n}", "text": f"{WORDS[n % 6]} {WORDS[n % 5]} {WORDS[n % 4]} {n}"}
    for n in range(120)
]


class Passing(Stage, name="passing_complaint"):
    """Hands its batch on."""

    def columns(self, have: Columns) -> Columns:
        return have

    def open(self, context: Context) -> Step:
        return lambda batch, run: batch


class Breaking(Stage, name="breaking_complaint"):
    """Fails for every batch."""

    def columns(self, have: Columns) -> Columns:
        return have

    def open(self, context: Context) -> Step:
        def step(batch: Batch, run: object) -> Batch:
            raise ZeroDivisionError("one by nought")

        return step


@pytest.fixture(scope="module", autouse=True)
def no_sync() -> Iterator[None]:
    from rag.collection import folders, manifest

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folders, "sync", lambda path: None)
        patch.setattr(manifest, "sync", lambda path: None)
        yield


@pytest.fixture
def wiki(tmp_path: Path) -> Collection:
    return Collection.build(ROWS, tmp_path / "wiki", segment_rows=50)[0]


def ids(collection: Collection, question: str, k: int = 10) -> list[str]:
    return [hit.id for hit in collection.search(question, k)]


def in_a_process(program: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        check=False,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_batch_gives_what_its_questions_give_alone(wiki: Collection) -> None:
    """haystack #1239, #2636, #4692 (run_batch was wrong); llama_index #699, #3674, #12231."""
    questions = ["apple", "birch cedar", "no such", "", "dog elm fig 7"]
    with Pipeline([BM25(top_k=7)], wiki) as pipeline:
        batch = pipeline.run(questions)
        for row, question in enumerate(questions):
            alone = pipeline.run([question])
            assert list(batch["documents"][row]) == list(alone["documents"][0])


def test_a_batch_is_one_call_and_not_one_a_question(
    wiki: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pyserini #2270, llama_index #15756, FlashRAG #135, haystack #1557."""
    calls: list[int] = []
    real = LexicalIndex.search

    def counted(index: LexicalIndex, queries: Any, *args: Any, **settings: Any) -> Any:
        calls.append(len(queries))
        return real(index, queries, *args, **settings)

    monkeypatch.setattr(LexicalIndex, "search", counted)
    with Pipeline([BM25(top_k=5)], wiki) as pipeline:
        pipeline.run([f"apple {n}" for n in range(200)])
    assert calls == [200]


def test_indexing_does_not_hold_everything_until_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FlashRAG #233 (killed, since all was encoded first), haystack #2790, llama_index #3516."""
    monkeypatch.setattr("rag.sources.reader.BATCH", 10)
    written: list[int] = []
    real = Reader.__iter__

    def watching(reader: Reader) -> Iterator[pa.RecordBatch]:
        for batch in real(reader):
            yield batch
            written.append(len(list((tmp_path / "c").glob(".work/**/*.arrow"))))

    monkeypatch.setattr(Reader, "__iter__", watching)
    Collection.build(ROWS, tmp_path / "c", segment_rows=20)
    assert len(written) == 12
    assert written[6] >= 2
    assert written == sorted(written)


def test_a_search_over_many_segments_keeps_k_hits_and_not_k_of_each(tmp_path: Path) -> None:
    """beir #109, sentence-transformers PR #1715: top-k of every chunk was kept; pyserini #798."""
    one = Collection.build(ROWS, tmp_path / "one")[0]
    many = Collection.build(ROWS, tmp_path / "many", segment_rows=5)[0]
    assert len(many.snapshot().segments) >= 24
    searcher = many.snapshot().index("lexical")
    offsets, docs, scores = searcher.search(["apple birch"] * 3, 4)
    assert (len(docs), len(scores), offsets.tolist()) == (12, 12, [0, 4, 8, 12])
    assert ids(one, "apple birch") == ids(many, "apple birch")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's memory account")
def test_memory_does_not_grow_with_every_search(wiki: Collection) -> None:
    """pyserini #431: RAM grew with each search."""

    def pages() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1])

    with Pipeline([BM25(top_k=50)], wiki) as pipeline:
        for _ in range(200):
            pipeline.run(["apple birch"])
        before = pages()
        for _ in range(1000):
            pipeline.run(["apple birch"])
        assert (pages() - before) * os.sysconf("SC_PAGE_SIZE") < 10_000_000


def test_nothing_is_copied_deeply_between_stages(
    wiki: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """haystack #9011, #9349, #10567: every input was deep-copied at every component."""

    def refuse(*args: object) -> object:
        raise AssertionError("a deep copy")

    with Pipeline([BM25(top_k=5), Passing(), Passing()], wiki) as pipeline:
        pipeline.run(["warm"])
        monkeypatch.setattr(copy, "deepcopy", refuse)
        assert len(pipeline.run(["apple"])["documents"][0]) == 5


def test_importing_is_light_and_nothing_goes_to_the_network(tmp_path: Path) -> None:
    """haystack #4635, #8831 (imports of a minute), #7566, #9107 (a drawing went to a stranger)."""
    Collection.build(ROWS, tmp_path / "c")
    program = f"""
import sys, socket
def refuse(*args, **more):
    raise AssertionError("a connection")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import rag
assert not {{"numpy", "torch", "pyarrow", "numba"}} & set(sys.modules)
from rag import Collection, Pipeline
from rag.pipelines.schema import json_schema
json_schema(None)
with Pipeline.load("bm25-extract", collection=Collection.open({str(tmp_path / "c")!r})) as pipeline:
    pipeline.ask("Which apple?")
    repr(pipeline)
print(*sorted({{"torch", "faiss", "ray", "haystack", "jnius", "pyserini"}} & set(sys.modules)))
"""
    # 24: neither of the two that crash together on macOS (txtai #377, #300; faiss #3624) is there.
    assert in_a_process(program).split() == []


def test_a_drawing_of_any_size_is_made_here(
    wiki: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """haystack #7896, #8089, #9107: a stranger's server drew at most 12,000 characters."""

    def refuse(*args: object) -> object:
        raise AssertionError("a connection")

    monkeypatch.setattr("socket.socket.connect", refuse)
    stages = [BM25(into=f"found_{n}", top_k=3) for n in range(200)]
    with Pipeline(stages, wiki) as pipeline:
        for picture in (draw.mermaid(pipeline), draw.svg(pipeline)):
            assert len(picture) > 12_000
            assert "found_199" in picture


def test_opening_parses_no_passage_and_deleting_rewrites_no_file(wiki: Collection) -> None:
    """llama_index #9347 (6,519 chunks load in 50 s), #14124 (a delete 200 s), #15744, #16088."""
    opened = Collection.open(wiki.path).snapshot()
    assert all("batches" not in vars(segment) for segment in opened.segments)
    searcher = opened.index("lexical")
    for part in searcher._parts:
        assert isinstance(part.rows.base, np.memmap)  # pyserini #1381: all in memory
    parts = [p for room in ("segments", "indexes") for p in (wiki.path / room).glob("**/*")]
    before = {path: path.stat() for path in parts if path.is_file()}
    wiki.delete(["p3"])
    wiki.add([{"id": "new", "text": "new"}])
    for path, stat in before.items():
        assert (path.stat().st_ino, path.stat().st_mtime_ns) == (stat.st_ino, stat.st_mtime_ns)


def test_an_index_and_its_passages_never_count_differently(wiki: Collection) -> None:
    """haystack #1903, #3961, #6661, #6838, #2532: FAISS and SQL counts differed after a load."""
    steps: list[Callable[[], object]] = [
        lambda: wiki.add([{"id": f"n{n}", "text": "grape"} for n in range(7)]),
        lambda: wiki.delete(["p1", "n3"]),
        lambda: wiki.add([{"id": "p2", "text": "again"}], on_existing="replace"),
        lambda: wiki.compact(),
    ]
    for step in steps:
        step()
        snapshot = Collection.open(wiki.path).snapshot()
        assert snapshot.index("lexical").rows == snapshot.manifest.rows
        assert len(snapshot) == len(list(wiki.passages()))
        assert wiki.verify() == []


def test_many_read_one_index_at_once(wiki: Collection) -> None:
    """faiss #861: a read error under several workers."""
    questions = [f"{word} {n}" for word in WORDS for n in range(20)]
    alone = [ids(wiki, question) for question in questions]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda question: ids(wiki, question), questions)) == alone
    program = f"""
import json, sys
from rag import Collection
wiki = Collection.open({str(wiki.path)!r})
print(json.dumps([[hit.id for hit in wiki.search(q)] for q in {questions!r}]))
"""
    with ThreadPoolExecutor(2) as threads:
        for out in threads.map(in_a_process, [program] * 2):
            assert json.loads(out) == alone


def test_an_index_of_another_version_or_of_none_says_so(wiki: Collection) -> None:
    """faiss #373, #586 (an index of a newer faiss could not be read), #3888 (not recognised)."""
    file = next(wiki.path.glob("indexes/lexical/*/index.json"))
    head = json.loads(file.read_text())
    for text, said in (
        (json.dumps({**head, "format": 99}), "99"),
        ("[]", "it holds no object"),
        ("no index", "is damaged"),
    ):
        file.write_text(text)
        with pytest.raises(RagError, match="indexes/lexical/.*; run `rag") as caught:
            Collection.open(wiki.path).search("apple")
        assert said in str(caught.value)


def test_one_document_is_looked_up_and_not_searched_for(
    wiki: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama_index #14597: every stored hash was read to add one document."""
    taken: list[int] = []
    real = Segment.take

    def counted(segment: Segment, rows: Any, columns: Any) -> pa.Table:
        taken.append(len(rows))
        return real(segment, rows, columns)

    def refuse(segment: Segment, columns: Any = None) -> Any:
        raise AssertionError("all passages were read")

    monkeypatch.setattr(Segment, "take", counted)
    monkeypatch.setattr(Segment, "whole_batches", refuse)
    assert wiki.add([{"id": "p7", "text": "new"}], on_existing="replace").deleted == 1
    assert sum(taken) <= 70  # the passage, and the run of its document's neighbours


def test_ids_do_not_shift_after_a_deletion(wiki: Collection) -> None:
    """haystack #6228, #3327 (a second index gave wrong documents); mem0 #3246."""
    texts = {row["id"]: row["text"] for row in ROWS}
    before = ids(wiki, "dog", 120)
    wiki.add_index({"plain": Lexical(stemmer="none")})
    wiki.delete(["p0", "p60", before[0]])
    after = Collection.open(wiki.path)
    left = [name for name in before if name not in ("p0", "p60", before[0])]
    for name in ("lexical", "plain"):
        with Pipeline([BM25(top_k=120, index=name)], after) as pipeline:
            hits = list(pipeline.run(["dog"])["documents"][0])
        assert sorted(hit.id for hit in hits) == sorted(left)
        assert all(hit.text == texts[hit.id] for hit in hits)


def test_a_part_of_a_corpus_is_measured_and_a_foreign_one_refused(tmp_path: Path) -> None:
    """AutoRAG #1033, #630, #863: ids that were not in a cut corpus broke the validation."""
    wiki = Collection.build(ROWS[:3], tmp_path / "c")[0]
    qrels = {"q": {"p0": 1, "p99": 1}}
    with Pipeline([BM25(top_k=5)], wiki) as pipeline:
        data = Dataset("d", tmp_path, None, {"q": "apple"}, qrels, {})
        assert evaluate(data, pipeline, measures=["R@5"]).measures["R@5"] == 0.5
        foreign = Dataset("d", tmp_path, None, {"q": "apple"}, {"q": {"x": 1}}, {})
        with pytest.raises(InvalidInput, match="none of the judged documents"):
            evaluate(foreign, pipeline)


def test_a_job_that_failed_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """txtai #695, FlashRAG #168: a crash lost all; txtai #937, #1197: not for every index."""
    indexes = {"lexical": Lexical(), "plain": Lexical(stemmer="none")}
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    built: list[int] = []
    real = Lexical.build

    def counted(kind: Lexical, passages: pa.Table, out: Path) -> None:
        if len(built) == 7 and not (tmp_path / "again").exists():
            raise OSError(28, "No space left on device")
        built.append(passages.num_rows)
        real(kind, passages, out)

    monkeypatch.setattr(Lexical, "build", counted)
    with pytest.raises(OSError, match="No space left"):
        Collection.build(source, tmp_path / "c", indexes=indexes, segment_rows=20)
    assert len(built) == 7
    (tmp_path / "again").touch()
    collection, _ = Collection.build(source, tmp_path / "c", indexes=indexes, segment_rows=20)
    assert sum(built) == 2 * len(collection) == 2 * len(ROWS)  # no part was built twice


def test_a_failed_replacement_loses_no_document(wiki: Collection) -> None:
    """llama_index #22638, #22639, #19579: the old one was deleted before the new one was there."""
    before = list(wiki.passages())
    with pytest.raises(RagError):
        wiki.add([{"id": "p1", "text": "new"}, {"id": "bad"}], on_existing="replace")
    assert list(Collection.open(wiki.path).passages()) == before


def test_a_replacement_keeps_all_passages_of_a_document(tmp_path: Path) -> None:
    """llama_index #22046, #22133: only the last chunk of a document was kept."""
    rows = [{"id": "a", "text": "one two three four"}, {"id": "b", "text": "five six"}]
    wiki = Collection.build(rows, tmp_path / "c", split=Split(by="words", size=2))[0]
    wiki.add([{"id": "a", "text": "six seven eight nine ten"}], on_existing="replace")
    assert sorted(row["id"] for row in wiki.passages()) == ["a#0", "a#1", "a#2", "b#0"]
    assert ids(wiki, "one") == []


def test_a_collection_can_be_updated(wiki: Collection) -> None:
    """pyserini #1964, pyterrier #297, bm25s #19, #74: no update but a build from nothing."""
    wiki.add([{"id": "kiwi", "text": "kiwi"}])
    assert ids(wiki, "kiwi") == ["kiwi"]
    wiki.add([{"id": "kiwi", "text": "lemon"}], on_existing="replace")
    assert (ids(wiki, "kiwi"), ids(wiki, "lemon")) == ([], ["kiwi"])
    wiki.delete(["kiwi"])
    assert ids(wiki, "lemon") == []


def test_a_changed_input_never_gives_a_stale_result(tmp_path: Path) -> None:
    """pyterrier #304, #173: results of other topics were reused; llama_index #20823, #19276."""
    source = tmp_path / "a.jsonl"
    source.write_text('{"id":"a","text":"apple"}\n')
    Collection.build(source, tmp_path / "c")
    source.write_text('{"id":"a","text":"grape"}\n')  # of the same size
    wiki, done = Collection.build(source, tmp_path / "c")
    assert not done.unchanged
    assert (ids(wiki, "apple"), ids(wiki, "grape")) == ([], ["a"])
    # Settings are inputs too.
    wiki, done = Collection.build(
        source, tmp_path / "c", indexes={"lexical": Lexical(stemmer="none")}
    )
    assert not done.unchanged


def test_nothing_outside_python_is_needed(tmp_path: Path) -> None:
    """pyserini #1934, #1862, #2075, #383: Java was needed even to evaluate; txtai #744."""
    Collection.build(ROWS, tmp_path / "c")
    program = f"""
from rag import Collection
from rag.eval.measures import retrieval
print(len(Collection.open({str(tmp_path / "c")!r}).search("apple", 3)))
print(retrieval(["nDCG@10"], {{"q": {{"a": 1}}}}, {{"q": [("a", 1.0)]}}).means)
"""
    out = in_a_process(program, PATH="/nonexistent", JAVA_HOME="/nonexistent")
    assert out.split("\n")[0] == "3"


def test_no_dependency_is_pinned_to_one_version() -> None:
    """FlashRAG #97, #134, #176; FlexRAG #33: exact pins that fit with nothing else."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    assert lists[0]
    assert [entry for each in lists for entry in each if "==" in entry] == []


TYPOS = {
    "kind: pipeline\nstages: [{bm52: {}}]\n": r"2:\d+: .*'bm25'",
    "kind: pipeline\nstages: [{bm25: {topk: 3}}]\n": r"2:\d+: .*top_k",
    "kind: pipeline\ncolection: ./x\nstages: [bm25]\n": r"2:1: .*collection",
    "kind: pipeline\nstages: [{bm25: {top_k: x}}]\n": r"2:\d+: .*x",
    "kind: pipeline\nstages: [reorder, bm25]\n": r"2:\d+: .*documents",
}


@pytest.mark.parametrize("text", TYPOS)
def test_a_typo_is_found_by_validation_with_its_place(text: str, tmp_path: Path) -> None:
    """haystack #2338, #7804, #2310, #3120, #3331; AutoRAG #802 and its tutorial's bare KeyError."""
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(InvalidFile) as caught:
        Pipeline.load(path)
    assert re.match(re.escape(f"{path}:") + TYPOS[text], str(caught.value))


def test_all_typos_are_found_at_once(tmp_path: Path) -> None:
    """haystack #1698: one error a run."""
    path = tmp_path / "p.yaml"
    path.write_text("kind: pipeline\nstages:\n- bm52\n- {bm25: {topk: 3}}\n- {reorder: {x: 1}}\n")
    with pytest.raises(InvalidFile) as caught:
        Pipeline.load(path)
    assert [problem.line for problem in caught.value.problems] == [3, 4, 5]


def test_an_error_says_which_stage_it_came_from(wiki: Collection) -> None:
    """pyterrier #632: the error must say WHICH transformer."""
    with (
        Pipeline([BM25(), Passing(), Breaking()], wiki) as pipeline,
        pytest.raises(ZeroDivisionError) as caught,
    ):
        pipeline.run(["apple"])
    notes = " ".join(getattr(caught.value, "__notes__", []))
    assert "breaking_complaint" in notes + str(caught.value)


def test_no_question_and_no_hit_break_no_stage(wiki: Collection) -> None:
    """pyterrier #352: an empty frame broke the next stage."""
    with Pipeline.load("bm25-extract", collection=wiki) as pipeline:
        assert len(pipeline.run([])) == 0
        row = pipeline.run(["zzzz"]).row(0)
        assert row["error"] is None
        assert list(row["documents"]) == []


def test_what_is_not_there_is_named_and_suggested(tmp_path: Path) -> None:
    """txtai #412 (a missing configuration), AutoRAG-tutorial-ko #1 (an unknown module)."""
    with pytest.raises(NotFound, match="absent.yaml"):
        Pipeline.load(tmp_path / "absent.yaml")
    with pytest.raises(RagError, match="'bm25'"):
        Pipeline.load("bm26")
    with pytest.raises(NotFound, match="rag index"):
        Collection.open(tmp_path / "absent")


@pytest.mark.parametrize(
    "value",
    [
        "os.system",
        "{os.system: {}}",
        "{type: os.system, init_parameters: {}}",
        "!!python/object/apply:os.system ['true']",
        "!!python/name:os.system",
        "{rag.retrievers.bm25.BM25: {}}",
        "{bm25: {index: !!python/object/new:os.system ['true']}}",
    ],
)
def test_a_yaml_file_names_no_code(value: str, tmp_path: Path) -> None:
    """haystack #11432 and five follow-ups, txtai #1108, FlashRAG #42 (its own dump was unsafe)."""
    path = tmp_path / "p.yaml"
    path.write_text(f"kind: pipeline\nstages: [{value}]\n")
    with pytest.raises(InvalidFile):
        Pipeline.load(path)


def test_no_format_is_pickle(wiki: Collection) -> None:
    """AutoRAG #1205, llama_index #17121, #21786 (CVE-2024-14021)."""
    files = [path for path in wiki.path.glob("**/*") if path.is_file() and "log" not in path.parts]
    assert {path.suffix for path in files} <= {".json", ".arrow", ".npy"}
    for path in files:
        if path.suffix == ".npy":
            np.load(path, allow_pickle=False)
    banned = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
    for room in ROOMS:
        for source in (ROOT / room).glob("**/*.py"):
            tree = ast.parse(source.read_text(encoding="utf-8"))
            for node in ast.walk(tree):
                if isinstance(node, ast.Import):
                    assert not banned & {alias.name for alias in node.names}, source
                elif isinstance(node, ast.ImportFrom):
                    # torch's reader of tensors alone raises this error.
                    only_error = [alias.name for alias in node.names] == ["UnpicklingError"]
                    assert node.module not in banned or only_error, source
                elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    assert node.func.id not in ("eval", "exec"), source


def test_exact_match_is_squads() -> None:
    """FlashRAG #60, #167, #40, #29: figures that could not be reproduced."""
    gold = {"q": ["The Eiffel Tower!"]}
    for answer, expected in (("eiffel  tower", 1.0), ("an Eiffel tower.", 1.0), ("Eiffel", 0.0)):
        assert answers(["EM"], gold, {"q": answer}).each["q"]["EM"] == expected


def test_scores_and_ties_are_the_same_however_it_is_cut_and_run(tmp_path: Path) -> None:
    """pyserini PR #292, #336: small differences by ties and threads."""
    rows = [{"id": f"t{n}", "text": "apple birch"} for n in range(40)] + ROWS
    results = []
    for segment_rows in (7, 50, 1000):
        wiki = Collection.build(rows, tmp_path / f"c{segment_rows}", segment_rows=segment_rows)[0]
        searcher = wiki.snapshot().index("lexical")
        for threads in (1, 3):
            found = searcher.search(["apple", "birch elm"], 60, threads=threads)
            results.append([part.tolist() for part in found])
    assert results.count(results[0]) == len(results)


def test_a_document_that_is_the_question_is_left_out(tmp_path: Path) -> None:
    """BEIR PR #91, pylate #198, ir_datasets #310: ArguAna 31.5 with it, 41.4 without."""
    rows = [{"id": "q", "text": "apple birch"}, {"id": "a", "text": "apple birch cedar"}]
    wiki = Collection.build(rows, tmp_path / "c")[0]
    data = Dataset("d", tmp_path, None, {"q": "apple birch"}, {"q": {"a": 1}}, {})
    with Pipeline([BM25(top_k=5)], wiki) as pipeline:
        report = evaluate(data, pipeline, measures=["RR@10"])
    assert [name for name, _ in report.run["q"]] == ["a"]
    assert report.measures["RR@10"] == 1.0


def test_no_measure_exceeds_one_whatever_stands_twice(tmp_path: Path) -> None:
    """beir #187, haystack PR #11959: nDCG above 1 with duplicates."""
    rows = [{"id": "a", "text": "apple apple apple apple"}, {"id": "b", "text": "birch apple"}]
    wiki = Collection.build(rows, tmp_path / "c", split=Split(by="words", size=1))[0]
    data = Dataset("d", tmp_path, None, {"q": "apple"}, {"q": {"a": 1}}, {})
    with Pipeline([BM25(top_k=9)], wiki) as pipeline:
        report = evaluate(data, pipeline, measures=["nDCG@10", "R@10", "AP"])
    assert all(value <= 1 for value in report.measures.values())
    assert report.measures["nDCG@10"] == 1.0
    assert [name for name, _ in report.run["q"]] == ["a", "b"]


def test_measures_are_the_same_one_by_one_and_together() -> None:
    """pyterrier #598: a batch size changed measures that are not means."""
    qrels = {"q1": {"a": 1}, "q2": {"b": 2, "c": 1}, "q3": {"d": 1}}
    run = {"q1": [("x", 2.0), ("a", 1.0)], "q2": [("b", 1.0)], "q3": []}
    together = retrieval(["nDCG@10", "AP"], qrels, run)
    for query, grades in qrels.items():
        alone = retrieval(["nDCG@10", "AP"], {query: grades}, {query: run[query]})
        assert alone.each[query] == together.each[query]


def test_the_work_of_a_job_is_gone_when_it_is_done(wiki: Collection) -> None:
    """FlashRAG #168, faiss #607: disks filled with what nobody needed any more."""
    assert not list((wiki.path / build.WORK).glob("**/*.arrow"))
