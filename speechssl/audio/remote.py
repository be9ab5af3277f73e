"""Bytes behind URLs, through fsspec: s3://, gs://, http://, memory:// and whatever else has an fsspec backend.

Credentials, endpoints and anonymous access are fsspec's and the provider's own configuration (`AWS_PROFILE`,
`AWS_ENDPOINT_URL`, `FSSPEC_S3='{"anon": true}'`, ~/.config/fsspec); none of them is part of a path. Transient faults
are tried again here, and only here: the retries of the S3 client itself are turned off, for they would multiply.
"""

import errno
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from speechssl.audio.recording import RecordingError, UnreachableError

Result = TypeVar("Result")

_TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_TRANSIENT_ERRNO = frozenset(
    getattr(errno, name)
    for name in (
        "EAGAIN", "EBUSY", "EREMOTEIO", "EPIPE", "ETIMEDOUT", "ECONNRESET", "ECONNABORTED", "ECONNREFUSED",
        "ENETUNREACH", "ENETDOWN", "ENETRESET", "EHOSTUNREACH",
    )
    if hasattr(errno, name)
)  # fmt: skip
_PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, NotImplementedError)
_TRANSIENT_CLASSES = {
    "botocore.exceptions": ("HTTPClientError", "ConnectionError", "ResponseParserError", "IncompleteReadError"),
    "aiohttp": ("ClientConnectionError", "ClientPayloadError"),
    "http.client": ("IncompleteRead",),
}
_TRANSIENT_CODES = ("SlowDown", "Throttl", "RequestLimitExceeded", "RequestTimeout", "InternalError", "Unavailable")


class RemoteFault(Exception):
    """What a backend raised last, after all retries, in `cause`; `remote_error` puts it in words."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(str(cause))
        self.cause = cause


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How often a transient fault is tried again, and how long is waited before: doubling, with jitter.

    The default waits for about a minute altogether: 0.2, 0.4, ... 12.8, 20 and 20 s, each times 0.5 to 1.
    """

    max_attempts: int = 10
    first_delay_seconds: float = 0.2
    max_delay_seconds: float = 20.0

    def delay_seconds(self, attempt: int) -> float:
        """How long to wait after attempt number `attempt`, counted from 0; random, so that workers spread out."""
        longest = min(self.first_delay_seconds * 2.0**attempt, self.max_delay_seconds)
        return float(longest * random.uniform(0.5, 1.0))


RETRY = RetryPolicy()


@dataclass
class _Process:
    """The filesystems of this process; asynchronous ones do not survive a fork."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    filesystems: dict[str, Any] = field(default_factory=dict)
    inherited: list[Any] = field(default_factory=list)
    """The parent's filesystems, kept so that nothing closes their connections from the child."""
    watches_forks: bool = False

    def forget(self) -> None:
        """Called in the child of a fork."""
        self.lock = threading.Lock()
        self.inherited.append(self.filesystems)
        self.filesystems = {}
        asyn = sys.modules.get("fsspec.asyn")
        if asyn is not None:
            asyn.reset_lock()


