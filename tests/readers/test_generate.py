"""The stage generate over a scripted backend, and once over a real model."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import Field, ValidationError

from rag.backend import Backend, Conversation, Reply, Session, Tell, Waits
from rag.batch import Batch
from rag.errors import BackendFailed, Cancelled, DeadlinePassed
from rag.pipeline import Pipeline
from rag.ranking import Ranking
from rag.readers import Generate, Reorder
from rag.readers.backends.llama_cpp import LlamaCpp
from rag.run import Cancel
from rag.stage import Columns, Context, Run, Stage, Step
from rag.testing import MemorySnapshot, check_stage

WIKI = MemorySnapshot(
    [
        {"id": "tower", "title": "Eiffel Tower", "text": "It is iron. Gustave Eiffel built it."},
        {"id": "bridge", "title": "Bridge", "text": "A bridge crosses the river. A queen came."},
        {"id": "paris", "title": "Paris", "text": "Paris is a city."},
    ]
)


class Scripted(Backend, name="scripted_for_tests"):
    """Replies by question; an answer that starts with ! is a failure."""

    answers: dict[str, str] = Field(default_factory=dict)
    finish: str = "stop"
    logprobs: tuple[float, ...] | None = None

    def open(self, context: Context) -> Session:
        return ScriptedSession(self)


class ScriptedSession:
    def __init__(self, settings: Scripted) -> None:
        self.settings = settings

    def count(self, text: str) -> int:
        return len(text.split())

    def chat(
        self, conversations: Sequence[Conversation], **settings: Any
    ) -> list[Reply | Exception]:
        assert set(settings) == {"max_tokens", "temperature", "stop", "seed"}
        return [self.answer(conversation[-1]["content"]) for conversation in conversations]

    def answer(self, prompt: str) -> Reply | Exception:
        question = prompt.rpartition("Question: ")[2].partition("\n")[0]
        text = self.settings.answers[question]
        if text.startswith("!"):
            return BackendFailed(text[1:])
        return Reply(text, self.settings.finish, self.settings.logprobs)


def generate(*answers: str, **settings: Any) -> Generate:
    script = {f"Q{n}?": answer for n, answer in enumerate(answers)}
    keys = {key: settings.pop(key) for key in ("finish", "logprobs") if key in settings}
    return Generate(backend=Scripted(answers=script, **keys), **settings)


def asked(*rows: list[int] | None) -> Batch:
    lists = [
        None if row is None else [(doc, 1.0 / place) for place, doc in enumerate(row, 1)]
        for row in rows
    ]
    questions = [f"Q{n}?" for n in range(len(rows))]
    return Batch.of(questions).put(documents=Ranking.of(lists, WIKI))


def markers(after: Batch, row: int = 0) -> list[tuple[int, str]]:
    return [(citation.marker, citation.text) for citation in after["citations"][row]]


def test_markers_become_citations() -> None:
    stage = generate("Eiffel built it [2].", "A queen came [1], to Paris [2].")
    after = check_stage(stage, asked([1, 0], [1, 2]))
    assert after["answer"] == ("Eiffel built it [2].", "A queen came [1], to Paris [2].")
    assert markers(after) == [(2, "Gustave Eiffel built it.")]
    assert markers(after, 1) == [(1, "A queen came."), (2, "Paris is a city.")]
    assert after["route"] == ("generate: scripted_for_tests",) * 2
    assert after["confidence"] == (None, None)
    assert after["prompt"][1].startswith(stage.instruction)
    assert after["prompt"][1].endswith(
        "[1] Bridge\nA bridge crosses the river. A queen came.\n\n[2] Paris\nParis is a city.\n\n"
        "Question: Q1?"
    )


def test_without_markers_sentences_are_matched_and_the_route_says_so() -> None:
    after = check_stage(generate("The queen came. Iron!", "Maybe."), asked([0, 1], [0]))
    assert markers(after) == [(1, "It is iron."), (2, "A queen came.")]
    assert after["route"] == (
        "generate: scripted_for_tests; citations by sentence match",
        "generate: scripted_for_tests; no citations",
    )


def test_markers_that_name_no_passage_are_dropped_and_told() -> None:
    after = check_stage(generate("Iron [1][7].", "Paris [9]."), asked([0], [2]))
    assert after["answer"] == ("Iron [1].", "Paris.")
    assert after["route"] == (
        "generate: scripted_for_tests; dropped [7]",
        "generate: scripted_for_tests; citations by sentence match; dropped [9]",
    )


def test_what_does_not_fit_is_left_out_and_told() -> None:
    stage = generate("Iron [1].", budget=20, instruction="Answer.", finish="length", max_tokens=7)
    after = check_stage(stage, asked([0, 1, 2]))
    assert after["route"] == (
        "generate: scripted_for_tests; 2 passages over the budget; cut at 7 tokens",
    )
    assert "[1] Eiffel Tower" in after["prompt"][0] and "[2]" not in after["prompt"][0]


def test_the_best_passages_are_given_in_reading_order() -> None:
    batch = Reorder().open(Context())(asked([0, 1, 2]), Run())
    after = check_stage(generate("Yes.", passages=2), batch)
    prompt = after["prompt"][0]
    assert prompt.index("[1] Eiffel Tower") < prompt.index("[2] Bridge")
    assert "Paris" not in prompt


def test_confidence_is_the_mean_probability_of_the_tokens() -> None:
    logprobs = (math.log(0.5), math.log(0.25))
    (confidence,) = check_stage(generate("Iron [1].", logprobs=logprobs), asked([0]))["confidence"]
    assert confidence == pytest.approx(0.375)


def test_a_row_without_passages_is_not_asked() -> None:
    after = check_stage(generate(), asked([], None))
    assert after["answer"] == after["prompt"] == after["confidence"] == (None, None)
    assert after["citations"] == ((), ())
    assert after["route"] == ("generate: no passages, so the model was not asked",) * 2


def test_rows_fail_alone() -> None:
    stage = generate("Iron [1].", "!the server is on fire", "Paris [1].", instruction="", budget=13)
    batch = asked([0], [2], [2])
    run = Run()
    after = stage.open(Context())(batch, run)
    assert after["answer"] == ("Iron [1].", None, "Paris [1].")
    assert {row: str(error) for row, error in run.failed.items()} == {1: "the server is on fire"}
    tight = stage.model_copy(update={"budget": 10})
    run = Run()
    after = check_stage(tight, batch)
    tight.open(Context())(batch, run)
    assert "raise 'budget'" in str(run.failed[0])
    assert after["answer"] == (None, None, "Paris [1].")


class Passages(Stage):
    """A ranking for each row, as a retriever writes it."""

    def columns(self, have: Columns) -> Columns:
        return have.put(documents="ranking")

    def open(self, context: Context) -> Step:
        def step(batch: Batch, run: Run) -> Batch:
            return batch.put(documents=Ranking.of([[(0, 1.0)]] * len(batch), WIKI))

        return step


def test_a_failed_row_keeps_the_others_in_a_pipeline() -> None:
    pipeline = Pipeline([Passages(), generate("!no", "Iron [1].")])
    rows = pipeline.run(["Q0?", "Q1?"])
    assert [error and error["kind"] for error in rows["error"]] == ["BackendFailed", None]
    assert rows["answer"] == (None, "Iron [1].")


def test_plain_values_and_mappings_name_a_backend() -> None:
    made = Generate.model_validate({"backend": {"llama_cpp": {"model": "smollm2"}}})
    assert made.backend == LlamaCpp(model="smollm2")
    assert made == Generate(backend=LlamaCpp(model="smollm2"))
    dumped = made.model_dump(mode="json")["backend"]
    assert dumped == {
        "llama_cpp": {"model": "smollm2", "context": 4096, "threads": None, "gpu_layers": 0}
    }
    assert Generate.model_validate_json(made.model_dump_json(), strict=True) == made
    assert Generate.model_validate({"backend": "scripted_for_tests"}).backend == Scripted()


@pytest.mark.parametrize(
    ("backend", "loc", "message"),
    [
        ("llama_cp", (), "unknown backend 'llama_cp'; did you mean 'llama_cpp'"),
        ({"llama_cpp": {"modl": "x"}}, ("llama_cpp", "modl"), "did you mean 'model'"),
        ({"llama_cpp": {"model": 3}}, ("llama_cpp", "model"), "valid string"),
        ({"llama_cpp": {"model": "m", "context": "9"}}, ("llama_cpp", "context"), "integer"),
        ({"openai": {"model": "m"}}, ("openai", "url"), "required"),
        ({"openai": {}, "llama_cpp": {}}, (), "a backend is a name, or one name with"),
        ({"openai": {"url": object()}}, (), "no plain values"),
        (["openai"], (), "a backend is a name, or one name with"),
        (None, (), "a backend is a name, or one name with"),
    ],
)
def test_errors_stand_where_the_mistake_is(
    backend: Any, loc: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        Generate.model_validate({"backend": backend})
    errors = {error["loc"]: error["msg"] for error in caught.value.errors()}
    assert message in errors["backend", *loc]


def test_the_schema_lists_the_backends() -> None:
    (_, *forms) = Generate.model_json_schema()["properties"]["backend"]["oneOf"]
    names = [list(form["properties"]) for form in forms]
    assert names == [["llama_cpp"], ["openai"], ["transformers"]]
    assert "url" in forms[1]["properties"]["openai"]["properties"]


def test_a_real_model_answers_with_a_citation(smollm2: LlamaCpp) -> None:
    stage = Generate(backend=smollm2, max_tokens=12, budget=200, passages=2)
    batch = Batch.of(["Who built the Eiffel Tower?", "Nothing?"]).put(
        documents=Ranking.of([[(0, 1.0), (2, 0.5)], []], WIKI)
    )
    after = check_stage(stage, batch)
    assert "Eiffel" in after["answer"][0]
    assert after["citations"][0] and 0 < after["confidence"][0] <= 1
    for citation in after["citations"][0]:
        stored = WIKI.rows(WIKI.numbers([citation.id]), ["text"])["text"][0].as_py()
        assert stored[citation.start : citation.end] == citation.text


# Piece by piece.


class Typing(Backend, name="typing_for_tests"):
    """Types a letter at a time, and asks before each whether anybody waits."""

    text: str = "Iron [1]."
    pause: float = 0.0

    def open(self, context: Context) -> Session:
        return TypingSession(self)


class TypingSession:
    def __init__(self, settings: Typing) -> None:
        self.settings = settings

    def count(self, text: str) -> int:
        return len(text.split())

    def chat(
        self,
        conversations: Sequence[Conversation],
        *,
        max_tokens: int,
        temperature: float,
        stop: Sequence[str],
        seed: int,
        tell: Tell | None = None,
        waits: Waits | None = None,
    ) -> list[Reply | Exception]:
        return [self.answer(at, tell, waits) for at in range(len(conversations))]

    def answer(self, at: int, tell: Tell | None, waits: Waits | None) -> Reply | Exception:
        for letter in self.settings.text:
            if waits is not None and not waits(at):
                return Cancelled("cancelled by the test")
            time.sleep(self.settings.pause)
            if tell is not None:
                tell(at, letter)
        return Reply(self.settings.text, "stop")


def test_tokens_are_events_with_their_row() -> None:
    heard: list[tuple[int, str, Any]] = []
    batch = asked([], [0], [1], [2])
    run = Run(listener=lambda *event: heard.append(event), rows=[3, 4, 5, 6])
    run = run.below([1, 2, 3])  # as one stage inside another sees them
    stage = Generate(backend=Typing(text="Hm."))
    after = check_stage(stage, batch)
    assert stage.open(Context())(batch.take([1, 2, 3]), run)["answer"] == after["answer"][1:]
    assert heard == [(row, "token", letter) for row in (4, 5, 6) for letter in "Hm."]


def test_only_what_somebody_waits_for_is_written() -> None:
    cancel, heard = Cancel(), list[int]()

    def listener(row: int, kind: str, value: Any) -> None:
        heard.append(row)
        if (row, len(heard)) == (1, 5):
            cancel.row(1)

    batch, stage = asked([0], [0], [0]), Generate(backend=Typing(text="Yes"))
    run = Run(listener=listener, cancel=cancel, rows=range(3))
    after = stage.open(Context())(batch, run)
    assert heard == [0, 0, 0, 1, 1, 2, 2, 2]
    assert list(run.failed) == [1] and isinstance(run.failed[1], Cancelled)
    assert after["answer"] == ("Yes", None, "Yes")


def test_the_time_given_ends_between_two_tokens() -> None:
    stage = Generate(backend=Typing(text="x" * 1000, pause=0.005))
    run = Run(deadline=time.monotonic() + 0.05)
    stage.open(Context())(asked([0], [0]), run)
    assert time.monotonic() - run.deadline < 3  # type: ignore[operator]
    assert {type(error) for error in run.failed.values()} == {DeadlinePassed}
    assert {str(error) for error in run.failed.values()} == {
        "the time given ended before the model had answered"
    }


def test_a_backend_that_writes_at_one_go_is_asked_as_before() -> None:
    heard: list[str] = []
    run = Run(
        listener=lambda row, kind, value: heard.append(kind),
        cancel=Cancel(),
        deadline=time.monotonic() + 60,
        rows=[0],
    )
    stage = generate("Iron [1].")
    assert stage.open(Context())(asked([0]), run)["answer"] == ("Iron [1].",)
    assert heard == []
