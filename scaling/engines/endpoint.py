"""One HTTP endpoint that speaks the OpenAI protocol: JSON in, JSON out, retries and errors.

Retried: no connection, no answer in time, 408, 425, 429, any 5xx, and a body that is not the
expected JSON object (a server may have died half-way). Waits double from one try to the next, with
jitter, and are never shorter than the server's Retry-After. Everything else (a refused key, an
unknown model, a bad request) fails at once. Requests are idempotent.

The key is read from an environment variable at each request and stored in no attribute. It is sent
only over https or to this machine, never to a redirect target (redirects are not followed), and is
removed from the server's replies before anything is cut, shown or stored.
"""

from __future__ import annotations

import contextlib
import copy
import email.utils
import http.client
import io
import ipaddress
import json
import os
import random
import re
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

from interp.errors import PruneScopeError, UserError

__all__ = ["Endpoint", "EndpointError", "Failure", "Retry"]

R = TypeVar("R")
Failure = Literal["down", "timeout", "rate limit", "server error", "nonsense", "refused", "stopped"]
MOST_SECONDS = 86400
MOST_BYTES = 2**28  # a longer answer is an error
_BLOCK = 2**16  # bytes read at a time
_BLOTTED = "***"
_PART = 8  # any run of this many characters of a key is hidden
_AGAIN: dict[int, Failure] = {408: "timeout", 425: "server error", 429: "rate limit"}


