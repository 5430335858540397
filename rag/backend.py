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

A session that can write piece by piece takes one or both of two more keywords in ``chat``, each
None by default. Both are functions of ``i``, the place of a conversation, and are called in the
thread that called ``chat``:

- ``tell(i, text)`` is called with each piece of text as the model writes it. The pieces of one
  conversation, joined and stripped, are the text of its reply.
- ``waits(i)`` says whether anybody still waits for a reply. It is asked between two tokens, and
  while the conversation waits for its turn. Where it says no, the session stops there, gives the
  place to the next one, and returns ``Cancelled`` for it.

Stages call a session by ``replies``, which passes these on to sessions that take them.

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

import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rag.errors import Cancelled, DeadlinePassed
from rag.named import Named
from rag.stage import Context, Run

Conversation = Sequence[Mapping[str, str]]
Tell = Callable[[int, str], None]
"""Told the place of a conversation and a piece of its reply, as it is written."""
Waits = Callable[[int], bool]
"""Whether anybody still waits for the reply to the conversation at this place."""


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


def replies(
    session: Session,
    conversations: Sequence[Conversation],
    rows: Sequence[int],
    run: Run,
    *,
    listens: bool,
    **settings: Any,
) -> list[Reply | Exception]:
    """What a session replies to the ``conversations`` of these ``rows`` of a step's batch.

    Where somebody listens to the run, its rows get an event ``token`` for each piece; where rows
    may be cancelled or have a deadline, the session is told of those that nobody waits for.

    Args:
        session: the backend's; one that takes neither ``tell`` nor ``waits`` is asked without.
        conversations: one for each of ``rows``.
        rows: the rows of ``run``.
        run: that of the step.
        listens: whether the pieces are for the listener; else it hears nothing.
        settings: the other arguments of ``chat``.
    """
    taken = inspect.signature(session.chat).parameters
    if listens and run.listener is not None and "tell" in taken:
        settings["tell"] = lambda i, text: run.emit(rows[i], "token", text)
    if (run.cancel is not None or run.deadline is not None) and "waits" in taken:
        settings["waits"] = lambda i: run.waits(rows[i])
    made = session.chat(conversations, **settings)
    cancelled = run.cancelled()
    late = run.deadline is not None and time.monotonic() >= run.deadline
    for place, (row, reply) in enumerate(zip(rows, made, strict=True)):
        if late and isinstance(reply, Cancelled) and row not in cancelled:
            made[place] = DeadlinePassed("the time given ended before the model had answered")
    return made
