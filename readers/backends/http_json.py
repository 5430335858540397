"""JSON over HTTP to one server: bounded retries, deadlines, no redirects, no key in any message.

A reply may come in pieces (``rag.readers.backends.events``), and another thread may hang up.
"""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from rag.errors import BackendFailed, Cancelled
from rag.readers.backends.events import KIND, events
from rag.readers.backends.replies import message_of

ATTEMPTS = 4
FIRST_WAIT = 0.5
LONGEST_WAIT = 60.0
LARGEST_BODY = 32 << 20
RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})


class Line:
    """What a request is made over; any thread may hang up, which ends the request soon."""

    def __init__(self) -> None:
        """Nobody has hung up."""
        self.hung_up = threading.Event()
        self._socket: socket.socket | None = None

    def hang_up(self) -> None:
        """End the request, or the next one that is made over this line, as cancelled."""
        self.hung_up.set()
        if self._socket is not None:
            with suppress(OSError):  # it has ended
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def over(self, used: socket.socket) -> None:
        """The request is made over this socket."""
        self._socket = used
        if self.hung_up.is_set():
            raise _HungUp

    def check(self) -> None:
        """Raise ``Cancelled`` if somebody has hung up."""
        if self.hung_up.is_set():
            raise Cancelled("cancelled while the server was asked")


