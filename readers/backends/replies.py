"""The answer of an OpenAI-compatible chat endpoint, read with care."""

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
