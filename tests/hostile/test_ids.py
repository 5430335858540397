"""Ids and texts made to break things: they come back as they went in, and nothing is misled."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rag import Collection

Rag = Callable[..., tuple[int, str, str]]
WriteRows = Callable[[Path, list[dict[str, Any]]], Path]

IDS = {
    "a newline": "a\nb",
    "a carriage return": "a\rb",
    "a tab": "a\tb",
    "a NUL": "a\x00b",
    "an escape sequence": "\x1b[31mred\x1b[0m",
    "a bell": "\x07",
    "up and away": "../../../etc/passwd",
    "an absolute path": "/etc/passwd",
    "a Windows path": "C:\\con\\aux",
    "a slash": "/",
    "a dot": ".",
    "two dots": "..",
    "a tilde": "~root",
    "a shell command": "$(touch /tmp/hit); `id` | rm -rf *",
    "a variable": "${HOME}",
    "rich markup": "[bold red]x[/bold red][/]",
    "a format": "{0} %s %n {id!r}",
    "a quotation mark": "'\"`",
    "our own part mark": "a#0",
    "an option": "--json",
    "10 kB": "x" * 10_000,
    "from right to left": "\u202etxt.exe\u202c",
    "isolates": "\u2066a\u2069\u2068",
    "zero width": "a\u200bb\u200d\ufeffc",
    "a flood of combining marks": "z" + "\u0301\u0317\u0489" * 500,
    "beyond the basic plane": "\U0001f469\u200d\U0001f680\U0010ffff",
    "private and unassigned": "\ue000\U000e0001\ufffe\uffff",
    "line separators": "a\u2028b\u2029c\x85d",
    "composed": "\u00e9",
    "decomposed": "e\u0301",
    "the Turkish i": "\u0130\u0131",
    "a very long ligature": "\ufdfa" * 100,
    "a number": "007",
    "JSON": '{"id":"x"}',
}


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One passage for each id, which is also its title and stands in its text."""
    folder = tmp_path_factory.mktemp("ids")
    rows = [
        {"id": name, "title": name, "text": f"marker{n} {name}"}
        for n, name in enumerate(IDS.values())
    ]
    source = folder / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    Collection.build(source, folder / "c", segment_rows=10)
    return folder / "c"


@pytest.mark.parametrize("case", IDS)
def test_an_id_comes_back_as_it_went_in(case: str, rag: Rag, collection: Path) -> None:
    number = list(IDS).index(case)
    code, out, err = rag("search", f"marker{number}", "-c", collection, "--json")
    assert code == 0, err
    (hit,) = json.loads(out)
    assert (hit["id"], hit["title"]) == (IDS[case], IDS[case])
    assert hit["text"] == f"marker{number} {IDS[case]}"
    assert rag("search", f"marker{number}", "-c", collection)[0] == 0


@pytest.mark.parametrize("case", IDS)
def test_a_hostile_question_is_a_question(case: str, rag: Rag, collection: Path) -> None:
    for command in ("search", "ask"):
        code, _, err = rag(command, "-c", collection, "--json", "--", f"marker0 {IDS[case]}")
        assert code == 0, err


def test_no_id_becomes_a_file(collection: Path) -> None:
    names = {path.name for path in collection.parent.rglob("*")}
    assert not any("passwd" in name or "marker" in name or "\n" in name for name in names)
    assert not Path("/tmp/hit").exists()
    assert Collection.open(collection).verify() == []


def test_ids_that_look_alike_are_two(rag: Rag, tmp_path: Path, write_rows: WriteRows) -> None:
    alike = ["\u00e9", "e\u0301", "e", "E", "\u0435", "e ", "e\u200b", "e\x00"]
    source = write_rows(tmp_path / "a.jsonl", [{"id": i, "text": "apple"} for i in alike])
    code, out, _ = rag("index", source, "--out", tmp_path / "c", "--json")
    assert (code, json.loads(out)["passages"]) == (0, len(alike))
    collection = Collection.open(tmp_path / "c")
    collection.delete(["e\u0301"])
    assert [row["id"] for row in collection.passages()] == [i for i in alike if i != "e\u0301"]


@pytest.mark.parametrize("case", [case for case in IDS if case != "a NUL"])
def test_a_hostile_id_is_deleted_by_its_name(case: str, rag: Rag, tmp_path: Path) -> None:
    Collection.build([{"id": IDS[case], "text": "t"}, {"id": "b", "text": "t"}], tmp_path / "c")
    code, _, err = rag("delete", tmp_path / "c", "--", IDS[case])
    assert code == 0, err
    assert [row["id"] for row in Collection.open(tmp_path / "c").passages()] == ["b"]
    code, _, err = rag("delete", tmp_path / "c", "--", IDS[case])
    assert code == 2
    assert "nothing was deleted" in err


def test_questions_that_are_no_unicode_are_refused_or_answered(collection: Path) -> None:
    from rag.errors import RagError

    for question in ("\ud800", "apple \udfff", "\udcff" * 1000):
        try:
            hits = Collection.open(collection).search(question)
        except RagError as error:
            assert "surrogate" in str(error) or "Unicode" in str(error)
        else:
            assert isinstance(hits, list)


@pytest.mark.parametrize("size", [10_000, 1_000_000])
def test_a_question_without_end_is_answered(size: int, collection: Path) -> None:
    assert Collection.open(collection).search("marker3 " + "word " * size)[0].title
    assert Collection.open(collection).search("x" * size) == [] or size == 10_000
    assert isinstance(Collection.open(collection).search("\u0301" * size), list)
