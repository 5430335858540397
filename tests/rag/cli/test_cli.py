"""The command line as its contract says: what it prints, how it exits, and never a traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
XQUAD = ROOT / "examples" / "xquad-en"

Rag = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def wiki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from rag import Collection

    path = tmp_path_factory.mktemp("cli") / "wiki"
    Collection.build(XQUAD, path)
    return path


def rows(path: Path, *documents: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(document) + "\n" for document in documents))
    return path


def test_index_search_delete_add_and_info(rag: Rag, tmp_path: Path) -> None:
    source = rows(
        tmp_path / "cats.jsonl",
        {"id": "a", "title": "Cats", "text": "Cats purr."},
        {"id": "b", "title": "Dogs", "text": "Dogs bark at cats."},
    )
    code, out, _ = rag("index", source, "--out", tmp_path / "c", "--json")
    assert (code, json.loads(out)["passages"]) == (0, 2)
    code, out, _ = rag("index", source, "--out", tmp_path / "c")
    assert code == 0
    assert "nothing to do" in out

    code, out, _ = rag("search", "cats", "-c", tmp_path / "c", "--json")
    hits = json.loads(out)
    assert [hit["id"] for hit in hits] == ["a", "b"]
    assert set(hits[0]) == {"highlights", "id", "title", "text", "score"}
    assert hits[0]["text"] == "Cats purr."
    assert len(json.loads(rag("search", "cats", "-c", tmp_path / "c", "-k", 1, "--json")[1])) == 1

    assert rag("delete", tmp_path / "c", "a")[0] == 0
    hits = json.loads(rag("search", "cats", "-c", tmp_path / "c", "--json")[1])
    assert [hit["id"] for hit in hits] == ["b"]

    code, _, err = rag("add", tmp_path / "c", source)
    assert code == 2
    assert "'b'" in err
    assert "--on-existing" in err
    code, out, _ = rag("add", tmp_path / "c", source, "--on-existing", "skip", "--json")
    assert (json.loads(out)["added"], json.loads(out)["skipped"]) == (1, 1)
    facts = json.loads(rag("info", tmp_path / "c", "--json")[1])
    assert (facts["passages"], facts["deleted"], facts["manifest"]) == (2, 1, 3)
    assert json.loads(rag("info", tmp_path / "c", "--manifest", 1, "--json")[1])["deleted"] == 0


def test_index_adds_an_index_to_a_collection_without_its_source(rag: Rag, tmp_path: Path) -> None:
    source = rows(tmp_path / "a.jsonl", {"id": "a", "text": "Cats purr."})
    rag("index", source, "--out", tmp_path / "c")
    source.unlink()
    code, out, _ = rag("index", tmp_path / "c", "--index", "lexical")
    assert code == 0
    assert "nothing to do" in out
    code, _, err = rag("index", tmp_path / "c", "--index", "lexicl")
    assert code == 2
    assert "'lexical'" in err


def test_an_index_file_sets_mapping_fields_and_split(rag: Rag, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("key,head,body,year\nx,Cats,one two three four five,1999\n")
    (tmp_path / "a.yaml").write_text(
        "kind: index\n"
        "source: {type: csv, path: ./a.csv, fields: {id: key, title: head, text: body}}\n"
        "fields: {year: int}\n"
        "split: {by: words, size: 2}\n"
        "indexes:\n  words: {type: lexical, stemmer: none}\n"
    )
    code, _, err = rag("index", tmp_path / "a.yaml", "--out", tmp_path / "c")
    assert (code, err) == (0, "")
    facts = json.loads(rag("info", tmp_path / "c", "--json")[1])
    assert facts["passages"] == 3
    assert facts["fields"] == {"year": "int"}
    hits = json.loads(rag("search", "three", "-c", tmp_path / "c", "--json")[1])
    assert [(hit["id"], hit["text"]) for hit in hits] == [("x#1", "three four")]


def test_a_bad_row_stops_with_its_place_and_leaves_nothing(rag: Rag, tmp_path: Path) -> None:
    source = rows(tmp_path / "a.jsonl", {"id": "a", "text": "Cats."}, {"id": "b", "text": " "})
    code, _, err = rag("index", source, "--out", tmp_path / "c")
    assert code == 2
    assert f"{source}:2: field 'text'" in err
    code, _, err = rag("info", tmp_path / "c")
    assert code == 2
    assert "no manifest yet" in err
    code, out, _ = rag("index", source, "--out", tmp_path / "c", "--on-bad", "skip", "--json")
    done = json.loads(out)
    assert (code, done["passages"], done["bad_rows"]) == (0, 1, 1)
    assert json.loads(Path(done["bad_file"]).read_text())["line"] == 2


def test_ask_answers_with_citations(rag: Rag, wiki: Path) -> None:
    question = "What year did Tesla die?"
    code, out, _ = rag("ask", question, "-c", wiki, "-p", "bm25-extract", "--json")
    answer = json.loads(out)
    assert code == 0
    assert answer["answer"]
    assert 0 <= answer["confidence"] <= 1
    (cited,) = answer["citations"]
    from rag import Collection

    snapshot = Collection.open(wiki).snapshot()
    text = snapshot.rows(snapshot.numbers([cited["id"]]), ["text"])["text"][0].as_py()
    assert text[cited["start"] : cited["end"]] == cited["text"]
    code, out, _ = rag("ask", question, "-c", wiki)
    assert code == 0
    assert cited["id"] in out


def test_eval_gives_measures_and_an_exact_run(rag: Rag, wiki: Path, tmp_path: Path) -> None:
    run = tmp_path / "run.trec"
    arguments = ("eval", XQUAD, "-c", wiki, "-p", "bm25", "--save-run", run, "--json")
    code, out, _ = rag(*arguments)
    measures = json.loads(out)["measures"]
    assert code == 0
    # bm25s with the same stemmer, k1 and b; see the table of reference figures.
    assert measures["nDCG@10"] == pytest.approx(0.967, abs=0.005)
    assert measures["R@100"] == pytest.approx(0.997, abs=0.005)

    import ir_measures
    from ir_measures import nDCG

    qrels = [
        ir_measures.Qrel(query, document, int(grade))
        for query, document, grade in (
            line.split("\t")
            for line in (XQUAD / "qrels.tsv").read_text().splitlines()
            if not line.startswith("query")
        )
    ]
    read = list(ir_measures.read_trec_run(str(run)))
    assert ir_measures.calc_aggregate([nDCG @ 10], qrels, read)[nDCG @ 10] == pytest.approx(
        measures["nDCG@10"], abs=1e-9
    )


def test_verify_names_a_flipped_byte(rag: Rag, tmp_path: Path) -> None:
    source = rows(tmp_path / "a.jsonl", {"id": "a", "text": "Cats purr."})
    rag("index", source, "--out", tmp_path / "c")
    assert rag("verify", tmp_path / "c")[0] == 0
    (damaged,) = (tmp_path / "c").glob("segments/*/passages.arrow")
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    code, out, _ = rag("verify", tmp_path / "c")
    assert code == 1
    assert out.startswith(f"{damaged}: ")
    assert len(json.loads(rag("verify", tmp_path / "c", "--json")[1])["damage"]) == 1


def test_validate_prints_every_error_with_its_position(rag: Rag, tmp_path: Path) -> None:
    good = tmp_path / "good.yaml"
    good.write_text("kind: pipeline\nstages:\n  - bm25: {top_k: 5}\n  - extract\n")
    assert rag("validate", good)[0] == 0
    bad = tmp_path / "bad.yaml"
    bad.write_text("kind: pipeline\nstages:\n  - bm52: {}\n  - bm25: {top_k: 0, k2: 1}\n")
    code, out, _ = rag("validate", bad)
    lines = out.splitlines()
    assert code == 2
    assert [line.split(": ")[0] for line in lines[:3]] == [
        f"{bad}:3:5", f"{bad}:4:19", f"{bad}:4:22",
    ]  # fmt: skip
    assert "bm25" in lines[0]


def test_schema_is_json(rag: Rag) -> None:
    for kind in ((), ("pipeline",), ("index",)):
        code, out, _ = rag("schema", *kind)
        assert code == 0
        assert "$defs" in json.loads(out) or "properties" in json.loads(out)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("search", "x", "-c", "nowhere"), "no such folder"),
        (("search", "x", "-c", "{here}"), "not a collection"),
        (("search", "x"), "-c DIR"),
        (("ask", "x", "-c", "{wiki}", "-p", "bm25"), "writes no answer"),
        (("ask", "x", "-c", "{wiki}", "-p", "bm52-extract"), "bm25-extract"),
        (("ask", "x", "-c", "{wiki}", "-p", "./no.yaml"), "no.yaml"),
        (("index", "{here}/no.jsonl", "--out", "{here}/c"), "no.jsonl"),
        (("index", "{here}/file", "--out", "{here}/c"), ".jsonl"),
        (("index", "{wiki}"), "--index"),
        (("index", "{here}"), "--out"),
        (("eval", "{here}", "-c", "{wiki}"), "queries"),
        (("eval", "{xquad}", "-c", "{wiki}", "-p", "bm25", "-m", "nDGC@10"), "nDCG"),
        (("eval", "{xquad}", "-c", "{wiki}", "-p", "bm25", "-m", "EM"), "answer"),
        (("delete", "{wiki}", "nix"), "nix"),
        (("validate", "{here}/no.yaml"), "no.yaml"),
        (("info", "{wiki}", "--manifest", "9"), "there are: 1"),
        (("frobnicate",), "frobnicate"),
        (("search", "x", "-c", "{wiki}", "-k", "0"), "-k"),
    ],
)
def test_mistakes_exit_2_with_the_next_step(
    rag: Rag, wiki: Path, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    (tmp_path / "file").touch()
    places = {"here": tmp_path, "wiki": wiki, "xquad": XQUAD}
    code, out, err = rag(*(argument.format(**places) for argument in arguments))
    assert code == 2
    assert said in out + err


def test_every_command_shows_an_example(rag: Rag) -> None:
    commands = "index add delete compact search ask eval info verify validate schema"
    for command in commands.split():
        code, out, _ = rag(command, "--help")
        assert code == 0
        assert f"\n    rag {command} " in out


def test_a_closed_pipe_is_no_error(wiki: Path) -> None:
    command = [sys.executable, "-m", "rag.cli", "schema"]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    process.wait()
