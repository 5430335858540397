from __future__ import annotations

import gzip
from pathlib import Path

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.errors import BadRow, InvalidInput, NotFound
from rag.eval import read_run, write_run
from rag.eval.runs import fallen, falling

Rows = dict[str, list[tuple[str, float]]]

scores = st.floats(-(2.0**127), 2.0**127, width=32)
ids = st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1, max_size=6)
runs = st.dictionaries(
    ids, st.lists(st.tuples(ids, scores), unique_by=lambda entry: entry[0], max_size=8), max_size=5
)


def lowered(values: list[np.float32]) -> list[np.float32]:
    """The definition of ``falling``, one after another."""
    out: list[np.float32] = []
    for value in values:
        below = np.nextafter(out[-1], np.float32(-np.inf)) if out else value
        out.append(min(value, below))
    return out


@settings(deadline=None)
@given(st.lists(scores, max_size=12))
def test_falling_lowers_each_score_as_little_as_it_can(values: list[float]) -> None:
    found = falling(values)
    assert found.tolist() == [float(v) for v in lowered([np.float32(v) for v in values])]
    assert (np.diff(found) < 0).all()
    assert falling(found).tobytes() == found.tobytes()


def test_falling_at_zero_and_among_ties() -> None:
    assert falling([0.0, -0.0, 0.0]).tolist() == [
        0.0,
        -1.401298464324817e-45,
        -2.802596928649634e-45,
    ]
    assert falling([2.0, 1.0, 0.5]).tolist() == [2.0, 1.0, 0.5]
    assert falling([]).tolist() == []


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -float("inf"), 1e39])
def test_scores_have_to_be_finite(score: float) -> None:
    with pytest.raises(InvalidInput, match="question 'q': score .* cannot be ranked"):
        fallen({"q": [("d", score)]})


def test_the_lowest_scores_cannot_fall() -> None:
    lowest = float(np.finfo(np.float32).min)
    with pytest.raises(InvalidInput, match="lowest float32"):
        falling([lowest, lowest])


@settings(deadline=None)
@given(runs, st.sampled_from(["run.trec", "run.trec.gz"]))
def test_a_run_comes_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, run: Rows, name: str
) -> None:
    path = tmp_path_factory.getbasetemp() / name
    write_run(path, run)
    back = read_run(path)
    assert back == {query: ranked for query, ranked in fallen(run).items() if ranked}
    before = path.read_bytes()
    write_run(path, back)
    assert path.read_bytes() == before


def test_the_lines(tmp_path: Path) -> None:
    write_run(tmp_path / "run", {"q1": [("b", 12.25), ("a", 0.1)], "q2": []}, tag="bm25")
    text = "q1 Q0 b 1 12.25 bm25\nq1 Q0 a 2 0.10000000149011612 bm25\n"
    assert (tmp_path / "run").read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_ties_keep_our_order_under_trec_eval(tmp_path: Path) -> None:
    # trec_eval would put the tied documents in the order c, b, a.
    write_run(tmp_path / "run", {"q": [("a", 7.5), ("b", 7.5), ("c", 7.5)]})
    run = list(ir_measures.read_trec_run(str(tmp_path / "run")))
    for rank, name in enumerate("abc", 1):
        names = ("RR", "RR@10", "P@1")
        measures = [ir_measures.parse_measure(measure) for measure in names]
        found = ir_measures.calc_aggregate(measures, [ir_measures.Qrel("q", name, 1)], run)
        assert [found[m] for m in measures] == pytest.approx([1 / rank, 1 / rank, float(rank == 1)])


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ({"q 1": [("d", 1.0)]}, "question 'q 1' holds whitespace"),
        ({"q": [("d\u3000e", 1.0)]}, "document .* holds whitespace"),
        ({"q": [("", 1.0)]}, "document '' is empty"),
        ({"q": [("\ud800", 1.0)]}, "no valid Unicode"),
        ({"q": [("d", 1.0), ("d", 0.5)]}, "document 'd' stands twice"),
    ],
)
def test_what_the_format_cannot_hold(tmp_path: Path, run: Rows, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        write_run(tmp_path / "run", run)
    assert list(tmp_path.iterdir()) == []


def test_a_tag_is_one_word(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="tag 'my run'"):
        write_run(tmp_path / "run", {}, tag="my run")


def test_writing_where_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="the folder .* does not exist"):
        write_run(tmp_path / "nowhere" / "run", {})
    with pytest.raises(InvalidInput, match="is a folder"):
        write_run(tmp_path, {})


def test_reading_others_runs(tmp_path: Path) -> None:
    text = "q\tQ0\tlow\t0\t1e-3\tx\n\nq Q0 first 9 2 x\r\nq Q0 second 1 2.0 x\n"
    (tmp_path / "run.gz").write_bytes(gzip.compress(text.encode()))
    assert read_run(tmp_path / "run.gz") == {"q": [("first", 2.0), ("second", 2.0), ("low", 1e-3)]}
    with pytest.raises(NotFound, match="no such run"):
        read_run(tmp_path / "other")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q Q0 d 1 2.0", "5 columns, not 6"),
        ("q Q0 d 1 high x", "'high' is no finite number"),
        ("q Q0 d 1 nan x", "'nan' is no finite number"),
        ("q Q0 a 1 1 x", "'a' stands twice for question 'q'"),
    ],
)
def test_bad_lines(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "run").write_text(f"q Q0 a 1 2 x\n{line}\n")
    with pytest.raises(BadRow, match=rf"run:2: .*{message}"):
        read_run(tmp_path / "run")