@dataclass(frozen=True)
class Client:
    """Posts JSON to paths below ``url``, one connection a request.

    A reply of 429, 5xx and their like, and a connection that the server drops, are tried again
    after 0.5, 1 and 2 seconds, or after what the server asks for in Retry-After, up to a minute.
    A refused connection and a timeout are not: waiting does not cure them. Redirects are not
    followed, since they could carry the key to another host; proxies are not used.
    """

    url: str
    timeout: float
    key: str | None = field(default=None, repr=False)

    def post(
        self,
        path: str,
        body: Any,
        *,
        line: Line | None = None,
        hear: Callable[[Any], None] | None = None,
    ) -> Any:
        """The JSON reply to ``body``; None for one that came in pieces.

        Args:
            path: below the URL.
            body: what is sent.
            line: what to hang up by.
            hear: called with each piece of a reply that is a stream of events, as it comes. Once
                there was one, nothing is tried again.

        Raises:
            Cancelled: somebody hung up.
            Refused: the server replied with another status than 200, or with no JSON.
            BackendFailed: there was no whole reply. Both name the URL, the status, what the server
                said and the next step.
        """
        line = line or Line()
        heard = False

        def hears(event: Any) -> None:
            nonlocal heard
            heard = True
            if hear is not None:
                hear(event)

        failure: BackendFailed
        for attempt in range(ATTEMPTS):
            wait = FIRST_WAIT * 2**attempt
            try:
                status, headers, data = self._once(path, body, line, hears if hear else None)
            except _Dropped as error:
                line.check()
                if heard:
                    raise BackendFailed(
                        f"{self.url}{path}: the reply broke off ({error}); look at the server's log"
                    ) from None
                failure = BackendFailed(
                    f"{self.url}{path}: the server dropped the connection ({error}), "
                    f"{attempt + 1} times; look at its log"
                )
            else:
                if status == 200:
                    return None if heard else self._decoded(path, data)
                failure = self._refusal(path, status, headers, data)
                wait = max(wait, _retry_after(headers))
                if status not in RETRIED or wait > LONGEST_WAIT:
                    raise failure
            if attempt + 1 < ATTEMPTS:
                line.hung_up.wait(wait)
        raise failure

    def _once(
        self, path: str, body: Any, line: Line, hear: Callable[[Any], None] | None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        line.check()
        deadline = time.monotonic() + self.timeout
        connection = self._connection()
        try:
            connection.connect()
            line.over(connection.sock)
            connection.request("POST", urlsplit(self.url).path + path, *self._request(body))
            response = connection.getresponse()
            parts = self._parts(response, deadline)
            if hear and response.status == 200 and response.headers.get_content_type() == KIND:
                self._tell(parts, hear)
                parts = iter(())
            return response.status, response.headers, b"".join(parts)
        except _HungUp:
            raise _Dropped("hung up") from None
        except TimeoutError:
            raise BackendFailed(
                f"{self.url}{path}: no answer within {self.timeout:g} s; raise 'timeout', or lower "
                "'max_tokens' or 'concurrency'"
            ) from None
        except (ConnectionResetError, BrokenPipeError, http.client.HTTPException) as error:
            raise _Dropped(type(error).__name__) from None
        except OSError as error:
            line.check()
            raise BackendFailed(
                f"{self.url}{path}: no connection ({error}); is the server running, and is 'url' "
                "right?"
            ) from None
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        address = urlsplit(self.url)
        secure = address.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        return kind(address.netloc, timeout=self.timeout)

    def _request(self, body: Any) -> tuple[bytes, dict[str, str]]:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        return json.dumps(body).encode(), headers

    def _tell(self, parts: Iterator[bytes], hear: Callable[[Any], None]) -> None:
        nothing = True
        for event in events(parts):
            nothing = False
            hear(event)
        if nothing:
            raise _Dropped("no event")

    def _parts(self, response: http.client.HTTPResponse, deadline: float) -> Iterator[bytes]:
        # The socket's timeout starts again with each byte; the deadline does not.
        size = 0
        while part := response.read1(1 << 16):
            yield part
            size += len(part)
            if time.monotonic() > deadline:
                raise TimeoutError
            if size > LARGEST_BODY:
                raise BackendFailed(f"{self.url}: the reply is larger than {LARGEST_BODY} bytes")
        if response.length:  # what Content-Length promised and did not come
            raise http.client.IncompleteRead(b"", response.length)

    def _decoded(self, path: str, data: bytes) -> Any:
        try:
            return json.loads(data)
        except ValueError:
            raise Refused(
                f"{self.url}{path}: status 200, but the reply is not JSON: {self._shown(data)}; "
                "is 'url' that of an OpenAI-compatible server?"
            ) from None

    def _refusal(
        self, path: str, status: int, headers: http.client.HTTPMessage, data: bytes
    ) -> Refused:
        if 300 <= status < 400:
            where = headers.get("Location", "elsewhere")
            said, step = f"a redirect to {where}", "redirects are not followed; change 'url'"
        else:
            said, step = self._shown(data), _next_step(status)
        return Refused(f"{self.url}{path}: status {status}: {self._hidden(said)}; {step}")

    def _shown(self, data: bytes) -> str:
        try:
            text = message_of(json.loads(data))
        except ValueError:
            text = " ".join(data[:200].decode("utf-8", "replace").split())
        return self._hidden(text or "nothing was said")

    def _hidden(self, text: str) -> str:
        """The text without the key, which a server may quote."""
        return text.replace(self.key, "***") if self.key else text


class Refused(BackendFailed):
    """The server replied, and not with what was asked for."""


class _HungUp(Exception):
    """Somebody hung up before the request was sent."""


class _Dropped(Exception):
    """The server closed the connection before its reply was whole."""


def _next_step(status: int) -> str:
    if status in (401, 403):
        return "set 'key_env' to the environment variable that holds a valid key"
    if status in (404, 405):
        return "check 'url' and 'model'"
    if status == 429:
        return "lower 'concurrency', or wait"
    if status >= 500:
        return "look at the server's log"
    return "check 'model', 'budget' and 'max_tokens' against what the server takes"


def _retry_after(headers: http.client.HTTPMessage) -> float:
    """The seconds of a Retry-After header, which holds a number or a date; 0 without one."""
    value = headers.get("Retry-After", "")
    try:
        return max(float(value), 0.0)
    except ValueError:
        pass
    try:
        return max((parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds(), 0.0)
    except (TypeError, ValueError):
        return 0.0
