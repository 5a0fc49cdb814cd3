"""The HTTP side of a service: `/metrics`, `/healthz`, `/readyz` and a page, served in the hub that it runs in."""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
from typing import Any

import gevent
import gevent.socket
from gevent.pool import Pool
from gevent.pywsgi import WSGIHandler, WSGIServer

from ..errors import AddressInUse, EndpointError
from .routes import Application, is_loopback
from .source import Source

__all__ = ["HTTPServer", "listen"]

log = logging.getLogger(__name__)

_CONNECTIONS = 100  # at once; more wait until one of them is closed
_REQUEST_SECONDS = 10.0  # for a request, from waiting for it until it is answered; then the connection is closed
_STOP_SECONDS = 5.0


class HTTPServer:
    """Tells by HTTP what a source tells.

    `listener` is a host and a port, or a socket that listens, which from then on is this server's: a stop closes it. It
    runs in the hub in which it is started, once. Used in `with`, it is started and stopped.

    `address` is its host and port; once it is started, the port is the one that was found for 0.
    """

    def __init__(self, source: Source, listener: tuple[str, int] | socket.socket) -> None:
        self._source = source
        self._listener = listener if isinstance(listener, socket.socket) else None
        self.address = listener.getsockname()[:2] if isinstance(listener, socket.socket) else listener
        self._server: _Server | None = None

    def start(self) -> None:
        """Listen, and answer from now on.

        Raises `AddressInUse` where somebody else listens, and `EndpointError` where nobody can.
        """
        listener = self._listener or listen(self.address)
        self.address = listener.getsockname()[:2]
        self._server = _Server(
            gevent.socket.socket(fileno=listener.detach()),
            Application(self._source, loopback=is_loopback(self.address[0])),
            spawn=Pool(_CONNECTIONS),
            handler_class=_Connection,
            environ={"SERVER_NAME": self.address[0]},  # else it asks the DNS, in a thread that outlives the hub's
            log=None,
            error_log=None,
        )
        self._server.start()
        log.info("listening at %s", self.url)

    def stop(self, timeout: float = _STOP_SECONDS) -> None:
        """Answer what has been asked, for so many seconds at most, and close everything. May be called again."""
        if self._server is not None:
            self._server.stop(timeout)

    @property
    def url(self) -> str:
        """Where the page is."""
        return _url(self.address)

    def __enter__(self) -> HTTPServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def listen(address: tuple[str, int], shared: bool = False) -> socket.socket:
    """Listen at a host and a port. Where it is `shared`, others of this user may, too, who say the same.

    Raises `AddressInUse` where somebody else listens, and `EndpointError` where nobody can.
    """
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    try:
        return socket.create_server(address, family=family, reuse_port=shared)
    except OSError as error:
        kind = AddressInUse if error.errno == errno.EADDRINUSE else EndpointError
        why = str(error.strerror).partition(" (")[0]  # without the address, which is told as users write it
        raise kind(f"cannot listen at {_url(address)} (monitoring.http): {why}") from error


def _url(address: tuple[str, int]) -> str:
    host, port = address
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


class _Server(WSGIServer):
    """A server that, when it stops, does not wait for connections on which nothing was asked."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.idle: set[Any] = set()

    def stop(self, timeout: float | None = None) -> None:
        self.close()
        gevent.killall(list(self.idle))
        super().stop(timeout)


class _Connection(WSGIHandler):
    """A connection, with a time limit for each request. What clients do wrong is nothing to an operator."""

    server: Any
    requestline: Any
    client_address: Any

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # the client is gone before it is told that it asked wrongly
            super().handle()

    def handle_one_request(self) -> Any:
        with gevent.Timeout(_REQUEST_SECONDS) as timeout:
            try:
                return super().handle_one_request()
            except gevent.Timeout as expired:
                if expired is not timeout:
                    raise
                return None  # which closes it

    def read_requestline(self) -> Any:
        current = gevent.getcurrent()
        self.server.idle.add(current)
        try:
            return super().read_requestline()
        finally:
            self.server.idle.discard(current)

    def handle_one_response(self) -> None:
        super().handle_one_response()
        if self.server.closed:
            self.close_connection = True

    def handle_error(self, _type: Any, error: Any, _traceback: Any) -> None:
        """The client is gone, or has no more time, or the server has none: the application itself raises nothing."""
        log.debug("%s: %r", self.client_address, error)
        self.close_connection = True

    def _handle_client_error(self, ex: Any) -> Any:
        return super()._handle_client_error(  # type: ignore[misc] # a hook, though its name is private
            ex if isinstance(ex, ValueError) else ValueError(repr(ex))
        )

    def log_request(self) -> None:
        log.debug("%s: %r: %s", self.client_address, self.requestline, self.status)

    def log_error(self, msg: str, *args: Any) -> None:
        log.debug(msg, *args)