_PROCESS = _Process()


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec filesystem of a URL, made anew in every process, and the URL's path on it.

    Raises:
        RemoteFault: there is no backend for it, or its package is not installed.
    """
    scheme, _, rest = url.partition("://")
    place = url if "::" in url else f"{scheme}://{rest.partition('/')[0]}"
    found = _PROCESS.filesystems.get(place)
    if found is None:
        with _PROCESS.lock:
            if not _PROCESS.watches_forks and hasattr(os, "register_at_fork"):
                os.register_at_fork(after_in_child=_PROCESS.forget)
                _PROCESS.watches_forks = True
            found = _PROCESS.filesystems.get(place) or _make_filesystem(url, scheme)
            _PROCESS.filesystems[place] = found
    return found, found._strip_protocol(url)


def _make_filesystem(url: str, scheme: str) -> Any:
    try:
        import fsspec
        from fsspec.config import conf
        from fsspec.core import url_to_fs

        if scheme in ("s3", "s3a"):
            settings = dict(conf.get(scheme, {}).get("config_kwargs", {}))
            settings.setdefault("retries", {"total_max_attempts": 1, "mode": "standard"})
            settings.setdefault("max_pool_connections", 32)
            made = fsspec.filesystem(scheme, config_kwargs=settings)
            made.retries = 1
            return made
        return url_to_fs(url)[0]
    except (ImportError, ValueError) as error:
        raise RemoteFault(error) from error


def with_retries(call: Callable[[], Result]) -> Result:
    """The result of a call of a backend, which is called again after transient faults.

    Raises:
        RemoteFault: what it raised last.
    """
    attempt = 0
    while True:
        try:
            return call()
        except Exception as error:
            attempt += 1
            if attempt >= RETRY.max_attempts or not is_transient(error):
                raise RemoteFault(error) from error
            time.sleep(RETRY.delay_seconds(attempt - 1))


def fetch(url: str, start: int | None = None, num_bytes: int | None = None) -> bytes:
    """`num_bytes` from `start` of a remote file, or the whole; fewer where the file ends before. Retries.

    Raises:
        RemoteFault: it cannot be had.
    """
    files, path = filesystem(url)
    if start is None or num_bytes is None:
        return bytes(with_retries(lambda: files.cat_file(path)))
    if num_bytes == 0:
        return b""
    try:
        content = bytes(with_retries(lambda: files.cat_file(path, start=start, end=start + num_bytes)))
    except RemoteFault as fault:
        if _status(fault.cause) == 416:  # the file ends before the range starts
            return b""
        raise
    # a web server that ignores ranges sends the whole file
    return content if len(content) <= num_bytes else content[start : start + num_bytes]


def size(url: str) -> int:
    """Size in bytes of a remote file; retries, and raises like `fetch`."""
    files, path = filesystem(url)
    found = with_retries(lambda: files.info(path))
    if found.get("type") == "directory":
        raise RemoteFault(IsADirectoryError(url))
    if found.get("size") is None:
        raise RemoteFault(OSError(errno.EINVAL, "the server does not tell the size"))
    return int(found["size"])


def is_transient(error: BaseException) -> bool:
    """Whether trying again may help: time-outs, broken connections, throttling and the server's own faults."""
    if any(_is_from(error, module, *names) for module, names in _TRANSIENT_CLASSES.items()):
        return True
    status = _status(error)
    if status is not None:
        return status in _TRANSIENT_STATUS or any(code in _error_code(error) for code in _TRANSIENT_CODES)
    if isinstance(error, _PERMANENT):
        return False
    if isinstance(error, (TimeoutError, ConnectionError, EOFError)):
        return True
    return isinstance(error, OSError) and error.errno in _TRANSIENT_ERRNO


def remote_error(path: str, fault: RemoteFault) -> RecordingError:
    """A backend's error in words; `path` is the recording as the manifest has it."""
    error = fault.cause
    scheme = path.partition("://")[0]
    if isinstance(error, ImportError):
        extra = "pip install 'speechssl[s3]'" if scheme in ("s3", "s3a") else f"pip install 'fsspec[{scheme}]'"
        return RecordingError(
            f"{path}: reading {scheme}:// needs a package that is not installed ({error}); `{extra}`", "unreadable"
        )
    if isinstance(error, ValueError) and "rotocol" in str(error):
        return RecordingError(f"{path}: no such kind of storage ({error}); check the part before ://", "unreadable")
    what = " ".join(str(error).split())[:300] or type(error).__name__
    status = _status(error)
    if isinstance(error, FileNotFoundError) or status == 404:
        return RecordingError(f"{path}: no such object; check the URL, and whether it was moved or deleted", "missing")
    if isinstance(error, PermissionError) or status in (401, 403) or "redentials" in type(error).__name__:
        return RecordingError(
            f"{path}: access denied ({what}); give credentials that may read it (for S3 AWS_PROFILE or"
            " AWS_ACCESS_KEY_ID, or FSSPEC_S3='{\"anon\": true}' where it is public)",
            "unreadable",
        )
    if isinstance(error, IsADirectoryError):
        return RecordingError(
            f"{path}: is a folder, not a recording; use `speechssl manifest build` on folders", "unreadable"
        )
    if is_transient(error):
        return UnreachableError(
            f"{path}: cannot be reached, tried {RETRY.max_attempts} times ({type(error).__name__}: {what}); check the"
            " network and the endpoint, then go on",
            "unreadable",
        )
    return RecordingError(f"{path}: cannot be read ({type(error).__name__}: {what}); check the URL", "unreadable")


def _status(error: BaseException | None) -> int | None:
    """The HTTP status behind an error, if there is one."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            error_code = str(response.get("Error", {}).get("Code", ""))
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            return status if isinstance(status, int) else int(error_code) if error_code.isdigit() else None
        for name in ("status", "status_code", "code"):
            value = getattr(error, name, None)
            if isinstance(value, int) and 100 <= value < 600:
                return value
        error = error.__cause__
    return None


def _error_code(error: BaseException | None) -> str:
    """S3's name of the fault, such as `SlowDown`."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        error = error.__cause__
    return ""


def _is_from(error: BaseException, module: str, *names: str) -> bool:
    """Whether the error is of one of a package's classes; a package that was never imported cannot have raised it."""
    loaded = sys.modules.get(module)
    classes = tuple(getattr(loaded, name) for name in names if hasattr(loaded, name))
    return isinstance(error, classes)
