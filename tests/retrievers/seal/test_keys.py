"""Keys hold what was put in, and refuse what does not fit."""

from __future__ import annotations

import numpy as np
import pytest

from rag.errors import InvalidInput
from rag.retrievers.seal import Keys
from rag.retrievers.seal.keys import BODY, SPAN


def test_keys_hold_ngrams() -> None:
    keys = Keys.of([[1, 2], [3]], [-1.0, -2.0], kinds=[BODY, SPAN])
    assert len(keys) == 2
    assert keys.ngram(1) == [3]
    assert keys.ngrams() == [[1, 2], [3]]
    assert keys.kinds.tolist() == [BODY, SPAN]
    assert keys.base is None
    assert Keys.of([[4]], [0.0]).kinds.tolist() == [BODY]
    assert len(Keys.of([], [])) == 0


def test_arrays_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InvalidInput, match="log_probs has the shape"):
        Keys.of([[1]], [-1.0, -2.0])
    with pytest.raises(InvalidInput, match="base has the shape"):
        Keys.of([[1]], [-1.0], base=[])
    with pytest.raises(InvalidInput, match="no token"):
        Keys.of([[1], []], [-1.0, -2.0])
    with pytest.raises(InvalidInput, match="number of tokens, 1"):
        Keys(np.array([0, 2]), np.array([1], np.int32), np.zeros(1), np.zeros(1, np.uint8))
