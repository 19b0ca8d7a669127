"""Serves the page of a running sweep on this machine, and nothing else: the page, and its data as JSON."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from functools import cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from analysis.runs import ReportError, find_named_runs
from analysis.watching.live_run import LiveRun
from lopt.locations import Location, RemoteLocation, display_path, to_location

HOST, DEFAULT_PORT = "127.0.0.1", 8321
_LOCAL_NAMES = {"127.0.0.1", "localhost", "[::1]"}


class PageServer(ThreadingHTTPServer):
    """An HTTP server on the loopback interface with the page of one run.

    Raises:
        OSError: The port is in use.
    """

    daemon_threads = True

    def __init__(self, live_run: LiveRun, port: int) -> None:
        self.live_run = live_run
        super().__init__((HOST, port), _Handler)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        # A page of another site could reach this server under a name of its own. Only local names are answered.
        if self.headers.get("Host", "").rpartition(":")[0] not in _LOCAL_NAMES:
            self._answer(HTTPStatus.FORBIDDEN, "text/plain", b"this page is for this machine only\n")
            return
        url = urlsplit(self.path)
        if url.path == "/":
            nonce = secrets.token_hex(16)
            policy = (
                f"default-src 'none'; style-src 'unsafe-inline'; script-src 'nonce-{nonce}'; connect-src 'self'; "
                "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
            )
            page = _template().render(nonce=nonce).encode()
            self._answer(HTTPStatus.OK, "text/html; charset=utf-8", page, policy)
        elif url.path == "/state":
            query = parse_qs(url.query)
            is_same_session = query.get("session") == [self.server.live_run.session]
            since = next(iter(query.get("since", ["0"])), "0")
            state = self.server.live_run.state(int(since) if is_same_session and since.isdecimal() else 0)
            self._answer(HTTPStatus.OK, "application/json", json.dumps(state, allow_nan=False).encode())
        else:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"there is only / and /state\n")

    def _answer(
        self, status: HTTPStatus, content_type: str, content: bytes, policy: str = "default-src 'none'"
    ) -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Type", content_type),
            ("Content-Length", str(len(content))),
            ("Cache-Control", "no-store"),
            ("Content-Security-Policy", policy),
            ("X-Content-Type-Options", "nosniff"),
        ):
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # the page was closed
            self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        """Requests are not news."""


@cache
def _template():  # type: ignore[no-untyped-def]
    folder = Path(__file__).resolve().parent.parent / "templates"
    environment = Environment(loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("watch.html.j2")


def watch(names: list[str], root: Location, port: int | None) -> int:
    """Serve the page of a run until Ctrl-C, and return the exit code.

    Args:
        names: the run; the newest one if this is empty. It may be one that does not exist yet.
        root: the location of all runs.
        port: the port; None is `DEFAULT_PORT`, or any free port if that one is in use.

    Raises:
        ReportError: There is no run, several were named, or the port is in use.
    """
    if len(names) > 1:
        raise ReportError(f"--watch shows one run; you gave {len(names)}: start one command for each")
    location = _location_of(names, root)
    server = _start_server(LiveRun(location), port)
    with contextlib.suppress(OSError):
        os.nice(10)  # the sweep comes first
    print(f"watching {display_path(location)}: {server.url}", flush=True)
    ssh_command = f"ssh -L {server.server_port}:{HOST}:{server.server_port} HOST"
    print(
        f"Ctrl-C ends the page, not the sweep. From another machine: {ssh_command}, then the same address", flush=True
    )
    with contextlib.suppress(KeyboardInterrupt), server:
        server.serve_forever()
    return 0


def _location_of(names: list[str], root: Location) -> Location:
    """Return the location of a run, even if the run does not exist yet."""
    try:
        return find_named_runs(names, root)[0]
    except ReportError:
        if not names:
            raise
    location = to_location(names[0])
    is_path = isinstance(location, RemoteLocation) or len(location.parts) > 1
    return location if is_path else root / names[0]


def _start_server(live_run: LiveRun, port: int | None) -> PageServer:
    try:
        return PageServer(live_run, DEFAULT_PORT if port is None else port)
    except OSError as error:
        if port is not None:
            raise ReportError(
                f"--port {port} cannot be used ({error.strerror}): give another one, or leave it out"
            ) from None
    return PageServer(live_run, 0)
