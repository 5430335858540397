"""Intervals are those of a bootstrap, and differences are of the same questions."""

from __future__ import annotations

import numpy as np
import pytest

from rag.training.objective import Task
from rag.training.report import interval, paired, rows


def test_an_interval_is_near_that_of_the_normal_distribution() -> None:
    values = np.random.default_rng(1).normal(0.5, 0.2, 400)
    mean, low, high = interval(values.tolist())
    half = 1.96 * values.std() / 20
    assert mean == pytest.approx(values.mean())
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.1 * half)
    assert interval([0.3] * 9) == pytest.approx((0.3, 0.3, 0.3))


def test_a_paired_difference_hangs_on_the_common_questions_alone() -> None:
    one = {f"q{n}": float(n % 2) for n in range(50)}
    other = {name: value - 0.1 for name, value in one.items()} | {"more": 9.0}
    assert paired(one, other) == pytest.approx((0.1, 0.1, 0.1))  # though each varies much


def test_rows_compare_what_can_be_compared() -> None:
    before = {"nDCG@10 beam": {"a": 0.0, "b": 0.2}, "loss": {"d": 3.0}}
    after = {"nDCG@10 beam": {"a": 0.5, "b": 0.7}, "loss": {"d": 2.0}}
    found = rows(Task(), before, after, {"BM25": {"a": 1.0, "b": 1.0}})
    told = {(row["row"], row["measure"]): row for row in found}
    assert list(told) == [
        ("before", "nDCG@10 beam"), ("after", "nDCG@10 beam"), ("BM25", "nDCG@10"),
        ("before", "loss"), ("after", "loss"),
    ]  # fmt: skip
    assert told["before", "nDCG@10 beam"]["after_minus"] == (0.5, 0.5, 0.5)
    assert told["after", "nDCG@10 beam"]["minus_reference"][0] == -0.4
    assert "minus_reference" not in told["after", "loss"]
    assert not told["after", "loss"]["higher_is_better"]
