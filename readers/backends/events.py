"""Server-sent events: a reply that comes piece by piece over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from rag.errors import BackendFailed

KIND = "text/event-stream"
END = "[DONE]"
"""What OpenAI's servers, and those like them, send as the data of their last event."""


def events(parts: Iterable[bytes]) -> Iterator[Any]:
    """The JSON in the data of each event, up to the end that the server marks.

    Comments and other fields are skipped, and so is an event that is cut off, as in the HTML
    standard, 9.2.6.

    Args:
        parts: the bytes of the body, cut anywhere.

    Raises:
        BackendFailed: the data of an event is no JSON.
    """
    data = list[str]()
    for line in _lines(parts):
        if line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif not line and data:
            text = "\n".join(data)
            data.clear()
            if text.strip() == END:
                return
            try:
                event = json.loads(text)
            except ValueError:
                raise BackendFailed(f"a piece of the reply is not JSON: {text[:200]!r}") from None
            yield event


def _lines(parts: Iterable[bytes]) -> Iterator[str]:
    rest = list[bytes]()
    for part in parts:
        *lines, last = part.split(b"\n")
        for line in lines:
            yield b"".join([*rest, line]).decode("utf-8", "replace").removesuffix("\r")
            rest.clear()
        rest.append(last)
