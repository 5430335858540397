"""Stages that hold stages, against interpreters that take one row at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag import Batch, Columns, Context, Pipeline, Run, Stage
from rag.errors import BackendFailed, InvalidInput, MissingColumn, RagError, StageFailed
from rag.flow import Branch, Repeat, SubPipeline, Unless
from rag.nesting import as_mapping, as_stage
from rag.ranking import Ranking
from rag.stage import Step
from rag.testing import MemorySnapshot, check_stage
from rag.where import Where

WIKI: Any = MemorySnapshot([{"id": f"p{n}", "text": f"text {n}"} for n in range(8)])
quick = settings(max_examples=60, deadline=None)
Row = dict[str, Any]


class Add(Stage, name="flow_add_test"):
    """Appends a text to a column, and fails for a row whose result has ``bad`` in it."""

    of: str = "question"
    into: str = "answer"
    text: str = "x"
    bad: str | None = None

    def columns(self, have: Columns) -> Columns:
        return have.need(self.of).put(**{self.into: "str"})

    def row(self, row: Row) -> None:
        """The same for one row, as a naive interpreter does it."""
        row[self.into] = (row[self.of] or "") + self.text
        if self.bad is not None and self.bad in row[self.into]:
            raise BackendFailed(f"no {self.bad}")

    def open(self, context: Context) -> Step:
        def step(batch: Batch, run: Run) -> Batch:
            texts = [(value or "") + self.text for value in batch[self.of]]
            for row, text in enumerate(texts):
                if self.bad is not None and self.bad in text:
                    run.fail(row, BackendFailed(f"no {self.bad}"))
            return batch.put(**{self.into: texts})

        return step


class Rank(Stage, name="flow_rank_test"):
    """Ranks passages that depend on the letters of a text: the n-th best is one of 8."""

    of: str = "answer"
    into: str = "documents"
    count: int = 3

    def columns(self, have: Columns) -> Columns:
        return have.need(self.of).put(**{self.into: "ranking"})

    def hits(self, text: str) -> list[tuple[int, float]]:
        seed = sum(map(ord, text or ""))
        numbers = dict.fromkeys((seed * (n + 1) + n) % 8 for n in range(self.count))
        return [(number, float((seed + number) % 5)) for number in numbers]

    def row(self, row: Row) -> None:
        row[self.into] = self.hits(row[self.of])

    def open(self, context: Context) -> Step:
        snapshot = context.snapshot(self.collection)

        def step(batch: Batch, run: Run) -> Batch:
            rows = [self.hits(text) for text in batch[self.of]]
            return batch.put(**{self.into: Ranking.of(rows, snapshot)})

        return step


class Fails(Exception):
    """A row failed in a stage."""


def naive(stages: Any, row: Row) -> None:
    """The stages on one row, a dict; raises ``Fails`` with the stage and the message."""
    for stage in stages:
        if isinstance(stage, Unless):
            if not condition(stage.when, row):
                naive(stage.stages, row)
        elif isinstance(stage, Branch):
            naive_branch(stage, row)
        elif isinstance(stage, Repeat):
            naive_repeat(stage, row)
        elif isinstance(stage, SubPipeline):
            naive(stage.stages, row)
        else:
            try:
                stage.row(row)
            except BackendFailed as error:
                raise Fails(stage.label, str(error)) from error


def naive_branch(stage: Branch, row: Row) -> None:
    start = dict(row)
    for side, stages in stage.sides.items():
        mine, failed = dict(start), None
        try:
            naive(stages, mine)
        except Fails as error:
            failed = error
        for name, value in mine.items():
            if name not in start:
                row[f"{side}.{name}"] = value
            elif value != start[name]:
                row[name] = value
        if failed is not None:
            raise failed


def union(before: list[tuple[int, float]], new: list[tuple[int, float]]) -> Any:
    best: dict[int, float] = {}
    for number, score in [*before, *new]:
        best[number] = max(score, best.get(number, score))
    return sorted(best.items(), key=lambda entry: (-entry[1], entry[0]))


def naive_repeat(stage: Repeat, row: Row) -> None:
    start, rounds = dict(row), []
    for number in range(stage.times):
        before, failed = dict(row), None
        try:
            naive(stage.stages, row)
        except Fails as error:
            failed = error
        rounds.append({name: plain(v) for name, v in row.items() if v != start.get(name)})
        for name in stage.keep if number else ():
            row[name] = union(before[name], row[name])
        if failed is not None or (stage.until is not None and condition(stage.until, row)):
            break
    if stage.trace is not None:
        row[stage.trace] = {"rounds": rounds}
    if failed is not None:
        raise failed


def plain(value: Any) -> Any:
    return [f"p{number}" for number, _ in value] if isinstance(value, list) else value


def condition(where: Where, row: Row) -> bool:
    """``{answered: ...}`` and ``{answer: {eq: ...}}`` and the like, one at a time."""
    ((name, said),) = where.mapping.items()
    if name == "answered":
        return bool(row.get("answer")) is said
    ((operator, value),) = said.items()
    compare: dict[str, Callable[[Any, Any], bool]] = {
        "eq": lambda a, b: a == b,
        "in": lambda a, b: a in b,
        "gte": lambda a, b: a >= b,
    }
    return row.get(name) is not None and compare[operator](row[name], value)


def shown(value: Any) -> Any:
    """A value of a batch's row as the naive interpreter has it."""
    if isinstance(value, Mapping):
        return {key: [dict(part) for part in parts] for key, parts in value.items()}
    return value