class EndpointError(PruneScopeError):
    """An endpoint that gave no usable answer.

    Attributes:
        kind: what went wrong.
        status: HTTP status of the last try; None if there was no reply.
    """

    def __init__(self, kind: Failure, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.kind: Failure = kind
        self.status = status


@dataclass(frozen=True)
class Retry:
    """How often and how long one request is tried.

    Attributes:
        tries: most tries.
        patience: seconds after the first try during which a new try may begin.
        first: seconds to wait after the first try.
        longest: longest wait in seconds.
        nonsense: most unreadable answers. A restarting server may send one; a wrong server sends
            nothing else.
    """

    tries: int = 6
    patience: float = 120.0
    first: float = 0.5
    longest: float = 30.0
    nonsense: int = 3

    def __post_init__(self) -> None:
        if min(self.tries, self.nonsense) < 1 or not 0 <= self.first <= self.longest:
            raise UserError(
                f"{self}: expected tries and nonsense >= 1, and 0 <= first <= longest seconds."
            )

    def wait(self, tried: int, asked: float | None) -> float:
        """Seconds to wait before the next try.

        Args:
            tried: tries so far.
            asked: the server's Retry-After in seconds; None if it sent none.

        Returns:
            Seconds, with jitter; at least `asked`.
        """
        usual = min(self.longest, self.first * 2.0 ** (tried - 1))
        jittered = usual * random.uniform(0.5, 1.0)
        return jittered if asked is None else asked + jittered * 0.1


class _Failed(Exception):  # noqa: N818  (caught here, never seen outside)
    def __init__(
        self,
        kind: Failure,
        said: str,
        again: bool,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(said)
        self.kind: Failure = kind
        self.said, self.again = said, again
        self.status, self.retry_after = status, retry_after


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class _Timely(io.RawIOBase):
    """What a socket receives, until a moment after which reading is a TimeoutError.

    The timeout of a socket is for each piece: a server that sends a byte now and then never meets
    it, in the status line, the headers or the body.
    """

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock, self._deadline = sock, deadline
        self._raw = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(left)
        return self._raw.readinto(buffer)  # type: ignore[attr-defined]

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, deadline: float, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp.close()
        self.fp = io.BufferedReader(_Timely(sock, deadline))


def _on_time(kind: type[http.client.HTTPConnection]) -> Any:
    """Connections of a kind that give up when the whole answer is late, not just a piece of it."""

    def connect(host: str, *, timeout: float, **options: Any) -> http.client.HTTPConnection:
        made = kind(host, timeout=timeout, **options)
        deadline = time.monotonic() + timeout
        made.response_class = partial(_Response, deadline=deadline)  # type: ignore[assignment]
        return made

    return connect


class _TimelyHTTP(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_on_time(http.client.HTTPConnection), req)


class _TimelyHTTPS(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_on_time(http.client.HTTPSConnection), req)


class Endpoint:
    """An endpoint at a URL (http://host:8000, or with a path such as .../v1).

    It may be used from several threads; `stop()` ends all waiting in them.

    Args:
        url: base URL; without a path, /v1 is added.
        key_env: name of the environment variable with the key; None sends no key.
        key_needed: whether a missing key is an error (never for this machine's own endpoints).
        timeout: seconds for one whole answer, headers and body together.
        retry: how often and how long to try; None takes the defaults of `Retry`.
    """

    def __init__(
        self,
        url: str,
        *,
        key_env: str | None = None,
        key_needed: bool = False,
        timeout: float = 120.0,
        retry: Retry | None = None,
    ) -> None:
        self.url, self.host = _checked(url)
        self.local = _is_local(self.host)
        self.key_env = key_env or None
        self.timeout = timeout
        self.retry = retry or Retry()
        if not 0 < timeout <= MOST_SECONDS:
            raise UserError(
                f"timeout={timeout}: expected seconds > 0, and at most {MOST_SECONDS} (a day)."
            )
        self._stopped = threading.Event()
        own = [urllib.request.ProxyHandler({})] if self.local else []
        self._opener = urllib.request.build_opener(_NoRedirect, _TimelyHTTP, _TimelyHTTPS, *own)
        self._check_key(key_needed)

    def __repr__(self) -> str:
        return f"Endpoint({self.url!r})"

    def get(self, path: str, *, retry: Retry | None = None) -> dict[str, Any]:
        """GET a JSON object.

        Args:
            path: path below the base URL, such as "models".
            retry: replaces the endpoint's own retry settings.

        Returns:
            The JSON object.

        Raises:
            EndpointError: there is no usable answer.
        """
        return self._persist("GET", path, None, retry or self.retry, _as_it_is)

    def post(
        self,
        path: str,
        body: dict[str, Any],
        *,
        retry: Retry | None = None,
        read: Callable[[dict[str, Any]], R],
    ) -> R:
        """POST a JSON object and read the reply.

        Args:
            path: path below the base URL, such as "completions".
            body: the JSON object to send.
            retry: replaces the endpoint's own retry settings.
            read: turns the reply's JSON object into a result; it raises EndpointError for a reply
                that is not valid, which counts as a failed try.

        Returns:
            The result of `read`.

        Raises:
            EndpointError: there is no usable answer.
        """
        return self._persist("POST", path, body, retry or self.retry, read)

    def models(self, *, retry: Retry | None = None) -> list[str]:
        """Names of the models that the endpoint lists."""
        data = self.get("models", retry=retry).get("data")
        entries = data if isinstance(data, list) else []
        return [str(e["id"]) for e in entries if isinstance(e, dict) and "id" in e]

    def again(self) -> Endpoint:
        """The same endpoint for another series of requests, which can be stopped separately."""
        other = copy.copy(self)
        other._stopped = threading.Event()
        return other

    def stop(self) -> None:
        """End all retries and waits: every thread that is asking gets an error."""
        self._stopped.set()

    # ---------------------------------------------------------------- trying

    def _persist(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None,
        retry: Retry,
        read: Callable[[dict[str, Any]], R],
    ) -> R:
        began, tried, nonsense = time.monotonic(), 0, 0
        key = self._key()
        blot = Blot(key)
        while True:
            if self._stopped.is_set():
                raise EndpointError("stopped", f"{self.url}: stopped before it was asked.")
            tried += 1
            try:
                return read(self._once(method, path, body, key, blot))
            except _Failed as failed:
                last = failed
            except EndpointError as error:
                said = _line(blot.text(str(error))).rstrip(".")
                last = _Failed(error.kind, said, again=error.kind != "refused")
            nonsense += last.kind == "nonsense"
            wait = retry.wait(tried, last.retry_after)
            spent = time.monotonic() - began
            enough = tried >= retry.tries or nonsense >= retry.nonsense
            if not last.again or enough or spent + wait > retry.patience:
                break
            if self._stopped.wait(wait):
                raise EndpointError("stopped", f"{self.url}: stopped while waiting for it.")
        times = f" (tried {tried} times in {spent:.0f} s)" if tried > 1 else ""
        raise EndpointError(last.kind, f"{self.url}/{path}: {last.said}{times}.", last.status)

    def _once(
        self, method: str, path: str, body: dict[str, Any] | None, key: str | None, blot: Blot
    ) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/{path}", data, method=method)
        request.add_header("Content-Type", "application/json")
        request.add_header("User-Agent", "prunescope")
        if key:
            request.add_unredirected_header("Authorization", f"Bearer {key}")
        try:
            with self._opener.open(request, timeout=self.timeout) as response:
                return _object(self._read(response), blot)
        except urllib.error.HTTPError as error:
            with error:
                raise self._status(error, blot) from None
        except TimeoutError:
            raise self._late() from None
        except (urllib.error.URLError, OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            if isinstance(reason, TimeoutError):
                raise self._late() from None
            said = _line(blot.text(f"{type(reason).__name__}: {reason}"))
            raise _Failed("down", f"no connection ({said})", again=True) from None

    def _late(self) -> _Failed:
        return _Failed("timeout", f"no whole answer within {self.timeout:g} s", again=True)

    def _read(self, response: Any) -> bytes:
        """The whole body."""
        blocks, size = [], 0
        while block := response.read1(_BLOCK):
            blocks.append(block)
            size += len(block)
            if size > MOST_BYTES:
                raise _Failed("nonsense", f"an answer of over {MOST_BYTES >> 20} MiB", again=False)
        return b"".join(blocks)

    def _status(self, error: urllib.error.HTTPError, blot: Blot) -> _Failed:
        """The failure that a reply other than 2xx means."""
        body = b""
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            body = error.read(_BLOCK)
        said = _line(_message(body, blot))
        said = f"HTTP {error.code}" + (f", {said!r}" if said else "")
        other: Failure = "server error" if error.code >= 500 else "refused"
        kind = _AGAIN.get(error.code, other)
        if error.code in (401, 403):
            named = f"${self.key_env}" if self.key_env else "no key was sent"
            said += f"; the key is not accepted ({named})"
        return _Failed(
            kind,
            said,
            again=kind != "refused",
            status=error.code,
            retry_after=_seconds(error.headers.get("Retry-After")),
        )

    # ---------------------------------------------------------------- the key

    def _key(self) -> str | None:
        """The key, without the line end or blanks that a settings file may leave around it."""
        key = os.environ.get(self.key_env, "").strip() if self.key_env else ""
        if not all(" " <= c <= "~" for c in key):
            raise UserError(
                f"The key in {self.key_env} holds a control character or one outside ASCII, which "
                f"an HTTP header cannot hold: set {self.key_env} to the key alone, on one line."
            )
        return key or None

    def _check_key(self, needed: bool) -> None:
        if not self._key():
            if needed and not self.local and self.key_env:
                raise UserError(
                    f"{self.url} needs a key: put it into the environment variable "
                    f"{self.key_env}, name another variable, or give an empty name if the "
                    f"endpoint needs no key."
                )
            return
        if not self.local and not self.url.startswith("https://"):
            raise UserError(
                f"{self.url}: the key in {self.key_env} would be sent unencrypted. Use https, a "
                f"tunnel to this machine, or an endpoint without a key."
            )


class Blot:
    """Removes a key from a server's reply. Apply it before any of the reply is cut off."""

    def __init__(self, key: str | None) -> None:
        self._key = key or ""

    def text(self, text: str) -> str:
        """An error's text with *** for the key, and for any part of it of at least 8 characters."""
        size = min(len(self._key), _PART)
        hidden: set[int] = set()
        for start in range(len(self._key) - size + 1) if size else ():
            part, at = self._key[start : start + size], -1
            while (at := text.find(part, at + 1)) >= 0:
                hidden.update(range(at, at + size))
        kept = ["\0" if i in hidden else c for i, c in enumerate(text)] if hidden else text
        return re.sub("\0+", _BLOTTED, "".join(kept))

    def json(self, found: Any) -> Any:
        """A JSON value with *** for the key in all its texts.

        A key too short to be a secret is left in place, because model output is data.
        """
        if len(self._key) < _PART:
            return found
        if isinstance(found, str):
            return found.replace(self._key, _BLOTTED)
        if isinstance(found, list):
            return [self.json(v) if isinstance(v, (str, list, dict)) else v for v in found]
        if isinstance(found, dict):
            return {self.json(k): self.json(v) for k, v in found.items()}
        return found


def _line(text: str) -> str:
    """A server's message as one short line."""
    text = re.sub(r"[^\x20-\x7e\xa0-\U0010ffff]+", " ", text).strip()
    return text if len(text) <= 300 else text[:297] + "..."


def _as_it_is(reply: dict[str, Any]) -> dict[str, Any]:
    return reply


def _checked(url: str) -> tuple[str, str]:
    """The base URL of all paths, and the host."""
    parts = urllib.parse.urlsplit(url.strip())
    try:
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        host = ""
    if parts.scheme not in ("http", "https") or not host:
        raise UserError(f"{url!r} is no endpoint: expected http://HOST:PORT or https://HOST/v1.")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UserError(
            f"The endpoint's URL at {host} holds a user, a password or a query: leave them out; a "
            f"key belongs in an environment variable."
        )
    path = parts.path.rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path or '/v1'}", host


def _is_local(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _object(body: bytes, blot: Blot) -> dict[str, Any]:
    try:
        found = blot.json(json.loads(body))
    except (ValueError, RecursionError):
        end = blot.text(body.decode(errors="replace"))[-40:]
        raise _Failed(
            "nonsense", f"{len(body)} bytes that are not JSON (ending in {end!r})", again=True
        ) from None
    if not isinstance(found, dict):
        raise _Failed("nonsense", f"JSON that is no object ({type(found).__name__})", again=True)
    return found


def _message(body: bytes, blot: Blot) -> str:
    """The message in an error's body: OpenAI's format, FastAPI's, or plain text."""
    text = body.decode(errors="replace")
    try:
        found = blot.json(json.loads(text))
    except (ValueError, RecursionError):
        return re.sub(r"<[^>]*>", " ", blot.text(text))
    for name in ("error", "detail", "message"):
        if isinstance(found, dict) and found.get(name):
            found = found[name]
    return blot.text(found if isinstance(found, str) else json.dumps(found))


def _seconds(value: str | None) -> float | None:
    """Retry-After, given as seconds or as a date."""
    if not value:
        return None
    with contextlib.suppress(ValueError):
        return max(0.0, float(value)) if value.strip().lower() not in ("nan", "inf") else None
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return None
