"""The backend ``openai``: any server with OpenAI's chat completions, over HTTP."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from rag.backend import Backend, Conversation, Reply, Session, Tell, Waits
from rag.errors import BackendFailed, Cancelled, InvalidInput
from rag.readers.backends.http_json import Client, Line, Refused
from rag.readers.backends.replies import Pieces, reply
from rag.readers.backends.turns import LOOK_EVERY
from rag.stage import Context

_CHAT = "/v1/chat/completions"


class OpenAI(Backend, name="openai"):
    """Ask a server that speaks OpenAI's chat completions: vLLM, llama.cpp, Ollama, TGI, a cloud.

    The key is read from the environment when the backend opens, and is neither stored with the
    settings nor printed. See ``rag.readers.backends.http_json`` for retries and redirects. Whether
    equal questions get equal answers is the server's affair: batching and cached prompts change
    the rounding.
    """

    url: str = Field(description="The server: http://127.0.0.1:8080, with or without /v1.")
    model: str = Field(description="The model's name at the server.", min_length=1)
    key_env: str | None = Field(None, description="The environment variable that holds the key.")
    timeout: float = Field(60, gt=0, description="The most seconds of one request.")
    concurrency: int = Field(4, gt=0, le=256, description="The most requests at a time.")
    logprobs: bool = Field(
        False, description="Ask for log-probabilities, which give the answer its confidence."
    )

    @field_validator("url")
    @classmethod
    def _is_a_server(cls, url: str) -> str:
        address = urlsplit(url)
        if address.scheme not in ("http", "https") or not address.hostname or not _has_port(url):
            raise InvalidInput(f"url {url!r}: expected one like http://127.0.0.1:8080")
        if address.username is not None or address.password is not None:
            raise InvalidInput("url: a name or password in it would be printed; use key_env")
        if address.query or address.fragment:
            raise InvalidInput(f"url {url!r}: expected no '?' or '#' part")
        return url

    def open(self, context: Context) -> Session:
        """Read the key. The server is first asked when there is a question.

        Raises:
            InvalidInput: the environment variable of the key is not set, or holds no key.
        """
        root = self.url.rstrip("/").removesuffix(_CHAT).removesuffix("/v1")
        return _OpenAISession(self, Client(root, self.timeout, self._key()))

    def _key(self) -> str | None:
        if self.key_env is None:
            return None
        key = os.environ.get(self.key_env, "").strip()
        if not key:
            raise InvalidInput(
                f"the environment variable {self.key_env!r}, which key_env of the backend openai "
                "names, is not set; set it, or leave key_env out for a server without keys"
            )
        if not (key.isascii() and key.isprintable()):
            raise InvalidInput(f"the environment variable {self.key_env!r} holds no usable key")
        return key


def _has_port(url: str) -> bool:
    """Whether the port of a URL, if there is one, is a number that a port can have."""
    try:
        return urlsplit(url).port != 0
    except ValueError:
        return False


class _OpenAISession:
    """Asks one server; holds no connection between calls."""

    def __init__(self, settings: OpenAI, client: Client) -> None:
        self._settings, self._client = settings, client
        self._probe = threading.Lock()
        self._tokenizes: bool | None = None
        self.count = lru_cache(maxsize=16_384)(self._count)

    def chat(
        self,
        conversations: Sequence[Conversation],
        *,
        max_tokens: int,
        temperature: float,
        stop: Sequence[str],
        seed: int,
        tell: Tell | None = None,
        waits: Waits | None = None,
    ) -> list[Reply | Exception]:
        """All replies, ``concurrency`` requests at a time."""
        settings: dict[str, Any] = {
            "model": self._settings.model,
            "max_tokens": max_tokens,
            "temperature": temperature,
            "seed": seed,
        }
        settings |= {"stop": list(stop)} if stop else {}
        settings |= {"logprobs": True} if self._settings.logprobs else {}

        lines = [Line() for _ in conversations]
        said = SimpleQueue[tuple[int, str]]()

        def answer(place: int) -> Reply | Exception:
            messages = [dict(message) for message in conversations[place]]
            request = {**settings, "messages": messages}
            try:
                if tell is None:
                    return reply(self._client.post(_CHAT, request, line=lines[place]))
                return self._in_pieces(request, lines[place], lambda text: said.put((place, text)))
            except (BackendFailed, Cancelled) as error:
                return error
            finally:
                said.put((place, ""))  # wakes who attends

        with ThreadPoolExecutor(self._settings.concurrency, "rag-openai") as pool:
            asked = [pool.submit(answer, place) for place in range(len(conversations))]
            if tell is not None or waits is not None:
                _attend(asked, lines, said, tell, waits)
            return [one.result() for one in asked]

    def _in_pieces(self, request: dict[str, Any], line: Line, say: Callable[[str], None]) -> Reply:
        """The reply to a request, said piece by piece; whole from a server that does not stream."""
        pieces = Pieces()

        def hear(event: Any) -> None:
            if text := pieces.add(event):
                say(text)

        whole = self._client.post(_CHAT, {**request, "stream": True}, line=line, hear=hear)
        if whole is not None:
            made = reply(whole)
            say(made.text)
            return made
        if not pieces.whole:
            raise BackendFailed(
                f"{self._client.url}{_CHAT}: the reply broke off; look at the server's log"
            )
        return pieces.reply()

    def _count(self, text: str) -> int:
        """The tokens of a text: exact from a llama.cpp server, else estimated.

        Servers have no way to count in common. llama.cpp's ``/tokenize`` is used where it is
        offered; elsewhere a token is taken to be four bytes of UTF-8, which is near for English
        and commonly too many for other scripts.
        """
        with self._probe:
            if self._tokenizes is None:
                self._tokenizes = self._offers_tokenize()
        if not self._tokenizes:
            return -(-len(text.encode()) // 4)
        return len(self._client.post("/tokenize", {"content": text})["tokens"])

    def _offers_tokenize(self) -> bool:
        try:
            found = self._client.post("/tokenize", {"content": "a"})
        except Refused:
            return False
        return isinstance(found, dict) and isinstance(found.get("tokens"), list)


def _attend(
    asked: Sequence[Future[Any]],
    lines: Sequence[Line],
    said: SimpleQueue[tuple[int, str]],
    tell: Tell | None,
    waits: Waits | None,
) -> None:
    """Pass on what is said until all that was asked is done; hang up where nobody waits."""
    look = 0.0
    left = len(asked)
    try:
        while left:
            if waits is not None and time.monotonic() >= look:
                for place, one in enumerate(asked):
                    if not one.done() and not waits(place):
                        lines[place].hang_up()
                look = time.monotonic() + LOOK_EVERY
            try:
                place, text = said.get(timeout=LOOK_EVERY)
            except Empty:
                continue
            if not text:
                left -= 1
            elif tell is not None:
                tell(place, text)
    except BaseException:  # whoever listens has had enough
        for line in lines:
            line.hang_up()
        raise
