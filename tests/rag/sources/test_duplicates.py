from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.sources import duplicates
from rag.sources.duplicates import Seen

blocks = st.lists(st.lists(st.text("ab", max_size=4), max_size=8), max_size=20)


def naive(parts: list[list[str]]) -> list[list[int]]:
    first: dict[str, int] = {}
    answer, line = [], 0
    for part in parts:
        row = []
        for name in part:
            line += 1
            row.append(first.get(name, 0))
            first.setdefault(name, line)
        answer.append(row)
    return answer


def run(parts: list[list[str]]) -> list[list[int]]:
    seen, line, answer = Seen(), 0, []
    for part in parts:
        answer.append(seen.add(part, range(line + 1, line + 1 + len(part))))
        line += len(part)
    return answer


@given(parts=blocks)
def test_finds_what_a_dictionary_finds(parts: list[list[str]]) -> None:
    assert run(parts) == naive(parts)


@given(parts=blocks)
def test_equal_high_halves_alone_are_no_duplicates(parts: list[list[str]]) -> None:
    plain = duplicates._hash

    def poor(ids: list[str], lines: list[int]) -> duplicates._Run:
        return plain(ids, lines)._replace(high=np.zeros(len(ids), dtype=np.uint64))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "_hash", poor)
        assert run(parts) == naive(parts)


def test_memory_is_24_bytes_an_id_in_few_runs() -> None:
    seen = Seen()
    for block in range(50):
        seen.add([f"{block}-{i}" * 9 for i in range(200)], range(1, 201))
    sizes = [len(run.high) for run in seen._runs]
    assert sum(sizes) == 10_000
    assert len(sizes) <= 8
    assert all(before >= 2 * after for before, after in pairwise(sizes))
    assert sum(column.nbytes for run in seen._runs for column in run) == 24 * 10_000
