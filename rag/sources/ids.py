"""The 64-bit hash of an id: what a collection keeps sorted to find a passage by its id."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rag.errors import InvalidInput


def hash_ids(ids: list[str] | pa.Array) -> NDArray[np.uint64]:
    """Hash each id: blake2b of its UTF-8, 8 bytes, read as a little-endian number.

    The hash depends on nothing but the id, so it is the same on every machine. Two ids may share
    a hash (among 10 million ids with probability 3 in a million): compare the ids themselves.

    Args:
        ids: ``n`` ids, a list or an Arrow (chunked) array of strings.

    Returns:
        Shape ``(n,)``, in the order of ``ids``.

    Raises:
        InvalidInput: An id is null, not a string, or holds an unpaired surrogate.
    """
    values: Iterable[Any] = ids if isinstance(ids, list) else ids.to_pylist()
    try:
        digests = b"".join([blake2b(value.encode(), digest_size=8).digest() for value in values])
    except (AttributeError, UnicodeEncodeError) as error:
        raise InvalidInput(f"an id cannot be hashed ({error}); ids are Unicode strings") from None
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)
