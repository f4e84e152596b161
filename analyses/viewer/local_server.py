"""The server of the viewer: this machine only, read-only.

It listens on 127.0.0.1, answers GET and HEAD, and refuses a request whose Host header names
another place: a page of a foreign site cannot reach it under a name of its own (DNS rebinding). The
page may load nothing from elsewhere and run no inline script (Content-Security-Policy).
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from analyses.viewer import page_assets
from analyses.viewer.links import HOST, PORT
from analyses.viewer.viewed_study import ViewedStudy
from interp.errors import UserError

LONGEST_QUERY = 400  # characters
MOST_TEXTS = 100  # per request
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class SafeHeaders:
    """Adds `HEADERS` to every answer, errors included.

    Args:
        app: the application that answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(k.lower().encode(), v.encode()) for k, v in HEADERS.items()]
                message["headers"] = [*message.get("headers", []), *own]
            await send(message)

        await self._app(scope, receive, with_headers)


def viewer_app(study: ViewedStudy) -> Starlette:
    """The application that shows a study.

    Args:
        study: the open study.

    Returns:
        An ASGI application.
    """
    overview: list[Response] = []

    def whole(_: Request) -> Response:
        if not overview:
            overview.append(as_json(study.overview))
        return overview[0]

    def texts(request: Request) -> Response:
        rows = [_number(part) for part in request.query_params.get("rows", "").split(",")]
        return as_json(study.texts(rows[:MOST_TEXTS]))

    def search(request: Request) -> Response:
        return as_json(study.search(request.query_params.get("q", "")[:LONGEST_QUERY]))

    def kl(request: Request) -> Response:
        variant = request.query_params.get("variant", "")
        return as_json(study.kl(request.path_params["row"], variant))

    routes = [
        _static("/", page_assets.served_page(), "text/html"),
        _static("/viewer.css", page_assets.asset(page_assets.STYLE), "text/css"),
        _static("/viewer.js", page_assets.script(), "text/javascript"),
        Route("/api/overview", whole),
        Route("/api/check", _said(lambda _: as_json(study.check.result()))),
        Route("/api/search", _said(search)),
        Route("/api/texts", _said(texts)),
        Route("/api/chain/{row:int}", _said(lambda r: as_json(study.chain(r.path_params["row"])))),
        Route("/api/forks/{row:int}", _said(lambda r: as_json(study.forks(r.path_params["row"])))),
        Route("/api/kl/{row:int}", _said(kl)),
    ]
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"], www_redirect=False)
    return Starlette(routes=routes, middleware=[Middleware(SafeHeaders), hosts])


def serve(study: ViewedStudy, place: socket.socket) -> None:
    """Serve a study until Ctrl-C, or until it turns out to be damaged.

    Args:
        study: the open study.
        place: a listening socket (`listening`); it is closed at the end.

    Raises:
        DamagedStoreError: a row is not as it was written.
    """
    import uvicorn

    config = uvicorn.Config(
        viewer_app(study),
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="off",
    )
    server = uvicorn.Server(config)

    def end_if_damaged(check: Future[None]) -> None:
        if check.exception() is not None:
            server.should_exit = True

    study.check.add_done_callback(end_if_damaged)
    with place:
        server.run(sockets=[place])
    if study.check.done():
        study.check.result()


def listening(port: int | None) -> socket.socket:
    """A listening socket on this machine's own address.

    Args:
        port: the port; None takes `PORT`, or a free one where that is taken.

    Returns:
        The socket.

    Raises:
        UserError: the port is taken.
    """
    for wanted in (PORT, 0) if port is None else (port,):
        place = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            place.bind((HOST, wanted))
        except (OSError, OverflowError) as error:
            place.close()
            if wanted == PORT and port is None:
                continue
            raise UserError(
                f"Cannot listen on port {wanted} ({error}); choose another one with --port, or "
                "leave it out for a free one."
            ) from None
        place.listen(128)
        return place
    raise AssertionError("port 0 is always free")


def as_json(value: Any, status: int = 200) -> Response:
    """JSON in ASCII, so that lone surrogates can be sent."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Response(text, status, media_type="application/json")


def _static(path: str, text: str, kind: str) -> Route:
    return Route(path, lambda _: Response(text, media_type=kind))


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise UserError(f"{text[:40]!r} is not the number of a row.")
    return int(text)


def _said(answer: Callable[[Request], Response]) -> Callable[[Request], Response]:
    """A caller's mistake as an answer with its text."""

    def safe(request: Request) -> Response:
        try:
            return answer(request)
        except UserError as error:
            return as_json({"error": str(error)}, 400)

    return safe
