"""Texts to batches of a model, and batches to the devices that hold it."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag.errors import InvalidInput

TEXTS_AT_ONCE = 8192
"""Texts that are tokenised and sorted at a time: what is held besides texts and vectors."""
_TOKENS_AT_ONCE = {"cuda": 16_384, "openvino": 512}
_ELSE = 2048


def tokens_at_once(device: str) -> int:
    """Most tokens of a batch, padding included: what a core keeps near itself, or fills a GPU.

    OpenVINO computes padding, of which smaller batches have less.
    """
    return _TOKENS_AT_ONCE.get(device.partition(":")[0], _ELSE)


def check(texts: Sequence[str], kind: str) -> None:
    """Refuse a kind that is neither query nor document, and texts that no tokenizer reads.

    Raises:
        InvalidInput: it says which text has an unpaired surrogate.
    """
    if kind not in ("query", "document"):
        raise InvalidInput(f"kind {kind!r}: expected 'query' or 'document'")
    for number, text in enumerate(texts):
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                raise InvalidInput(f"text {number} has an unpaired surrogate") from None


def batches(
    texts: Sequence[str], lengths: Callable[[Sequence[str]], Any], tokens: int
) -> Iterator[NDArray[np.int64]]:
    """Places of the texts of each batch, by falling length; a text too long is one by itself.

    The longest come first, so that what does not fit into memory shows at once.

    Args:
        texts: any number.
        lengths: gives the numbers of tokens of texts, (n,).
        tokens: the most of a batch, padding included.
    """
    for first in range(0, len(texts), TEXTS_AT_ONCE):
        sizes = np.asarray(lengths(texts[first : first + TEXTS_AT_ONCE]), np.int64)
        order = np.argsort(-sizes, kind="stable")
        start = 0
        while start < len(order):
            fits = max(1, tokens // max(int(sizes[order[start]]), 1))
            yield order[start : start + fits] + first
            start += fits


def devices_of(device: str | Sequence[str]) -> list[str]:
    """The devices that a setting means, as torch calls them.

    Args:
        device: ``auto`` (cuda where there is one, else cpu), ``cuda:all`` (every one of this
            machine), one that torch knows, or several.

    Raises:
        InvalidInput: torch finds no such device here, or there is none in the list.
    """
    from rag.models.load import device_of

    several = [device] if isinstance(device, str) else list(device)
    if not several:
        raise InvalidInput("device is an empty list; name one, such as cpu")
    found = []
    for one in several:
        if one == "cuda:all":
            import torch

            device_of("cuda")
            found += [f"cuda:{number}" for number in range(torch.cuda.device_count())]
        else:
            found.append(device_of(None if one == "auto" else one))
    return found


class Models:
    """The copies of a model, one on each device; a thread that needs one waits for it."""

    def __init__(self, models: Sequence[Any]) -> None:
        """Take at least one."""
        self.all = list(models)
        self._free: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for model in self.all:
            self._free.put(model)

    @contextmanager
    def one(self) -> Iterator[Any]:
        """A model that nobody else uses meanwhile."""
        model = self._free.get()
        try:
            yield model
        finally:
            self._free.put(model)

    def map(self, work: Callable[[Any, Any], Any], items: Sequence[Any]) -> list[Any]:
        """``work(model, item)`` of each item, in their order; on several devices at a time."""

        def one(item: Any) -> Any:
            with self.one() as model:
                return work(model, item)

        if len(self.all) == 1 or len(items) < 2:
            return [one(item) for item in items]
        with ThreadPoolExecutor(len(self.all)) as pool:
            return list(pool.map(one, items))
