"""A connection to a Ray cluster: one of our own on this machine, or one that was named.

No other is ever joined: neither the cluster that ``RAY_ADDRESS`` names nor one that happens to run
here. ``ray stop`` is never called, since it ends every cluster of a machine; our own is stopped by
its own handle, and ``rag.ray_keeper`` ends what a killed process leaves.
"""

from __future__ import annotations

import importlib
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from rag.errors import BackendFailed, InvalidInput, MissingExtra

LOCAL = "local"
"""Instead of an address: a cluster of our own, as long as it is needed."""

OBJECT_STORE_BYTES = 128 << 20
"""Of our own cluster: only paths, questions and receipts pass through it."""

REACHED_WITHIN = 10.0
"""Seconds in which a named cluster must accept a connection."""

_lock = threading.RLock()
_held: list[str] = []
"""The addresses that callers in this process asked for and have not given back."""

_here = ExitStack()
"""What ends the connection of this process, if it is ours."""


@contextmanager
def connect(address: str, *, cpus: int | None = None) -> Iterator[Any]:
    """The module ``ray``, connected to the cluster at ``address`` until the block ends.

    Args:
        address: ``local`` starts a cluster of our own: it listens on the loopback interface only,
            asks for a token that it makes, has no dashboard, sends no statistics, and is gone with
            its files when the block ends, however it ends. ``HOST:PORT`` joins the cluster whose
            head listens there, and leaves it as it is. This process must run on one of its nodes.
        cpus: for ``local``, how many CPUs Ray may give to workers; default: the machine's.

    A process has one connection: a second ``connect`` with the same address shares the first.

    Raises:
        InvalidInput: it is no address, or this process is connected to another cluster.
        MissingExtra: Ray is not installed.
        BackendFailed: the cluster does not start, or does not answer, or does not accept us.
    """
    check_address(address)
    ray = _module()
    with _lock:
        if _held and _held[0] != address:
            raise InvalidInput(f"--ray {address}: this process is connected to {_held[0]} already")
        if not _held:
            _open(ray, address, cpus)
        _held.append(address)
    try:
        yield ray
    finally:
        with _lock:
            _held.pop()
            if not _held:
                _here.close()


def check_address(address: str) -> None:
    """Raise InvalidInput unless it is ``local`` or HOST:PORT."""
    if address == LOCAL:
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in address:
        raise InvalidInput(
            f"--ray {address}: expected 'local', or HOST:PORT of the head of a cluster (6379 is "
            "Ray's usual port), given on one of its nodes; see docs/ray.md"
        )


def _module() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise MissingExtra("ray", "ray") from None


def _open(ray: Any, address: str, cpus: int | None) -> None:
    if ray.is_initialized():
        there = str(ray.get_runtime_context().gcs_address)
        if address != there:
            raise InvalidInput(
                f"--ray {address}: this process is connected to a Ray cluster at {there} already; "
                "name that address, or call ray.shutdown() first"
            )
        return  # the caller's own: used, and left as it is
    with ExitStack() as stack:
        _keep_signals(stack)
        if address == LOCAL:
            _start(ray, stack, cpus)
        else:
            _join(ray, stack, address)
        _here.push(stack.pop_all())


def _keep_signals(stack: ExitStack) -> None:
    """Have SIGTERM unwind this process, so that the cluster ends; then as it was before."""
    if threading.current_thread() is not threading.main_thread():
        return
    before = signal.getsignal(signal.SIGTERM)
    stack.callback(signal.signal, signal.SIGTERM, before or signal.SIG_DFL)


def _end(number: int, frame: Any) -> None:
    raise SystemExit(128 + number)


def _start(ray: Any, stack: ExitStack, cpus: int | None) -> None:
    """Start our own cluster."""
    folder = _folder()
    token = folder / "token"
    with os.fdopen(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    stack.callback(_stop_keeper, _keeper(folder), folder)
    settings = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": _python_path(),
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        # As on macOS, where Ray does so by itself: all addresses are 127.0.0.1.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }
    stack.callback(_forget_token)
    stack.callback(ray.shutdown)
    with _environment(settings), _loopback():
        _forget_token()
        try:
            ray.init(
                address=LOCAL,
                num_cpus=max(cpus or 0, os.cpu_count() or 1),
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                _node_ip_address="127.0.0.1",
                _temp_dir=str(folder),
            )
        except Exception as error:  # Ray raises what its parts raise
            raise BackendFailed(
                f"--ray local: the cluster did not start: {_line(error)}; is there room in "
                f"{folder.parent} and /dev/shm?"
            ) from error
    _after_init()


def _join(ray: Any, stack: ExitStack, address: str) -> None:
    """Join the cluster at ``address``, with the token that Ray's own settings name."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACHED_WITHIN).close()
    except (OSError, OverflowError) as error:
        raise BackendFailed(
            f"--ray {address}: nothing answers there ({error}); 'ray status' on the head names its "
            "address"
        ) from None
    stack.callback(ray.shutdown)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
    except Exception as error:  # Ray raises what its parts raise
        raise BackendFailed(
            f"--ray {address}: this process could not join: {_line(error)}; run the command on a "
            "node of the cluster ('ray job submit' does), with its versions of Python and Ray, and "
            "its token (RAY_AUTH_MODE, RAY_AUTH_TOKEN_PATH)"
        ) from error
    _after_init()


def _after_init() -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _end)


def _python_path() -> str:
    """Where this process finds modules beside those that are installed; so shall workers."""
    ours = [path for path in map(os.path.abspath, sys.path) if os.path.isdir(path)]
    installed = (sys.prefix, sys.base_prefix, sys.exec_prefix)
    return os.pathsep.join(path for path in ours if not path.startswith(installed))


def _line(error: BaseException) -> str:
    """The first line of an error."""
    return next((line for line in str(error).splitlines() if line.strip()), repr(error)).strip()


def _folder() -> Path:
    """A new folder with a short path: that of a socket has at most 107 bytes."""
    parent = tempfile.gettempdir()
    return Path(tempfile.mkdtemp(prefix="rag-ray-", dir=parent if len(parent) <= 24 else "/tmp"))


def _keeper(folder: Path) -> subprocess.Popen[bytes]:
    """The process that ends what is left of our cluster when this process has ended."""
    here = Path(__file__).with_name("ray_keeper.py")
    return subprocess.Popen(
        [sys.executable, "-I", "-S", str(here), str(folder), str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _stop_keeper(keeper: subprocess.Popen[bytes], folder: Path) -> None:
    keeper.communicate()
    shutil.rmtree(folder, ignore_errors=True)


def _forget_token() -> None:
    """Have Ray read mode and token again: it reads them once in a process."""
    with suppress(ImportError, AttributeError):
        raylet: Any = importlib.import_module("ray._raylet")
        raylet.AuthenticationTokenLoader.instance().reset_cache()
        raylet.Config.initialize("")


@contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _loopback() -> Iterator[None]:
    """The same setting where Ray was imported before, which reads it once."""
    constants: Any = importlib.import_module("ray._private.ray_constants")
    before = getattr(constants, "ENABLE_RAY_CLUSTER", None)
    constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before