def ranked(ranking: Ranking, row: int) -> list[tuple[int, float]] | None:
    if not ranking.is_valid[row]:
        return None
    part = slice(int(ranking.offsets[row]), int(ranking.offsets[row + 1]))
    pairs = zip(ranking.docs[part].tolist(), ranking.scores[part].tolist(), strict=True)
    return list(pairs)


questions = st.lists(st.text("abc", max_size=3), max_size=5)
adds = st.builds(
    Add,
    of=st.sampled_from(["question", "answer"]),
    into=st.just("answer"),
    text=st.text("abc", max_size=2),
    bad=st.none() | st.sampled_from(["a", "bb", "cab"]),
)
simple = adds | st.builds(Rank, count=st.integers(1, 4))
conditions = st.sampled_from(
    [
        Where({"answered": True}),
        Where({"answered": False}),
        Where({"answer": {"gte": "b"}}),
        Where({"question": {"in": ["", "a", "ab"]}}),
    ]
)


def flows(stages: st.SearchStrategy[Stage]) -> st.SearchStrategy[Stage]:
    some = st.lists(stages, min_size=1, max_size=3).map(tuple)
    sub = some.map(lambda stages: SubPipeline(stages=stages))
    unless = st.builds(Unless, when=conditions, stages=some)
    keeping = some.map(lambda stages: (*stages, Rank()))
    repeat = st.builds(
        Repeat,
        times=st.integers(1, 3),
        until=st.none() | conditions,
        keep=st.just(("documents",)),
        stages=keeping,
    )
    # Inside a branch "answer" is written by one side, and the other makes a column of its own.
    own = st.builds(Add, into=st.just("own"), text=st.text("ab", max_size=1), bad=st.just("ba"))
    branch = st.builds(lambda one, two: Branch(one=(one,), two=(two,)), adds, own)
    return unless | repeat | sub | branch


nested = st.lists(st.recursive(simple, flows, max_leaves=6), min_size=1, max_size=3)


@quick
@given(questions, nested)
def test_any_nest_does_what_it_does_row_by_row(asked: list[str], inner: list[Stage]) -> None:
    """Values, and which rows fail where: the same as one row at a time."""
    stages: list[Stage] = [Add(text=""), Rank(), *inner]
    try:
        pipeline = Pipeline(stages, WIKI)
    except InvalidInput as error:
        assert "there already" in str(error)  # a side makes one column twice
        return
    after = pipeline.run(asked)
    assert after.ids == tuple(str(n) for n in range(len(asked)))
    for number, question in enumerate(asked):
        row: Row = {"question": question, "query": (question,)}
        said = None
        try:
            naive(stages, row)
        except Fails as error:
            said = error.args
        error_ = after["error"][number]
        assert (error_ and (error_["stage"], error_["message"])) == said
        for name in set(after.columns) - {"error", "id"}:
            value = after[name]
            found = ranked(value, number) if isinstance(value, Ranking) else value[number]
            assert found == row.get(name), name
        assert set(row) <= set(after.columns)


