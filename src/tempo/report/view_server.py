"""The server of `tempo view`: the page, the rows and the videos of a run. Only this machine can use it."""

import contextlib
import secrets
import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn
from jinja2 import Environment, PackageLoader
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from tempo.report.view import RunView

#: The page may load nothing from elsewhere.
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; style-src 'unsafe-inline'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def make_app(view: RunView, token: str) -> Starlette:
    """The application. It answers only requests to this machine that have the token.

    The token is in the address that a person opens, and from then on in a cookie.
    """
    environment = Environment(loader=PackageLoader("tempo.report"), autoescape=True, trim_blocks=True)

    async def guard(request: Request, call_next: RequestResponseEndpoint) -> Response:
        # All ports of a host share their cookies.
        name, given = f"tempo-{request.url.port}", request.query_params.get("token", "")
        if not secrets.compare_digest((given or request.cookies.get(name, "")).encode(), token.encode()):
            return PlainTextResponse("Open the address that `tempo view` printed.", 403)
        response = await call_next(request)
        response.headers.update(HEADERS)
        if given:
            response.set_cookie(name, token, httponly=True, samesite="strict")
        return response

    def page(request: Request) -> Response:
        name = view.directory.resolve().name
        return HTMLResponse(environment.get_template("view.html.jinja").render(name=name, **view.choices()))

    def script(request: Request) -> Response:
        return FileResponse(Path(__file__).with_name("templates") / "view.js")

    def rows(request: Request) -> Response:
        return JSONResponse(view.select(request.query_params))

    def item(request: Request) -> Response:
        return JSONResponse(view.detail(request.query_params.get("id", "")))

    def video(request: Request) -> Response:
        if not (path := view.path(request.query_params.get("id", ""))).is_file():
            raise LookupError(f"{path} does not exist any more")
        return FileResponse(path)

    def frame(request: Request) -> Response:
        stored = view.frames(request.query_params.get("id", ""))
        frames = {str(place): jpeg for place, jpeg in enumerate(stored.jpegs if stored else ())}
        return Response(frames[request.query_params.get("number", "")], media_type="image/jpeg")

    async def review(request: Request) -> Response:
        # A page of another server cannot send this type: its browser would first ask this one, which refuses.
        if request.headers.get("content-type") != "application/json":
            raise HTTPException(415)
        sent = await request.json()
        view.review(sent["id"], sent["decision"])
        return JSONResponse({})

    return Starlette(
        routes=[
            Route("/", page),
            Route("/view.js", script),
            Route("/list", rows),
            *(Route(f"/{answer.__name__}", answer) for answer in (item, video, frame)),
            Route("/review", review, methods=["POST"]),
        ],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"]),
            Middleware(BaseHTTPMiddleware, dispatch=guard),
        ],
        exception_handlers={
            ValueError: lambda request, error: PlainTextResponse(str(error), 400),
            LookupError: lambda request, error: PlainTextResponse(str(error), 404),
        },
    )


def serve(view: RunView, *, port: int, show: Callable[[str], None]) -> None:
    """Serves the page until Ctrl-C; calls `show` with its address. Port 0 means any free port.

    Raises ValueError if the port cannot be used.
    """
    token = secrets.token_urlsafe(24)
    try:
        listener = socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise ValueError(f"--port {port} cannot be used ({error}). Choose another one") from None
    with listener:
        show(f"http://127.0.0.1:{listener.getsockname()[1]}/?token={token}")
        # Browsers keep connections open; the server does not wait for them to close.
        config = uvicorn.Config(make_app(view, token), log_level="error", timeout_graceful_shutdown=1)
        # uvicorn raises the signal again after it has stopped.
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])
