"""``rag search`` and ``rag ask`` with filters, phrases, highlights and explanations."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rag import Collection

Rag = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows: list[dict[str, Any]] = [
        {
            "id": "old",
            "title": "Cats",
            "text": "The cat runs. [bold]Dogs[/bold] too.",
            "year": 1980,
        },
        {"id": "new", "title": "Dogs", "text": "Runs of a running dog and cats.", "year": 2001},
        {"id": "none", "title": "", "text": "A dog runs after cats."},
    ]
    path = tmp_path_factory.mktemp("search") / "zoo"
    Collection.build(rows, path, fields={"year": "int"})
    return path


def ids(out: str) -> list[str]:
    return [hit["id"] for hit in json.loads(out)]


def test_a_filter_narrows_search_and_ask(rag: Rag, zoo: Path) -> None:
    code, out, _ = rag("search", "cat", "-c", zoo, "--json", "--where", "{year: {gte: 1990}}")
    assert (code, ids(out)) == (0, ["new"])
    _, out, _ = rag("search", "cat", "-c", zoo, "--where", "year: 1700")
    assert "no passage that --where lets pass" in out
    _, out, _ = rag("ask", "who runs?", "-c", zoo, "--json", "--where", "{year: 1980}")
    assert [hit["id"] for hit in json.loads(out)["documents"]] == ["old"]


def test_a_filter_reaches_the_stages_inside_others_and_adds_to_their_own(
    rag: Rag, zoo: Path, tmp_path: Path
) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(
        "kind: pipeline\nstages:\n"
        "  - unless:\n      when: {question: nothing}\n"
        "      stages:\n        - bm25: {where: {year: {gt: 0}}}\n"
    )
    _, out, _ = rag("search", "cat", "-c", zoo, "-p", file, "--json")
    assert sorted(ids(out)) == ["new", "old"]
    _, out, _ = rag("search", "cat", "-c", zoo, "-p", file, "--json", "--where", "{year: 2001}")
    assert ids(out) == ["new"]


def test_phrases_and_prefixes(rag: Rag, zoo: Path) -> None:
    _, out, _ = rag("search", '"running dog"', "-c", zoo, "--json", "--syntax", "phrases")
    assert ids(out) == ["new"]
    _, out, _ = rag("search", "aft*", "-c", zoo, "--json", "--syntax", "phrases")
    assert ids(out) == ["none"]
    code, _, err = rag("search", '"running', "-c", zoo, "--syntax", "phrases")
    assert code == 2 and "a quote is not closed" in err


def test_highlights_are_the_words_that_match(rag: Rag, zoo: Path) -> None:
    _, out, _ = rag("search", "running cats", "-c", zoo, "--json")
    for hit in json.loads(out):
        marked = [hit["text"][a:b].lower() for a, b in hit["highlights"]["text"]]
        assert marked == {
            "old": ["cat", "runs"], "new": ["runs", "running", "cats"], "none": ["runs", "cats"],
        }[hit["id"]]  # fmt: skip
        titles = [hit["title"][a:b] for a, b in hit["highlights"]["title"]]
        assert titles == (["Cats"] if hit["id"] == "old" else [])


def test_explanations_add_up_to_the_score(rag: Rag, zoo: Path) -> None:
    _, out, _ = rag("search", "running cats nowhere", "-c", zoo, "--json", "--explain")
    for hit in json.loads(out):
        (explained,) = hit["explain"]
        assert explained["score"] == pytest.approx(hit["score"], rel=1e-6)
        assert {term["term"]: term["in_query"] for term in explained["terms"]} == {
            "run": 1, "cat": 1, "nowher": 1,
        }  # fmt: skip
    code, out, _ = rag("search", "running cats [x]", "-c", zoo, "--explain")
    assert code == 0 and out.count("in query") == 3 and "[bold]Dogs[/bold]" in out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--where", "{year: {gte: 1990}"), "--where.*write for example"),
        (("--where", "1990"), "found no mapping.*write for example"),
        (("--where", "{yeer: 1}"), "unknown field 'yeer'; did you mean 'year'"),
        (("--where", "{year: {from: 1}}"), "unknown operator 'from'"),
        (("--where", "{year: x}"), "expected a whole number"),
        (("--syntax", "lucene"), "--syntax"),
    ],
)
def test_wrong_options_say_what_is_right(
    rag: Rag, zoo: Path, options: tuple[str, str], says: str
) -> None:
    for command in ("search", "ask"):
        code, _, err = rag(command, "cat", "-c", zoo, *options)
        assert code == 2 and re.search(says, " ".join(err.split())), err


def test_ask_shows_an_answer_as_it_is_written_on_a_terminal(
    rag: Rag, zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend that types; what it typed is not printed again, unless the answer differs."""
    from rag.backend import Backend, Reply

    class Types(Backend, name="cli_types_for_tests"):
        text: str

        def open(self, context: Any) -> Any:
            return TypesSession(self.text)

    class TypesSession:
        def __init__(self, text: str) -> None:
            self.text = text

        def count(self, text: str) -> int:
            return len(text.split())

        def chat(
            self, conversations: Any, *, max_tokens: Any, temperature: Any, stop: Any, seed: Any,
            tell: Any = None,
        ) -> list[Reply]:  # fmt: skip
            for letter in self.text if tell is not None else "":
                told.append(letter)
                tell(0, letter)
            return [Reply(self.text.strip(), "stop")]

    told = list[str]()
    file = tmp_path / "types.yaml"
    for text, terminal in ((" A [cat].", True), ("A [cat].", False), ("A cat [9].", True)):
        told.clear()
        file.write_text(
            "kind: pipeline\nstages:\n- bm25\n- generate:\n    backend:\n"
            f"      cli_types_for_tests: {{text: {json.dumps(text)}}}\n"
        )
        monkeypatch.setattr("sys.stdout.isatty", lambda terminal=terminal: terminal)
        command = ("ask", "cat", "-c", zoo, "-p", file)
        _, out, err = rag(*command)
        lines = re.sub(r"\x1b\[[0-9;]*m", "", out).splitlines()
        assert (err, bool(told)) == ("", terminal)
        assert lines[0] == text.strip()
        assert lines.count("A [cat].") == (1 if "[cat]" in text else 0)
        assert ("A cat." in lines) == ("[9]" in text)  # the marker names no passage
        _, out, _ = rag(*command, "--json")
        assert json.loads(out)["answer"].startswith("A ")