@quick
@given(questions, st.integers(1, 3), st.none() | conditions, st.none() | st.just("cab"))
def test_a_trace_holds_what_each_round_made(
    asked: list[str], times: int, until: Where | None, bad: str | None
) -> None:
    stage = Repeat(
        times=times,
        until=until,
        keep=("documents",),
        trace="hops",
        stages=(Add(of="answer", text="a", bad=bad), Rank()),
    )
    batch = Pipeline([Add(text="b"), stage], WIKI).run(asked)
    for number, question in enumerate(asked):
        row: Row = {"question": question, "answer": question + "b"}
        try:
            naive_repeat(stage, row)
        except Fails:
            assert batch["error"][number] is not None
        assert shown(batch["hops"][number]) == row["hops"]


@quick
@given(nested)
def test_settings_survive_json(inner: list[Stage]) -> None:
    for stage in inner:
        again = type(stage).model_validate_json(stage.model_dump_json())
        assert again == stage
        assert hash(again) == hash(stage)
        assert as_stage(as_mapping(stage)) == stage


def test_rows_that_all_skip_have_the_columns_of_the_stages_inside() -> None:
    """A stage after the ``unless`` reads columns that nobody wrote, and finds them null."""
    batch = Batch.of(["a", "b"]).put(answer=["x", "y"])
    stage = Unless(when=Where({"answered": True}), stages=[Rank(), Add(into="more")])
    pipeline = Pipeline([Add(), stage, Rank(of="more", into="others")], WIKI)
    after = pipeline.run(["a", "b"])
    assert after["more"] == (None, None)
    assert after["documents"].is_valid.tolist() == [False, False]
    assert len(after["others"].docs) > 0
    check_stage(stage, batch, context=Context(WIKI))
    check_stage(Unless(when=Where({"answer": "x"}), stages=[Rank()]), batch, context=Context(WIKI))


def test_an_unless_whose_rows_all_fail_leaves_the_others_their_columns() -> None:
    inside = [Add(into="more", bad="a"), Rank(of="more")]
    unless = Unless(when=Where({"question": "b"}), stages=inside)
    after = Pipeline([unless, Rank(of="more", into="others")], WIKI).run(["a", "b"])
    assert after["error"][0]["stage"] == "flow_add_test"
    assert after["error"][1] is None
    assert after["others"].is_valid.tolist() == [False, True]


def test_check_stage_passes_all_of_them() -> None:
    batch = Batch.of(["a", "b", "c"]).put(answer=["x", "bad", None])
    context = Context(WIKI)
    check_stage(Branch(one=[Rank()], two=[Add(into="more", bad="b")]), batch, context=context)
    repeat = Repeat(times=2, stages=[Rank()], keep=("documents",), trace="hops")
    check_stage(repeat, batch, context=context)
    check_stage(SubPipeline(stages=[Rank(), Add(into="more")]), batch, context=context)


def test_the_columns_of_a_branch_have_its_sides_names() -> None:
    stage = Branch(small=[Add(), Rank()], large=[Add(text="y")])
    pipeline = Pipeline([stage, Add(of="large.answer")], WIKI)
    assert [name for name in pipeline.columns.types if "." in name] == [
        "small.answer",
        "small.documents",
        "large.answer",
    ]
    row = pipeline.run(["q"]).row(0)
    assert (row["small.answer"], row["large.answer"], row["answer"]) == ("qx", "qy", "qyx")


