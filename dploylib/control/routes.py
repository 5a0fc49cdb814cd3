"""What is asked of a service by HTTP, and the answers: a WSGI application."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import logging
import re
from collections.abc import Callable
from http import HTTPStatus
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from ..errors import MissingPackage
from .snapshot import Snapshot
from .source import Source

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

__all__ = ["Answer", "Application", "is_loopback"]

log = logging.getLogger(__name__)

_TEXT = "text/plain; charset=utf-8"


class Answer(NamedTuple):
    """The answer to a request."""

    status: HTTPStatus
    body: bytes
    type: str = _TEXT
    headers: tuple[tuple[str, str], ...] = ()


class Application:
    """Answers what is asked about the service of a source.

    With `loopback`, only those may ask who call this machine `localhost` or by an address of its loopback interface: a
    page of the web cannot, whose name somebody has made to mean this machine (DNS rebinding).
    """

    def __init__(self, source: Source, *, loopback: bool) -> None:
        self._source = source
        self._loopback = loopback
        self._page = resources.files(__package__).joinpath("page.html").read_bytes()
        self._headers = [
            ("Cache-Control", "no-store"),
            ("Content-Security-Policy", _policy(self._page)),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Referrer-Policy", "no-referrer"),
            ("X-Content-Type-Options", "nosniff"),
        ]
        self._routes: dict[str, Callable[[WSGIEnvironment], Answer]] = {
            "/": self._show_page,
            "/api/statistics": self._statistics,
            "/healthz": self._alive,
            "/metrics": self._metrics,
            "/readyz": self._ready,
        }
        self._exposition: Callable[[Source, str], tuple[str, bytes]] | None = None
        self._missing = ""
        try:
            from .metrics import exposition

            self._exposition = exposition
        except MissingPackage as error:
            self._missing = str(error)
            log.warning("%s", error)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        """Answer a request, as PEP 3333 has it."""
        try:
            answer = self._answer(environ)
        except Exception:
            log.exception("could not answer a request for %r", environ["PATH_INFO"])
            answer = _text(HTTPStatus.INTERNAL_SERVER_ERROR, "this failed, see the log of the service")
        start_response(
            f"{answer.status.value} {answer.status.phrase}",
            [
                ("Content-Type", answer.type),
                ("Content-Length", str(len(answer.body))),
                *answer.headers,
                *self._headers,
            ],
        )
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else answer.body]

    def _answer(self, environ: WSGIEnvironment) -> Answer:
        host = environ.get("HTTP_HOST")
        if host is None and environ["SERVER_PROTOCOL"] == "HTTP/1.1":
            return _text(HTTPStatus.BAD_REQUEST, "there is no Host")
        if self._loopback and host is not None and not _names_loopback(host):
            return _text(HTTPStatus.MISDIRECTED_REQUEST, "ask for localhost: this listens on the loopback interface")
        route = self._routes.get(environ["PATH_INFO"])
        if route is None:
            return _text(HTTPStatus.NOT_FOUND, f"there is nothing but {' '.join(self._routes)}")
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _text(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD", ("Allow", "GET, HEAD"))
        return route(environ)

    def _show_page(self, _: WSGIEnvironment) -> Answer:
        return Answer(HTTPStatus.OK, self._page, "text/html; charset=utf-8")

    def _statistics(self, _: WSGIEnvironment) -> Answer:
        return Answer(HTTPStatus.OK, Snapshot(self._source).as_json(), "application/json")

    def _metrics(self, environ: WSGIEnvironment) -> Answer:
        if self._exposition is None:
            return _text(HTTPStatus.NOT_IMPLEMENTED, self._missing)
        kind, body = self._exposition(self._source, environ.get("HTTP_ACCEPT", ""))
        return Answer(HTTPStatus.OK, body, kind)

    def _alive(self, _: WSGIEnvironment) -> Answer:
        health = self._source.health()
        return _text(HTTPStatus.OK, "alive") if health.alive else _unavailable("not alive", health.state, health.why)

    def _ready(self, _: WSGIEnvironment) -> Answer:
        health = self._source.health()
        return _text(HTTPStatus.OK, "ready") if health.ready else _unavailable("not ready", health.state, health.why)


def _text(status: HTTPStatus, text: str, *headers: tuple[str, str]) -> Answer:
    return Answer(status, f"{text}\n".encode(), headers=headers)


def _unavailable(what: str, state: str, why: list[str]) -> Answer:
    return _text(HTTPStatus.SERVICE_UNAVAILABLE, "\n".join([f"{what}: {state}", *why]))


def is_loopback(host: str) -> bool:
    """Whether a host is `localhost` or an address of the loopback interface."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _names_loopback(header: str) -> bool:
    """Whether the header Host says so, whatever the port: that of a tunnel is another one."""
    try:
        return is_loopback(urlsplit(f"//{header}").hostname or "")
    except ValueError:
        return False


def _policy(page: bytes) -> str:
    """The Content-Security-Policy that allows what is in the page, by its hashes, and what that asks this server."""

    def hashes(element: bytes) -> str:
        contents: list[Any] = re.findall(b"<%b>(.*?)</%b>" % (element, element), page, re.DOTALL)
        digests = [base64.b64encode(hashlib.sha256(one).digest()).decode() for one in contents]
        return " ".join(f"'sha256-{digest}'" for digest in digests)

    return (
        f"default-src 'none'; script-src {hashes(b'script')}; style-src {hashes(b'style')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
