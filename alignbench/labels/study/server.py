"""The study's pages and their requests, by Starlette.

A link has its secret after "#", so the secret reaches no log and no other site. The page sends it in the header
Authorization: without cookies, no other site can make a request as a labeler. Requests that change something must also
be JSON and come from the same origin.
"""

import socket
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from alignbench.errors import AlignbenchError, first_line
from alignbench.labels.study.answers import LONGEST, NOTE, REASONS, Submission, Undo, parse
from alignbench.labels.study.results import Rule, overview, stopped
from alignbench.labels.study.store import ConflictError, Study
from alignbench.labels.table import LIKERT, WORDS

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route
except ImportError as error:
    raise AlignbenchError(
        f"the labeling page cannot be served ({first_line(error)}): pip install 'alignbench[labels]'"
    ) from None

PAGES = Path(__file__).parent / "page"
KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}  # fmt: skip
FLAG_TEXTS: dict[str, str] = WORDS["flag_texts"]
ASKED: dict[str, Any] = {"flags": FLAG_TEXTS, "likert": LIKERT, "reasons": REASONS, "longest_note": NOTE}
Answer = Callable[[Request, str], Awaitable[Any]]


class Refused(Exception):  # noqa: N818
    """An answer other than 200; the message is for the reader of the page."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def make_app(study: Study, rule: Rule, address: str = "") -> Starlette:
    """The application. rule: of the admin view; address: where the page is, if a proxy may rewrite the header Host"""
    origin = "/".join(address.lower().split("/")[:3])

    async def state(request: Request, labeler: str) -> Any:
        return await run_in_threadpool(_state, study, labeler)

    async def submit(request: Request, labeler: str) -> Any:
        await run_in_threadpool(study.submit, labeler, parse(Submission, await _body(request)))
        return await state(request, labeler)

    async def undo(request: Request, labeler: str) -> Any:
        await run_in_threadpool(study.undo, labeler, parse(Undo, await _body(request)).submission)
        return await state(request, labeler)

    async def admin(request: Request, labeler: str) -> Any:
        return await run_in_threadpool(overview, study, rule)

    def api(path: str, answer: Answer, method: str, *, of_admin: bool = False) -> Route:
        return Route(path, partial(_answered, study, answer, of_admin, origin), methods=[method])

    return Starlette(
        routes=[
            Route("/", partial(_file, "label.html")),
            Route("/admin", partial(_file, "admin.html")),
            *(Route(f"/{path.name}", partial(_file, path.name)) for path in PAGES.iterdir() if path.suffix != ".html"),
            api("/api/state", state, "GET"),
            api("/api/submit", submit, "POST"),
            api("/api/undo", undo, "POST"),
            api("/api/admin", admin, "GET", of_admin=True),
        ]
    )


def _state(study: Study, labeler: str) -> dict[str, Any]:
    return study.state(labeler, stopped(study)) | {"asked": ASKED}


async def _file(name: str, request: Request) -> Response:
    path = PAGES / name
    return Response(path.read_bytes(), headers=HEADERS, media_type=f"{KINDS[path.suffix]}; charset=utf-8")


async def _answered(study: Study, answer: Answer, of_admin: bool, own: str, request: Request) -> Response:
    try:
        kind, _, secret = request.headers.get("authorization", "").partition(" ")
        who = await run_in_threadpool(study.labeler_of, secret) if kind == "Bearer" and secret else None
        if who is None or (who == "") is not of_admin:
            raise Refused(403, "This link is not valid. Ask for a new one.")
        if request.method == "POST":
            _check_origin(request, own)
        return _json(await answer(request, who))
    except Refused as refused:
        return _json({"error": str(refused)}, refused.status)
    except ConflictError as conflict:
        return _json({"error": str(conflict)}, 409)
    except ValueError as error:
        return _json({"error": first_line(error)}, 422)
    except ClientDisconnect:
        return Response(status_code=400)  # nobody reads it


def _check_origin(request: Request, own: str) -> None:
    """own: an origin that is accepted besides that of the header Host"""
    origin, host = request.headers.get("origin"), request.headers.get("host", "")
    foreign = origin not in (None, own) and origin.partition("://")[2] != host
    if foreign or request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise Refused(403, "Requests from other sites are refused.")
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise Refused(415, "Send JSON.")


async def _body(request: Request) -> bytes:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > LONGEST:
            raise Refused(413, f"A request may have at most {LONGEST:,} bytes.")
    return body


def _json(content: Any, status: int = 200) -> Response:
    return JSONResponse(content, status, HEADERS)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises AlignbenchError if that is not possible."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise AlignbenchError(f"{host} port {port}: cannot listen ({error}); choose another --port or --host") from None


def serve(app: Starlette, listening: socket.socket) -> None:
    """Answer requests until the process is interrupted or terminated; then SystemExit, so that the file is closed."""
    config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", server_header=False)
    uvicorn.Server(config).run(sockets=[listening])
