"""The answer of an OpenAI-compatible chat endpoint, whole or in pieces, read with care."""

from __future__ import annotations

from typing import Any

from rag.backend import Reply
from rag.errors import BackendFailed


def reply(body: Any) -> Reply:
    """The first choice of a chat completion.

    Raises:
        BackendFailed: the body is an error, or has no choice, or the choice has no text.
    """
    if not isinstance(body, dict):
        raise BackendFailed(f"the reply is no JSON object but {type(body).__name__}")
    if body.get("error"):
        raise BackendFailed(message_of(body))
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise BackendFailed(f"the reply has no choices; it has: {', '.join(body) or 'nothing'}")
    message = choices[0].get("message")
    text = message.get("content") if isinstance(message, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise BackendFailed("the model wrote nothing; raise max_tokens, or look at 'stop'")
    return Reply(text.strip(), str(choices[0].get("finish_reason")), _logprobs(choices[0]))


class Pieces:
    """A chat completion that comes in chunks (``chat.completion.chunk``), put together again."""

    def __init__(self) -> None:
        """Nothing has come yet."""
        self._texts: list[str] = []
        self._logprobs: list[Any] = []
        self._finish: str | None = None

    @property
    def whole(self) -> bool:
        """Whether a chunk has said why the model stopped."""
        return self._finish is not None

    def add(self, chunk: Any) -> str:
        """The text of the next chunk, which may be empty.

        Raises:
            BackendFailed: the chunk is an error, or no chunk.
        """
        if not isinstance(chunk, dict):
            raise BackendFailed(
                f"a piece of the reply is no JSON object but {type(chunk).__name__}"
            )
        if chunk.get("error"):
            raise BackendFailed(message_of(chunk))
        choices = chunk.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            return ""  # such as one that only counts tokens
        choice = choices[0]
        if choice.get("finish_reason") is not None:
            self._finish = str(choice["finish_reason"])
        logprobs = choice.get("logprobs")
        if isinstance(logprobs, dict) and isinstance(logprobs.get("content"), list):
            self._logprobs += logprobs["content"]
        delta = choice.get("delta")
        text = delta.get("content") if isinstance(delta, dict) else None
        if not isinstance(text, str):
            return ""
        self._texts.append(text)
        return text

    def reply(self) -> Reply:
        """The whole of it.

        Raises:
            BackendFailed: there is no text in it.
        """
        choice = {
            "message": {"content": "".join(self._texts)},
            "finish_reason": self._finish,
            "logprobs": {"content": self._logprobs},
        }
        return reply({"choices": [choice]})


def message_of(body: Any) -> str:
    """The message of an error reply, as short as it can be told."""
    error = body.get("error", body) if isinstance(body, dict) else body
    message = error.get("message", error) if isinstance(error, dict) else error
    return str(message)[:500]


def _logprobs(choice: dict[str, Any]) -> tuple[float, ...] | None:
    try:
        found = tuple(float(token["logprob"]) for token in choice["logprobs"]["content"])
    except (KeyError, TypeError, ValueError):
        return None  # not asked for, or not given
    return found or None
