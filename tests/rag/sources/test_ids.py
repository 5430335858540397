from __future__ import annotations

from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.errors import InvalidInput
from rag.sources.ids import hash_ids


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_hashes_are_those_of_hashlib_for_lists_and_arrays(ids: list[str]) -> None:
    naive = [int.from_bytes(blake2b(i.encode(), digest_size=8).digest(), "little") for i in ids]
    got = hash_ids(ids)
    assert got.dtype == np.uint64
    assert got.tolist() == naive
    for kind in (pa.string(), pa.large_string()):
        array = pa.array(ids, type=kind)
        assert hash_ids(array).tolist() == naive
        assert hash_ids(pa.chunked_array([array[:1], array[1:]])).tolist() == naive


def test_the_hash_never_changes() -> None:
    assert hash_ids(["", "a", "p12"]).tolist() == GOLDEN


@pytest.mark.parametrize("ids", [["a", None], [7], ["\ud800"], pa.array(["a", None])])
def test_what_is_no_id_is_refused(ids: list[str]) -> None:
    with pytest.raises(InvalidInput, match="cannot be hashed"):
        hash_ids(ids)


GOLDEN = [13020603013274838756, 3405396810240292928, 7947521514943582652]