def test_columns_are_checked_through_nesting() -> None:
    when = Where({"answered": True})
    with pytest.raises(MissingColumn, match="'flow_add_test' reads column 'no'"):
        Pipeline([Unless(when=Where({"question": "x"}), stages=[Branch(a=[Add(of="no")])])])
    with pytest.raises(MissingColumn, match="stage 'unless' reads column 'answer'"):
        Pipeline([Unless(when=when, stages=[Add()])])
    with pytest.raises(InvalidInput, match=r"stage 'unless': when: answer.gte: found 3, expected"):
        Pipeline([Add(), Unless(when=Where({"answer": {"gte": 3}}), stages=[Add()])])
    with pytest.raises(InvalidInput, match="sides 'a' and 'b' both write column 'answer'"):
        Pipeline([Add(), Branch(a=[Add()], b=[Add()])])
    with pytest.raises(InvalidInput, match=r"column 'a.answer' is there already; rename"):
        Pipeline([Branch(a=[Add()]), Branch(a=[Add()])])
    with pytest.raises(InvalidInput, match="writes column 'answer' as ranking, and before it .* s"):
        Pipeline([Add(), Unless(when=when, stages=[Rank(into="answer")])], WIKI)
    with pytest.raises(MissingColumn, match="stage 'repeat' reads column 'documents'"):
        Pipeline([Repeat(times=2, keep=("documents",), stages=[Add()])])
    with pytest.raises(InvalidInput, match="trace: column 'query' is there already"):
        Pipeline([Repeat(times=2, trace="query", stages=[Add()])])
    with pytest.raises(InvalidInput, match="trace: a stage inside writes column 'answer' too"):
        Pipeline([Repeat(times=2, trace="answer", stages=[Add()])])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Branch(), "a branch has no side"),
        (lambda: Branch(**{"a.b": [Add()]}), "the side 'a.b' cannot name columns"),
        (lambda: Branch(a=[]), "at least 1 item"),
        (lambda: Unless(when=Where({"a": 1}), stages=[Add]), r"not a Stage \(forgot the call"),
        (lambda: Unless(when=Where({"a": 1}), stages=["nope"]), "unknown stage 'nope'"),
        (lambda: Repeat(times=0, stages=[Add()]), "greater than or equal to 1"),
        (lambda: Unless(when=Where({"a": 1}), stages=[Add()], of="x"), "should be None"),
        (lambda: as_stage({"flow_add_test": {}, "b": {}}), "found the keys flow_add_test, b"),
    ],
)
def test_what_cannot_be_made_says_why(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


def test_a_stage_without_a_name_cannot_be_written() -> None:
    class Nameless(Add):
        """One's own."""

    with pytest.raises(RagError, match=r"class Nameless\(Stage, name='...'\)"):
        as_mapping(Nameless())


def test_two_sides_that_write_unannounced_are_caught_when_they_run() -> None:
    class Quiet(Stage):
        """Overwrites what it only says to read."""

        def columns(self, have: Columns) -> Columns:
            return have.need("answer")

        def open(self, context: Context) -> Step:
            return lambda batch, run: batch.put(answer=[str(id(self))] * len(batch))

    pipeline = Pipeline([Add(), Branch(a=[Quiet()], b=[Quiet()])])
    with pytest.raises(InvalidInput, match="sides 'a' and 'b' both write column 'answer'"):
        pipeline.run(["q"])


def test_a_pipeline_is_a_stage() -> None:
    inner = Pipeline([Add(), Rank()], name="inner")
    outer = Pipeline([inner, Unless(when=Where({"answered": False}), stages=[inner])], WIKI)
    assert repr(outer) == "<Pipeline pipeline: inner > unless>"
    assert outer.run(["q"])["answer"] == ("qx",)
    assert Pipeline([Add()], "folder").as_stage().collection == "folder"
    with pytest.raises(InvalidInput, match="pipeline 'p' is used as a stage and holds a snapshot"):
        Pipeline([Pipeline([Add()], WIKI, name="p")])


def test_stop_raises_from_inside() -> None:
    stage = Unless(when=Where({"question": "fine"}), stages=[Branch(a=[Add(bad="b", name="deep")])])
    pipeline = Pipeline([stage], on_error="stop")
    with pytest.raises(StageFailed, match="stage 'deep': question '1': no b"):
        pipeline.run(["fine", "b"])


class Held(Stage, name="flow_held_test"):
    """Shares a model, and its step is closed."""

    fails: bool = False

    def columns(self, have: Columns) -> Columns:
        return have

    def open(self, context: Context) -> Step:
        context.get("flow-model", lambda: LOG.append("load"))
        if self.fails:
            raise InvalidInput("cannot open")
        return _Held()


LOG: list[str] = []


class _Held:
    def __call__(self, batch: Batch, run: Run) -> Batch:
        return batch

    def close(self) -> None:
        LOG.append("close")


def test_models_are_shared_and_steps_closed_through_nesting() -> None:
    LOG.clear()
    when = Where({"question": "x"})
    inside = Unless(when=when, stages=[Held(), Repeat(times=2, stages=[Held()])])
    with Pipeline([Branch(a=[Held(), inside], b=[SubPipeline(stages=[Held()])])]) as pipeline:
        pipeline.run(["q"])
    assert LOG == ["load", "close", "close", "close", "close"]
    LOG.clear()
    with pytest.raises(InvalidInput, match="cannot open") as caught:
        Pipeline([Branch(a=[Held(), inside], b=[Held(fails=True)])]).run(["q"])
    assert LOG == ["load", "close", "close", "close"]
    assert caught.value.__notes__ == [
        "while opening stage 'flow_held_test'",
        "while opening stage 'branch'",
    ]
