"""Templates against Python's own, and the stage rewrite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rag.batch import Batch
from rag.errors import InvalidFile, InvalidInput, MissingColumn
from rag.pipeline import Pipeline
from rag.retrievers import Rewrite
from rag.retrievers.template import Template
from rag.stage import Columns
from rag.testing import check_stage

pieces = st.lists(st.sampled_from(["{a}", "{b}", "{{", "}}", "x", " ", "é\n", "$a", "%s"]))
broken = st.text("{}a", max_size=6)
values = st.fixed_dictionaries({"a": st.text("{a}b ", max_size=4), "b": st.text(max_size=4)})


@given(pieces, values)
def test_filling_is_what_format_does(parts: list[str], given: dict[str, str]) -> None:
    text = "".join(parts)
    assert Template(text).fill(given) == text.format(**given)
    assert Template(text).names == [part[1] for part in parts if part in ("{a}", "{b}")]


@given(broken, values)
def test_braces_that_python_refuses_are_refused(text: str, given: dict[str, str]) -> None:
    try:
        expected = text.format(**given)
    except (ValueError, KeyError, IndexError):
        try:
            names = Template(text).names
        except InvalidInput as error:
            assert "write {{ or }} for a brace itself" in str(error)
        else:
            assert not {*names} <= given.keys()  # a name like aa, which columns() refuses
    else:
        assert Template(text).fill(given) == expected


def test_the_message_gives_the_place_of_a_brace() -> None:
    with pytest.raises(InvalidInput, match=r"'a} b': the '}' at character 2 belongs to no"):
        Template("a} b")


def test_what_is_filled_in_is_not_read_again() -> None:
    assert Template("{a} {b}").fill({"a": "{b}", "b": "{{"}) == "{b} {{"


BATCH = Batch.of(["Who?", "Where?", "{answer}"]).put(answer=["Curie", None, "x"])


def test_it_writes_the_query_as_a_list_and_other_columns_as_text() -> None:
    after = check_stage(Rewrite(template="{question} {answer}"), BATCH)
    assert after["query"] == (("Who? Curie",), None, ("{answer} x",))
    after = check_stage(Rewrite(template="{{{question}}}", into="shown"), BATCH)
    assert after["shown"] == ("{Who?}", "{Where?}", "{{answer}}")
    assert after["query"] == BATCH["query"]


@pytest.mark.parametrize(
    "name", ["anser", "question.__class__", "question[0]", "question!r", "question:>9", " question"]
)
def test_a_name_is_a_column_or_is_refused_before_anything_is_opened(name: str) -> None:
    with pytest.raises(MissingColumn) as caught:
        Pipeline([Rewrite(template=f"{{question}} {{{name}}}")])
    assert f"'rewrite' reads column {name!r}, which no earlier stage writes" in str(caught.value)


def test_a_column_whose_name_has_a_dot_is_read() -> None:
    batch = Batch.of(["Who?"]).put(**{"small.answer": ["Curie"]})
    after = check_stage(Rewrite(template="{small.answer}"), batch)
    assert after["query"] == (("Curie",),)


def test_a_column_that_holds_no_text_is_refused() -> None:
    have = Columns().put(documents="ranking").at("rewrite")
    with pytest.raises(InvalidInput, match="reads column 'documents' as str"):
        Rewrite(template="{documents}").columns(have)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "template\n  Field required"),
        ({"template": "$question"}, "names no column"),
        ({"template": "{question"}, "the '{' at character 1"),
        ({"template": "{}"}, "the '{' at character 1"),
        ({"template": "{question}", "into": "question"}, "'question' is never overwritten"),
    ],
)
def test_settings_that_cannot_be_used(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Rewrite(**settings)
    assert said in str(caught.value)


def test_a_wrong_template_in_a_file_is_one_error_at_its_place(tmp_path: Path) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(
        "kind: pipeline\nstages:\n  - rewrite: {template: '{question'}\n  - bm25\n  - extract\n"
    )
    with pytest.raises(InvalidFile) as caught:
        Pipeline.load(file)
    (problem,) = caught.value.problems
    assert (problem.line, problem.key) == (3, "stages[0].rewrite.template")
