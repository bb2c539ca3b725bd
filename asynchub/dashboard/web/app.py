"""The server's application: what it answers to whom, behind its guard.

``GET /api/runs``, ``/api/table``, ``/api/differences``, ``/api/screen``, ``/api/keys``, ``/api/marks``,
``/api/export``; ``POST /api/curves``, ``/api/what-if``, ``/api/ticket``; the live feed ``/api/live``; and the files of
the page. ``POST /api/requests`` is there only if something may be asked for.

Answers: JSON, of errors too (``{"error": words}``); of curves the message of ``asynchub.dashboard.web.wire``.
Work: whatever reads runs is done in one thread, never on the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from asynchub.dashboard.web.feeding import feed
from asynchub.dashboard.web.guard import LIVE_PATH, MOST_SOCKETS, ROLE, Guard, Names
from asynchub.dashboard.web.live import Live
from asynchub.dashboard.web.page_files import PageFile
from asynchub.dashboard.web.source import Source
from asynchub.dashboard.web.tokens import Tokens
from asynchub.dashboard.web.wanted import CurvesWanted, as_json, curves_wanted, number_in, table_wanted
from asynchub.dashboard.web.wire import changes, encode, to_json
from asynchub.dashboard.web.worker import Worker
from asynchub.errors import ArgumentError, AsyncHubError, LifecycleError, PatternError, WaitTimeoutError

try:
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute, Route, WebSocketRoute
    from starlette.websockets import WebSocket
except ImportError as error:
    raise ImportError("asynchub serve needs starlette: python -m pip install 'asynchub[serve]'") from error

__all__ = ("web_app",)

CLOSING_SECONDS = 2.0
WHAT_IF_SECONDS = 2.0
"""How long an answer waits for what is not known yet; the page asks again."""
TABLE_SECONDS = 0.5
"""The same of a table, of which what is known can be looked at meanwhile."""
LOOK_AGAIN = 0.05
LARGEST_STEP = 2**63 - 1
ONE_PAGE = 200
STATUSES: tuple[tuple[type[Exception], int], ...] = (
    (ArgumentError, 400),
    (PatternError, 400),
    (LookupError, 404),
    (WaitTimeoutError, 503),
    (LifecycleError, 503),
    (AsyncHubError, 409),
    (OSError, 409),
)
"""The status of an answer, by the error that it says; 409: a run does not let itself be read, or be asked."""

Answer = Callable[[Request], Awaitable[Any]]


def web_app(
    source: Source,
    names: Names,
    tokens: Tokens,
    files: Mapping[str, PageFile],
    *,
    export: Callable[[Any, tuple[str, ...]], str] | None = None,
) -> Guard:
    """Return the application.

    Args:
        source: of what is told; it is closed when the server ends.
        names: under which the server is addressed.
        tokens: who may look, and who may steer.
        files: of the page.
        export: called with the view of a run and some keys, returns a page of its own; None for no such page.
    """
    api = _Api(source, tokens, export)
    routes: list[BaseRoute] = [
        Route("/api/runs", _answered(api.runs)),
        Route("/api/table", _answered(api.table)),
        Route("/api/differences", _answered(api.differences)),
        Route("/api/screen", _answered(api.screen)),
        Route("/api/keys", _answered(api.keys)),
        Route("/api/marks", _answered(api.marks)),
        Route("/api/curves", _answered(api.curves), methods=["POST"]),
        Route("/api/what-if", _answered(api.what_if), methods=["POST"]),
        Route("/api/ticket", _answered(api.ticket), methods=["POST"]),
        WebSocketRoute(LIVE_PATH, api.live_feed),
        *(Route(path, partial(_file, file)) for path, file in files.items()),
    ]
    if export is not None:
        routes.append(Route("/api/export", _answered(api.export)))
    if source.steering.rules:
        routes.append(Route("/api/requests", _answered(api.request), methods=["POST"]))
    app = Starlette(routes=routes, lifespan=api.living, exception_handlers={HTTPException: _refused})
    app.router.redirect_slashes = False
    return Guard(app, names, tokens, files.keys())


class _Api:
    """What is answered."""

    def __init__(self, source: Source, tokens: Tokens, export: Callable[[Any, tuple[str, ...]], str] | None) -> None:
        self._source = source
        self._tokens = tokens
        self._export = export
        self._worker = Worker("asynchub serve")
        self._live = Live(self._worker, source)

    @asynccontextmanager
    async def living(self, _: Starlette) -> AsyncIterator[None]:
        """Tell viewers while the server runs; then let go of the runs."""
        telling = asyncio.create_task(self._live.run())
        try:
            yield
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)
            try:
                async with asyncio.timeout(CLOSING_SECONDS):
                    await self._worker.call(self._source.runs.close)
            except (TimeoutError, WaitTimeoutError, OSError):  # the caches can be made again
                pass
            self._worker.close()

    async def live_feed(self, socket: WebSocket) -> None:
        """Tell a viewer."""
        await feed(socket, self._live, socket.scope[ROLE])

    async def runs(self, request: Request) -> Any:
        """Answer with the list of runs."""
        return await self._read([], self._source.rows, request.query_params.get("filter", ""), request.scope[ROLE])

    async def table(self, request: Request) -> Any:
        """Answer with runs in an order, and figures of a scalar."""
        wanted = table_wanted(request.query_params)
        deadline = time.monotonic() + TABLE_SECONDS
        while True:
            answer: dict[str, Any] = await self._read([], self._source.compared.table, wanted)
            if not answer["more"] or time.monotonic() > deadline:
                return answer
            await asyncio.sleep(LOOK_AGAIN)

    async def differences(self, request: Request) -> Any:
        """Answer with what runs were told to do differently."""
        runs = request.query_params.getlist("run")
        return await self._read([], self._source.compared.differences, runs, request.query_params.get("filter", ""))

    async def screen(self, request: Request) -> Any:
        """Answer with the first screen of a run."""
        run = _run(request)
        return await self._read([run], self._source.screen, run, request.scope[ROLE])

    async def keys(self, request: Request) -> Any:
        """Answer with scalars of a run."""
        start = _number(request, "start", 0, 0)
        most = _number(request, "most", ONE_PAGE, 1)
        run, test = _run(request), request.query_params.get("filter", "")
        return await self._read([run], self._source.keys, run, test, start or 0, most or ONE_PAGE)

    async def marks(self, request: Request) -> Any:
        """Answer with decisions about a run."""
        start, stop = (_number(request, name, None, -LARGEST_STEP) for name in ("start", "stop"))
        most = _number(request, "most", ONE_PAGE, 1)
        run, key = _run(request), request.query_params.get("key", "")
        return await self._read([run], self._source.marks, run, key, start, stop, most or ONE_PAGE)

    async def curves(self, request: Request) -> Any:
        """Answer with curves."""
        wanted = curves_wanted(as_json(await request.body()))
        message = await self._read(wanted.runs, self._encoded, wanted, whole=False)
        return Response(message, media_type="application/octet-stream")

    def _encoded(self, wanted: CurvesWanted) -> bytes:
        return encode(changes({}, self._source.charts(wanted)))

    async def what_if(self, request: Request) -> Any:
        """Answer with what a rule would have done."""
        fields = as_json(await request.body())
        runs, rule = fields.get("runs"), fields.get("rule")
        if not isinstance(rule, str) or not isinstance(runs, list) or not all(isinstance(run, str) for run in runs):
            raise ArgumentError(f"runs, a list of ids, and a rule, as text, are wanted, got {fields!r:.200}")
        deadline = time.monotonic() + WHAT_IF_SECONDS
        while True:
            answer: dict[str, Any] = await self._read(runs, self._source.try_rule, runs, rule, whole=False)
            if not answer.get("waiting") or time.monotonic() > deadline:
                return answer
            await asyncio.sleep(LOOK_AGAIN)

    async def request(self, request: Request) -> Any:
        """Ask something of a run."""
        if request.scope[ROLE] != "steer":
            raise HTTPException(403, "this token is for looking: steering has one of its own")
        return await self._worker.call(self._source.ask, as_json(await request.body()))

    async def export(self, request: Request) -> Any:
        """Answer with a page that stands by itself, to be kept."""
        keys = tuple(request.query_params.getlist("keys"))
        run = _run(request)
        text = await self._read([run], self._exported, run, keys)
        headers = {
            "content-disposition": 'attachment; filename="run.html"',
            "content-security-policy": "sandbox; default-src 'none'",  # here it is for keeping, not for opening
        }
        return Response(text, media_type="text/html", headers=headers)

    def _exported(self, run: str, keys: tuple[str, ...]) -> str:
        if self._export is None:
            raise LookupError("this server makes no pages to keep")
        return self._export(self._source.runs.run(run), keys)

    async def ticket(self, request: Request) -> Any:
        """Answer with a ticket for the live feed."""
        if self._live.viewers >= MOST_SOCKETS:
            raise HTTPException(503, f"{MOST_SOCKETS} pages look at this server already: close one of them")
        return {"ticket": self._tokens.new_ticket(request.scope[ROLE])}

    async def _read(
        self, runs: Sequence[str], function: Callable[..., Any], *arguments: Any, whole: bool = True
    ) -> Any:
        """Return what a function says of some runs, once these, or their curves only, are up to date."""

        def read() -> Any:
            self._source.fresh(runs, whole=whole)
            return function(*arguments)

        return await self._worker.call(read)


def _run(request: Request) -> str:
    return str(request.query_params.get("run", ""))


def _number(request: Request, name: str, default: int | None, low: int) -> int | None:
    text = request.query_params.get(name, "")
    return default if text == "" else number_in(text, name, low, LARGEST_STEP)


def _answered(answer: Answer) -> Answer:
    """Return a route that answers in JSON, errors too."""

    async def answered(request: Request) -> Response:
        try:
            found = await answer(request)
        except tuple(kind for kind, _ in STATUSES) as error:
            status = next(status for kind, status in STATUSES if isinstance(error, kind))
            words = str(error.args[0]) if isinstance(error, LookupError) and error.args else str(error)
            return _error(status, words)
        return found if isinstance(found, Response) else Response(to_json(found), media_type="application/json")

    return answered


async def _file(file: PageFile, _: Request) -> Response:
    return Response(file.content, headers={"content-type": file.kind, "cache-control": "no-cache"})


async def _refused(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return _error(status, error.detail if isinstance(error, HTTPException) else "the server failed")


def _error(status: int, words: str) -> Response:
    return Response(to_json({"error": words}), status, media_type="application/json")
