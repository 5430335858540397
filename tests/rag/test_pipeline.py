"""Pipelines of small stages: rows that fail, columns, shared models, and the stage's contract."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rag import Batch, Columns, Context, Pipeline, Run, Stage
from rag.errors import BackendFailed, InvalidInput, MissingColumn, StageFailed
from rag.ranking import Ranking
from rag.stage import Step
from rag.testing import MemorySnapshot, check_stage

WIKI: Any = MemorySnapshot([{"id": "a", "title": "A", "text": "alpha"}, {"text": "beta"}])
StepFunction = Callable[[Batch, Run], Any]


class Shout(Stage, name="shout_test"):
    """The question in capitals; a question with "bad" in it fails."""

    of: str = "question"
    into: str = "answer"

    def columns(self, have: Columns) -> Columns:
        return have.need(self.of, type="str").put(**{self.into: "str"})

    def open(self, context: Context) -> Step:
        def step(batch: Batch, run: Run) -> Batch:
            texts = []
            for row, text in enumerate(batch[self.of]):
                if "bad" in text:
                    run.fail(row, BackendFailed(f"cannot say {text!r}"))
                    run.fail(row, ValueError("a second error of the row"))
                texts.append(text.upper())
            return batch.put(**{self.into: texts})

        return step


class Find(Stage):
    """Ranks the same passages for every row."""

    into: str = "documents"

    def columns(self, have: Columns) -> Columns:
        return have.need("query").put(**{self.into: "ranking"})

    def open(self, context: Context) -> Step:
        snapshot = context.snapshot(self.collection)

        def step(batch: Batch, run: Run) -> Batch:
            rows = [[(0, 2.0), (1, 1.0)]] * len(batch)
            return batch.put(**{self.into: Ranking.of(rows, snapshot)})

        return step


class Does(Stage):
    """A stage whose step is given by the test."""

    def columns(self, have: Columns) -> Columns:
        return STEPS["columns"](have) if "columns" in STEPS else have

    def open(self, context: Context) -> Step:
        step: Step = STEPS["step"]
        return step


STEPS: dict[str, Any] = {}


def doing(step: StepFunction, columns: Callable[[Columns], Columns] | None = None) -> Does:
    STEPS.clear()
    STEPS["step"] = step
    if columns is not None:
        STEPS["columns"] = columns
    return Does(name="does")


class Model:
    """Counts how often it is loaded and closed."""

    loaded: list[Model] = []  # noqa: RUF012 - counted over all

    def __init__(self) -> None:
        self.closed = 0
        Model.loaded.append(self)

    def close(self) -> None:
        self.closed += 1


class Uses(Stage):
    """Holds a model that is shared by its key."""

    key: str = "model"

    def columns(self, have: Columns) -> Columns:
        return have

    def open(self, context: Context) -> Step:
        def load() -> Model:
            time.sleep(0.01)  # long enough for other threads to come
            return Model()

        model = context.get(("test", self.key), load)

        def step(batch: Batch, run: Run) -> Batch:
            assert not model.closed
            return batch

        return step


@pytest.fixture(autouse=True)
def _no_models_left() -> None:
    Model.loaded.clear()


def test_a_failed_row_is_marked_and_the_others_go_on() -> None:
    pipeline = Pipeline([Shout(), Shout(of="answer", into="again"), Find()], WIKI)
    batch = pipeline.run(Batch.of(["one", "bad", "two", "bad too"], ["a", "b", "c", "d"]))
    assert batch.ids == ("a", "b", "c", "d")
    assert batch["question"] == ("one", "bad", "two", "bad too")
    assert batch["answer"] == ("ONE", "BAD", "TWO", "BAD TOO")
    assert batch["again"] == ("ONE", None, "TWO", None)
    assert [error and dict(error) for error in batch["error"]] == [
        None,
        {"stage": "shout_test", "kind": "BackendFailed", "message": "cannot say 'bad'"},
        None,
        {"stage": "shout_test", "kind": "BackendFailed", "message": "cannot say 'bad too'"},
    ]
    assert batch["documents"].is_valid.tolist() == [True, False, True, False]
    assert [hit.id for hit in batch["documents"][2]] == ["a", "1"]


@pytest.mark.parametrize("questions", [[], ["bad"], ["bad", "bad"], ["fine"]])
def test_none_or_all_may_fail(questions: list[str]) -> None:
    batch = Pipeline([Shout(), Find()], WIKI).run(questions)
    assert len(batch) == len(questions)
    assert [error is not None for error in batch["error"]] == ["bad" in q for q in questions]


def test_lists_that_are_empty_on_one_side_come_together_again() -> None:
    from rag import Citation

    cited = Citation(1, "a", "A", 0, 1, "x")

    def step(batch: Batch, run: Run) -> Batch:
        run.fail(0, ValueError("no"))
        return batch.put(citations=[(), (cited,)])

    batch = Pipeline([doing(step)]).run(["a", "b"])
    assert batch["citations"] == ((), (cited,))
    assert batch["error"][0]["message"] == "ValueError: no"


def test_rows_that_come_with_an_error_are_passed_over() -> None:
    pipeline = Pipeline([Shout()])
    first = pipeline.run(["bad", "good"])
    again = pipeline.run(first.put(answer=[None, None]))
    assert again["answer"] == (None, "GOOD")
    assert again["error"] == first["error"]
    assert pipeline.run(first)["error"] == first["error"]


def test_stop_raises_at_the_first_row_that_fails() -> None:
    pipeline = Pipeline([Shout()], on_error="stop")
    with pytest.raises(
        StageFailed, match="stage 'shout_test': question '1': cannot say 'bad'"
    ) as e:
        pipeline.run(["fine", "bad", "bad too"])
    assert isinstance(e.value.__cause__, BackendFailed)


def test_ask() -> None:
    with Pipeline([Find(), Shout()], WIKI) as pipeline:
        answer = pipeline.ask("hello")
        with pytest.raises(StageFailed, match="stage 'shout_test': cannot say 'bad'"):
            pipeline.ask("bad")
    assert (answer.text, answer.citations) == ("HELLO", ())
    assert (answer.confidence, answer.route) == (None, None)
    assert [(hit.id, hit.title, hit.text, hit.score) for hit in answer.documents] == [
        ("a", "A", "alpha", 2.0),
        ("1", "", "beta", 1.0),
    ]


def test_what_is_wrong_for_all_rows_raises_with_the_stage() -> None:
    def step(batch: Batch, run: Run) -> Batch:
        raise InvalidInput("the model is gone")

    with pytest.raises(InvalidInput, match="the model is gone") as caught:
        Pipeline([Shout(), doing(step)]).run(["a"])
    assert caught.value.__notes__ == ["in stage 'does'"]


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (lambda batch, run: batch.take([1, 0]), "stage 'does' changed the rows or their order"),
        (lambda batch, run: batch.take([0]), "stage 'does' changed the rows or their order"),
        (lambda batch, run: None, "stage 'does' returned NoneType, not a Batch"),
    ],
)
def test_a_step_that_breaks_the_contract_is_named(result: StepFunction, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        Pipeline([doing(result)]).run(["a", "b"])


def test_columns_are_checked_at_construction() -> None:
    assert Pipeline([Shout(), Find()], WIKI).columns.types == {
        "id": "str",
        "question": "str",
        "query": "texts",
        "answer": "str",
        "documents": "ranking",
    }
    with pytest.raises(MissingColumn) as caught:
        Pipeline([Shout(name="first"), Shout(of="anwser")])
    assert str(caught.value).startswith(
        "stage 'shout_test' reads column 'anwser', which no earlier stage writes; the nearest is "
        "'answer', written by stage 'first'; before it there are: id (by the question), "
    )
    with pytest.raises(MissingColumn, match="put a retriever such as bm25 before it"):
        Pipeline([Shout(of="documents")])
    with pytest.raises(InvalidInput, match="reads column 'documents' as str, but stage 'Find' "):
        Pipeline([Find(name="Find"), Shout(of="documents")])
    with pytest.raises(InvalidInput, match="at least one stage"):
        Pipeline([])
    with pytest.raises(InvalidInput, match=r"stage 2 is .*, not a Stage \(forgot the call\?\)"):
        Pipeline([Shout(), Shout])  # type: ignore[list-item]


def test_a_search_without_a_collection_says_what_to_write() -> None:
    with pytest.raises(InvalidInput, match="write 'collection: DIR' in the file") as caught:
        Pipeline([Find(name="finder")]).run(["a"])
    assert caught.value.__notes__ == ["while opening stage 'finder'"]


def test_progress_and_representation() -> None:
    calls: list[tuple[str, int]] = []
    pipeline = Pipeline([Shout(), Find(name="find")], WIKI, name="mine")
    pipeline.run(["a", "bad", "c"], progress=lambda stage, rows: calls.append((stage, rows)))
    assert calls == [("shout_test", 3), ("find", 2)]
    assert repr(pipeline) == "<Pipeline mine: shout_test > find>"
    assert pipeline.snapshot is WIKI


def test_models_are_shared_and_closed_once_by_the_last() -> None:
    left = Pipeline([Uses(), Uses(name="again"), Uses(key="other")])
    right = Pipeline([Uses()])
    left.run(["a"])
    right.run(["a"])
    assert len(Model.loaded) == 2
    left.close()
    left.close()
    assert [model.closed for model in Model.loaded] == [0, 1]
    right.run(["a"])
    right.close()
    assert [model.closed for model in Model.loaded] == [1, 1]
    right.run(["a"])  # opens again
    right.close()
    assert [model.closed for model in Model.loaded] == [1, 1, 1]


def test_threads_share_one_model() -> None:
    pipelines = [Pipeline([Uses()]) for _ in range(4)]
    gate = threading.Barrier(8)

    def ask(number: int) -> None:
        gate.wait()
        pipelines[number % 4].run(["a"])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))
    assert len(Model.loaded) == 1
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(Pipeline.close, pipelines))
    assert [model.closed for model in Model.loaded] == [1]


def test_many_contexts_open_and_close_at_once() -> None:
    def use(_: int) -> None:
        context = Context()
        model = context.get(("test", "many"), Model)
        assert not model.closed
        context.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, range(200)))
    assert {model.closed for model in Model.loaded} == {1}


def test_a_load_that_fails_is_tried_again_by_the_next() -> None:
    def fails() -> Model:
        raise BackendFailed("no file")

    context = Context()
    with pytest.raises(BackendFailed):
        context.get(("test", "fails"), fails)
    assert isinstance(context.get(("test", "fails"), Model), Model)
    context.close()
    assert [model.closed for model in Model.loaded] == [1]


class Held(Stage):
    """Its step has something to close, and may fail to open or to close."""

    fails: str = ""

    def columns(self, have: Columns) -> Columns:
        return have

    def open(self, context: Context) -> Step:
        if self.fails == "open":
            raise InvalidInput("cannot open")
        return _Held(self.fails)


class _Held(Model):
    def __init__(self, fails: str) -> None:
        super().__init__()
        self.fails = fails

    def __call__(self, batch: Batch, run: Run) -> Batch:
        return batch

    def close(self) -> None:
        super().close()
        if self.fails == "close":
            raise OSError("cannot close")


def test_steps_are_closed_when_a_later_stage_cannot_open() -> None:
    pipeline = Pipeline([Held(), Uses(), Held(fails="open")])
    for _ in range(2):
        with pytest.raises(InvalidInput, match="cannot open"):
            pipeline.run(["a"])
    assert [model.closed for model in Model.loaded] == [1] * 4


def test_everything_is_closed_even_if_one_cannot_be() -> None:
    pipeline = Pipeline([Held(), Held(fails="close"), Held(), Uses()])
    pipeline.run(["a"])
    with pytest.raises(OSError, match="cannot close"):
        pipeline.close()
    assert [model.closed for model in Model.loaded] == [1] * 4


def test_the_seed_and_the_events_reach_the_steps() -> None:
    seen: list[Any] = []

    def step(batch: Batch, run: Run) -> Batch:
        seen.append(run.seed)
        run.emit(0, "token", "x")  # nobody listens, and nothing happens
        return batch

    Pipeline([doing(step)]).run(["a"], seed=7)
    run = Run(listener=lambda row, kind, value: seen.append((row, kind, value)))
    run.emit(1, "token", "y")
    assert seen == [7, (1, "token", "y")]


def test_a_stage_is_frozen_settings() -> None:
    with pytest.raises(ValueError, match="Extra inputs"):
        Shout(colour="red")  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="frozen"):
        Shout().of = "x"  # type: ignore[misc]
    assert (Shout().label, Shout(name="me").label, Find().label) == ("shout_test", "me", "")
    with pytest.raises(NotImplementedError, match="Stage does not say which columns it needs"):
        Stage().columns(Columns())
    with pytest.raises(NotImplementedError, match="Stage has no open"):
        Stage().open(Context())


def test_check_stage_passes_a_good_one() -> None:
    after = check_stage(Shout(), Batch.of(["one", "bad", "two"]))
    assert after["answer"] == ("ONE", "BAD", "TWO")
    check_stage(Find(), Batch.of(["a", "b"]), context=Context(WIKI))


def _add(**columns: str) -> Callable[[Columns], Columns]:
    return lambda have: have.put(**columns)


def _nan(batch: Batch, run: Run) -> Batch:
    return batch.put(confidence=[float("nan")] * len(batch), citations=[()] * len(batch))


def test_check_stage_passes_nan_and_empty_lists() -> None:
    stage = doing(_nan, _add(confidence="float", citations="citations"))
    check_stage(stage, Batch.of(["a", "b"]))


def _position(batch: Batch, run: Run) -> Batch:
    return batch.put(answer=[str(row) for row in range(len(batch))])


@pytest.mark.parametrize(
    ("step", "columns", "said"),
    [
        (lambda batch, run: batch.take(range(len(batch))[::-1]), None, "rows or their order"),
        (lambda batch, run: batch.put(answer=["x"] * len(batch)), None, "announces .* and writes"),
        (lambda batch, run: batch, _add(answer="str"), r"announces \['answer', "),
        (
            lambda batch, run: batch.put(answer=[True] * len(batch)),
            _add(answer="str"),
            "announces answer as str and writes bool",
        ),
        (
            lambda batch, run: batch.put(answer=[()] * len(batch)),
            _add(answer="str"),
            "announces answer as str and writes texts",
        ),
        (_position, _add(answer="str"), "a row alone gives another answer than in a batch"),
    ],
)
def test_check_stage_catches_bad_ones(
    step: StepFunction, columns: Callable[[Columns], Columns] | None, said: str
) -> None:
    with pytest.raises(AssertionError, match=said):
        check_stage(doing(step, columns), Batch.of(["a", "b"]))


def test_check_stage_catches_settings_that_do_not_survive() -> None:
    class Forgets(Does):
        """A setting that is lost in JSON."""

        path: Any = (1, 2)

    with pytest.raises(AssertionError, match="do not survive JSON"):
        check_stage(Forgets(), Batch.of(["a"]))
