"""What runs a generating model: llama.cpp in this process, or a server over HTTP.

This docstring is the contract of a backend, and it rules. The built-in ones lie in
``rag.readers.backends``; a stage takes one as its key ``backend`` (``rag.backend_setting``).

A **backend** is settings: a frozen pydantic model whose fields are its YAML keys. It has one
method, ``open(context) -> session``; what is costly to load is shared by ``context.get(key, load)``
and freed by the context. A **session** is called from several threads at once and has two methods:

- ``chat(conversations, *, max_tokens, temperature, stop, seed)`` gives one reply for each
  conversation (a list of messages with ``role`` and ``content``), in order. What goes wrong for
  one conversation is returned in its place as an exception, ``BackendFailed`` with the next step
  in its message; what is wrong for all of them raises.
- ``count(text)`` gives the number of tokens of a text, without any special ones.

A backend of one's own, complete::

    class Echo(Backend, name="echo"):
        \"\"\"Answer with the last line of the prompt.\"\"\"
        shout: bool = False

        def open(self, context):
            return EchoSession(self.shout)

    class EchoSession:
        def chat(self, conversations, *, max_tokens, temperature, stop, seed):
            return [Reply(c[-1]["content"].splitlines()[-1], "stop") for c in conversations]

        def count(self, text):
            return len(text.split())
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from rag.named import Named
from rag.stage import Context

Conversation = Sequence[Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model wrote.

    Attributes:
        text: the answer.
        finish: why the model stopped: ``stop``, or ``length`` where ``max_tokens`` cut it.
        logprobs: the log-probability of each token, where the backend gives them.
    """

    text: str
    finish: str
    logprobs: tuple[float, ...] | None = None


class Session(Protocol):
    """An opened backend; see the module's docstring."""

    def chat(
        self,
        conversations: Sequence[Conversation],
        *,
        max_tokens: int,
        temperature: float,
        stop: Sequence[str],
        seed: int,
    ) -> list[Reply | Exception]:
        """One reply, or one exception, for each conversation."""

    def count(self, text: str) -> int:
        """The number of tokens of a text."""


class Backend(Named):
    """The settings of one backend; see the module's docstring for the contract.

    ``class Mine(Backend, name="mine")`` registers the class under the name that YAML uses.
    """

    group = "backends"

    @property
    def label(self) -> str:
        """What routes and errors call the model."""
        return str(getattr(self, "model", self.kind))

    def open(self, context: Context) -> Session:
        """Load the model, or find the server."""
        raise NotImplementedError(f"{type(self).__name__} has no open()")
