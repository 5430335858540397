"""Progress: one bar for the whole job, and what stands beside it."""

from __future__ import annotations

import pytest

from rag.cli import output


def test_the_bar_of_an_index_job_never_falls_and_ends_full() -> None:
    whole = output.Whole()
    steps = [("read", n, 10) for n in range(11)] + [("index", 0, 0), ("merge", 0, 2)]
    steps += [("merge", 2, 2), ("train", 1, 1), ("build", 1, 2), ("build", 2, 2)]
    shares = [whole.share(*step) for step in steps]
    assert shares == sorted(shares)
    assert [shares[0], shares[10], shares[-1]] == pytest.approx([0.0, 0.6, 1.0])


def test_a_job_that_begins_with_a_later_step_begins_at_nothing() -> None:
    whole = output.Whole()
    assert whole.share("merge", 0, 4) == 0.0
    assert whole.share("merge", 4, 4) == pytest.approx(2 / 3)
    other = output.Whole()
    assert [other.share("questions", n, 4) for n in (0, 2, 4)] == [0.0, 0.5, 1.0]


def test_what_is_beside_the_bar_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("rag.cli.output.time.monotonic", lambda: now[0])
    beside = output.Beside()
    assert str(beside) == ""
    now[0] += 10
    beside.note("rows", 20_000, None)
    beside.note("workers", 3, 8)
    assert str(beside) == "2,000 rows/s · 3 of 8 workers"
    beside.note("workers", 1, 1)
    beside.note("failures", 2, None)
    beside.note("merge", 1, 2)
    assert str(beside) == "2,000 rows/s · 1 worker · 2 failures"


def test_without_a_terminal_a_line_a_minute_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr("rag.cli.output.time.monotonic", lambda: now[0])
    with output.progress() as tell:
        tell("read", 1, 10)
        now[0] = 61.0
        tell("rows", 6100, None)
        tell("read", 5, 10)
        tell("read", 6, 10)
    assert capsys.readouterr().err == "reading and indexing 50% (100 rows/s)\n"
