"""Declaring the sockets and handlers of a server, and reading the declarations of a server class."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, overload

from ..config import Declared
from ..connecting import keep_connected
from ..errors import DeclarationError, UnknownOption, UnknownSocketType
from ..security import Credentials
from ..transport import MAX_FRAMES, SOCKET_TYPES, Context, Sender, Socket
from ..transport.codecs import ObjectDecoder
from ..transport.monitor import count_connections
from ..transport.options import Options, option_pairs, option_value, socket_type_constant
from ..transport.publishing import confirm_subscriptions
from .limits import default_options as limits_of

__all__ = [
    "Handler",
    "Periodic",
    "ServerDescription",
    "SocketDescription",
    "allow",
    "bind",
    "bind_in",
    "connect",
    "connect_in",
    "every",
]

InputHandler = Callable[[Any, Any, Any], Any]
"""Called with the server, the socket (or the reply socket of a caller) and the `ReceivedData`."""

_CANNOT_LISTEN = {
    "pub": "it receives nothing",
    "push": "it receives nothing",
    "req": "it receives only after it sent: receive where you send, or use a dealer",
    "xpub": "it receives subscriptions, which are no envelopes: receive_frames() in a greenlet of self.spawn()",
    "stream": "it receives raw bytes, which are no envelopes: receive_frames() in a greenlet of self.spawn()",
}
ANSWERING_TYPES = ("rep", "router", "dealer", "pair")
"""Socket types with handlers on which something can be sent back."""

_GROUPS = "_dploylib_groups"  # the attribute of a handler that is for some groups
_OVERLOAD = ("wait", "reject")
_REPLY_PATIENCE = 5000  # milliseconds
_INLINE_PATIENCE = 200


class SocketDescription:
    """Describes one socket of a server: what `bind_in`, `bind`, `connect_in` and `connect` make.

    `name` is what the configuration calls the socket; `setup_type` is "bind" or "connect". A socket with an
    `input_handler` listens; `deserializer` is what `obj=` gave. `concurrency` is how many handlers may run at once,
    `timeout` how many seconds each of them has (None: as many as it wants). `overload` says what happens to messages
    while all of them run: "wait" lets them wait, in the queues of ZeroMQ, until their peers have to wait too; "reject"
    answers each at once with a problem. `max_frames` is how many frames a message may have. `default_options` are set
    before those of the configuration, and after the `limits` that every socket of a server has. An `optional` socket
    may be left out of the configuration, and then is not there. A message of an `idempotent` one may be handled twice:
    where several workers run the server, another one gets it when one dies with it. `groups` are those for whom the
    handler is, None for everybody: see `allow`.

    Raises `DeclarationError` when these do not go together.
    """

    def __init__(
        self,
        name: str,
        socket_type: str,
        setup_type: str,
        input_handler: InputHandler | None = None,
        deserializer: Any = None,
        default_options: Options | None = None,
        concurrency: int = 1,
        timeout: float | None = None,
        overload: str = "wait",
        max_frames: int = MAX_FRAMES,
        optional: bool = False,
        idempotent: bool = False,
    ) -> None:
        self.name = name
        self.socket_type = socket_type
        self.setup_type = setup_type
        self.input_handler = input_handler
        self.deserializer = deserializer
        self.decoder = self._checked_decoder(deserializer)
        self.default_options = self._checked_options(default_options)
        self.concurrency = concurrency
        self.timeout = timeout
        self.overload = overload
        self.max_frames = max_frames
        self.optional = optional
        self.idempotent = idempotent
        self.groups: frozenset[str] | None = getattr(input_handler, _GROUPS, None)
        self.attribute = name  # until __set_name__ says better
        self._check()

    def _check(self) -> None:
        where = f"socket {self.name!r}"
        if not isinstance(self.name, str) or not self.name:
            raise DeclarationError(f"the name of a socket is a str, not {self.name!r}")
        try:
            socket_type_constant(self.socket_type)
        except UnknownSocketType as error:
            raise DeclarationError(f"{where}: {error}") from None
        if self.setup_type not in ("bind", "connect"):
            raise DeclarationError(f"{where}: the setup type is 'bind' or 'connect', not {self.setup_type!r}")
        if self.input_handler is not None and self.socket_type in _CANNOT_LISTEN:
            raise DeclarationError(
                f"{where}: a {self.socket_type} socket can have no handler ({_CANNOT_LISTEN[self.socket_type]}); "
                f"use {self.setup_type}() instead of {self.setup_type}_in()"
            )
        if not _is_whole(self.concurrency) or self.concurrency < 1:
            raise DeclarationError(f"{where}: concurrency is a whole number from 1 on, not {self.concurrency!r}")
        if not _is_whole(self.max_frames) or not 3 <= self.max_frames <= MAX_FRAMES:
            raise DeclarationError(
                f"{where}: max_frames is a whole number from 3 to {MAX_FRAMES}, not {self.max_frames!r}"
            )
        if self.timeout is not None and not _is_seconds(self.timeout):
            raise DeclarationError(f"{where}: timeout is a number of seconds above 0, not {self.timeout!r}")
        if self.idempotent and (self.setup_type != "bind" or self.input_handler is None):
            raise DeclarationError(f"{where}: idempotent are messages of bound sockets with a handler")
        if self.groups is not None and (self.setup_type != "bind" or self.input_handler is None):
            raise DeclarationError(f"{where}: groups are for bound sockets with a handler: who connects is known there")
        flaw = self.overload_flaw(self.overload)
        if flaw:
            raise DeclarationError(f"{where}: {flaw}")

    def overload_flaw(self, overload: str) -> str | None:
        """Why this socket cannot be set to such an `overload`; None when it can."""
        if overload not in _OVERLOAD:
            return f"overload is 'wait' or 'reject', not {overload!r}"
        if overload == "reject" and self.socket_type not in ANSWERING_TYPES:
            return f"overload is 'reject', but nothing can be sent back on a {self.socket_type} socket"
        return None

    def _checked_decoder(self, declared: Any) -> ObjectDecoder | None:
        try:
            return None if declared is None else ObjectDecoder(declared)
        except TypeError as error:
            raise DeclarationError(f"socket {self.name!r}: cannot use obj={declared!r}: {error}") from error

    def _checked_options(self, options: Options | None) -> list[tuple[str, Any]]:
        try:
            pairs = option_pairs(options)
            for name, value in pairs:
                option_value(name, value)
        except (UnknownOption, TypeError) as error:
            raise DeclarationError(f"socket {self.name!r}, its options: {error}") from error
        return pairs

    def create_socket(
        self,
        context: Context,
        uris: list[str],
        options: Options | None = None,
        concurrency: int | None = None,
        credentials: Credentials | None = None,
        name: str = "",
        descriptors: Mapping[str, int] = MappingProxyType({}),
        counts: bool = False,
    ) -> Socket:
        """Make the socket: set the options, then bind or connect to every uri, secured by the credentials.

        `descriptors` are of sockets that listen already, by uri.

        The limits of `default_options` come first, so that the declaration and the configuration override them. A `rep`
        socket with a handler is a ROUTER underneath, and a `pub` an XPUB, which confirms subscriptions to who asks for
        that: to peers it is the same. `name` is what the log calls it. If it `counts`, its connections are counted.
        Raises what `Socket` raises; then nothing is left open.
        """
        concurrency = concurrency or self.concurrency
        confirms = self.socket_type == "pub" and context.green
        socket = context.socket("xpub" if confirms else self._wire_type, credentials=credentials)
        socket.name = name
        try:
            if confirms:
                confirm_subscriptions(socket)
            for name, value in limits_of(self.socket_type):
                socket.set_option(name, value)
            if socket.socket_type in ("pub", "xpub"):
                socket.count_drops()
            if socket.socket_type == "router":
                # A reply to a peer that is gone is an error that we count, instead of nothing at all.
                socket.set_option("router_mandatory", True)
                # Every handler that runs may have a reply for one and the same peer.
                socket.set_option("sndhwm", max(1000, concurrency))
                # A reply may wait for a slow peer, but not for long where that holds up the requests of the others.
                socket.set_option("sndtimeo", _REPLY_PATIENCE if concurrency > 1 else _INLINE_PATIENCE)
            for name, value in [*self.default_options, *option_pairs(options)]:
                socket.set_option(name, value)
            if counts and socket.green and not all(uri.startswith("inproc:") for uri in uris):
                count_connections(socket)
            if credentials is not None and self.setup_type == "connect" and socket.green:
                keep_connected(socket, uris, credentials)
            else:
                for uri in uris:
                    if self.setup_type == "bind":
                        socket.bind(uri, descriptors.get(uri))
                    else:
                        socket.connect(uri)
        except BaseException:
            socket.close(linger=0)
            raise
        return socket

    @property
    def _wire_type(self) -> str:
        return "router" if self.socket_type == "rep" and self.input_handler is not None else self.socket_type

    @property
    def binds(self) -> bool:
        """Whether the socket is bound, and not connected."""
        return self.setup_type == "bind"

    def with_handler(self, handler: InputHandler) -> SocketDescription:
        """The same socket with another handler."""
        other = copy.copy(self)
        other.input_handler = handler
        other.groups = getattr(handler, _GROUPS, self.groups)
        other._check()
        return other

    def with_groups(self, groups: frozenset[str] | None) -> SocketDescription:
        """The same socket, whose handler is for these groups, or for everybody."""
        other = copy.copy(self)
        other.groups = groups
        other._check()
        return other

    def __set_name__(self, owner: type, name: str) -> None:
        self.attribute = name

    @overload
    def __get__(self, server: None, owner: type) -> SocketDescription: ...
    @overload
    def __get__(self, server: Any, owner: type) -> Callable[[Any, Any], Any]: ...
    def __get__(self, server: Any, owner: type) -> Any:
        """On the class, the description; on a server, the handler as a method, so that `super().name(...)` works."""
        if server is None:
            return self
        if self.input_handler is None:
            raise AttributeError(f"{self.attribute!r} is a socket without a handler; use self.sockets.{self.attribute}")
        handler = self.input_handler
        return lambda socket, received: handler(server, socket, received)

    def __repr__(self) -> str:
        suffix = "_in" if self.input_handler else ""
        return f"<{self.setup_type}{suffix} {self.name!r} {self.socket_type}>"


def bind_in(
    *names: Any,
    name: str | None = None,
    socket_type: str | None = None,
    obj: Any = None,
    concurrency: int = 1,
    timeout: float | None = None,
    overload: str = "wait",
    options: Options | None = None,
    max_frames: int = MAX_FRAMES,
    optional: bool = False,
    idempotent: bool = False,
) -> Callable[[InputHandler], SocketDescription]:
    """Decorates a method as the handler of a bound socket: `bind_in(name, socket_type, obj=None)`.

    `bind_in('rep', name='request')` is the same as `bind_in('request', 'rep')`. `obj` is what `received.obj` is made
    with: anything with a method `deserialize(data)`, a msgspec Struct or a dataclass. The others are as in
    `SocketDescription`. Raises `DeclarationError`.
    """
    names, obj = _without_obj(names, obj)
    return _decorator(
        "bind",
        *_names(names, name, socket_type),
        obj,
        options,
        concurrency,
        timeout,
        overload,
        max_frames,
        optional,
        idempotent,
    )


def connect_in(
    *names: Any,
    name: str | None = None,
    socket_type: str | None = None,
    obj: Any = None,
    concurrency: int = 1,
    timeout: float | None = None,
    overload: str = "wait",
    options: Options | None = None,
    max_frames: int = MAX_FRAMES,
    optional: bool = False,
) -> Callable[[InputHandler], SocketDescription]:
    """Decorates a method as the handler of a connected socket. The arguments are those of `bind_in`."""
    names, obj = _without_obj(names, obj)
    return _decorator(
        "connect", *_names(names, name, socket_type), obj, options, concurrency, timeout, overload, max_frames, optional
    )


def bind(
    *names: Any,
    name: str | None = None,
    socket_type: str | None = None,
    options: Options | None = None,
    optional: bool = False,
) -> SocketDescription:
    """A bound socket that does not listen.

    `out = bind('out', 'pub')` is the same as `out = bind('pub', name='out')`. `options`
    are its default options, and an `optional` one may be left out of the configuration. Raises `DeclarationError`.
    """
    return SocketDescription(*_names(names, name, socket_type), "bind", default_options=options, optional=optional)


def connect(
    *names: Any,
    name: str | None = None,
    socket_type: str | None = None,
    options: Options | None = None,
    optional: bool = False,
) -> SocketDescription:
    """A connected socket that does not listen. The arguments are those of `bind`."""
    return SocketDescription(*_names(names, name, socket_type), "connect", default_options=options, optional=optional)


def allow(*groups: str) -> Callable[[Any], Any]:
    """Lets a handler be called only for peers that are in one of these groups. The others get the problem `forbidden`.

    For example::

        @servers.bind_in("deploy", "rep")
        @servers.allow("deployers")
        def deploy(self, socket, received): ...

    The groups are those of the authorized keys or passwords, as they are when the message comes. What overrides the
    handler in a subclass is for the same groups, unless it says otherwise. Raises `DeclarationError`.
    """
    if not groups or not all(isinstance(group, str) and group for group in groups):
        raise DeclarationError(f"allow() takes the names of groups, as in allow('deployers'), not {groups!r}")

    def mark(declared: Any) -> Any:
        if isinstance(declared, SocketDescription):
            return declared.with_groups(frozenset(groups))
        if not callable(declared):
            raise DeclarationError(f"allow() decorates a handler or a socket, not {declared!r}")
        setattr(declared, _GROUPS, frozenset(groups))
        return declared

    return mark


def _decorator(setup_type: str, name: str, socket_type: str, *settings: Any) -> Callable[..., SocketDescription]:
    def no_handler(*_: Any) -> None: ...

    # What is wrong with the arguments should be raised from the line of the decorator, not from that of the method.
    described = SocketDescription(name, socket_type, setup_type, no_handler, *settings)

    def decorate(handler: InputHandler) -> SocketDescription:
        if not callable(handler):
            raise DeclarationError(f"{setup_type}_in decorates a method, not {handler!r}")
        return described.with_handler(handler)

    return decorate


def _without_obj(names: tuple[Any, ...], obj: Any) -> tuple[tuple[Any, ...], Any]:
    """The names, and `obj`, which may stand behind them."""
    return (names[:-1], names[-1]) if len(names) == 3 and obj is None else (names, obj)


def _names(names: tuple[Any, ...], name: str | None, socket_type: str | None) -> tuple[str, str]:
    """The name and the type of a socket, whichever of them were given by position and by keyword."""
    missing = [name is None, socket_type is None]
    if len(names) != sum(missing):
        raise DeclarationError(f"a socket has a name and a type, as in ('request', 'rep'), got {names!r}")
    given = list(names)
    name = given.pop(0) if name is None else name
    socket_type = given.pop(0) if socket_type is None else socket_type
    if name in SOCKET_TYPES and socket_type not in SOCKET_TYPES:
        raise DeclarationError(
            f"the name of a socket comes before its type: ({socket_type!r}, {name!r}), "
            f"or as a keyword: ({name!r}, name={socket_type!r})"
        )
    return name, socket_type


class Handler:
    """A handler as a class, for handlers that several servers share.

    For example::

        class Echo(Handler):
            socket_type = "rep"
            def __call__(self, server, socket, received):
                return received.text

        class EchoServer(Server):
            echo = Echo.bind("request")

    `socket_type`, `deserializer` (what `obj=` is to `bind_in`), `concurrency`, `timeout`, `overload`, `max_frames`,
    `optional`, `idempotent` and `options` are class attributes. One instance serves all the messages of one
    declaration.
    """

    socket_type: str
    deserializer: Any = None
    concurrency: int = 1
    timeout: float | None = None
    overload: str = "wait"
    max_frames: int = MAX_FRAMES
    optional: bool = False
    idempotent: bool = False
    options: Options | None = None

    def __call__(self, server: Any, socket: Sender, received: Any) -> Any:
        """Handle what was received; the return value is the reply, as with a method."""
        raise NotImplementedError(f"{type(self).__name__} needs a method __call__(self, server, socket, received)")

    @classmethod
    def bind(cls, name: str) -> SocketDescription:
        """A bound socket with this handler, to be assigned to an attribute of a server class."""
        return cls._describe(name, "bind")

    @classmethod
    def connect(cls, name: str) -> SocketDescription:
        """A connected socket with this handler, to be assigned to an attribute of a server class."""
        return cls._describe(name, "connect")

    @classmethod
    def _describe(cls, name: str, setup_type: str) -> SocketDescription:
        if not hasattr(cls, "socket_type"):
            raise DeclarationError(f"{cls.__name__} needs a class attribute socket_type, such as 'rep'")
        return SocketDescription(
            name,
            cls.socket_type,
            setup_type,
            cls(),
            cls.deserializer,
            cls.options,
            cls.concurrency,
            cls.timeout,
            cls.overload,
            cls.max_frames,
            cls.optional,
            cls.idempotent,
        )


class Periodic:
    """A method that runs every so many seconds: what `every` makes."""

    def __init__(self, seconds: float, function: Callable[[Any], Any]) -> None:
        self.seconds = seconds
        self.function = function

    @overload
    def __get__(self, server: None, owner: type) -> Periodic: ...
    @overload
    def __get__(self, server: Any, owner: type) -> Callable[[], Any]: ...
    def __get__(self, server: Any, owner: type) -> Any:
        """On the class, this object; on a server, the method."""
        return self if server is None else self.function.__get__(server)


def every(seconds: float) -> Callable[[Callable[[Any], Any]], Periodic]:
    """Decorates a method that a running server calls every `seconds`, the first time after so many.

    Calls never overlap: one that takes longer than the period makes the next ones wait for their regular time. One
    that raises is logged, and the next one comes all the same. Raises `DeclarationError`.
    """
    if not _is_seconds(seconds):
        raise DeclarationError(f"every() takes a number of seconds above 0, not {seconds!r}")
    return lambda function: Periodic(seconds, function)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_seconds(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


class ServerDescription:
    """What a server class declares: `sockets` by attribute name, and `periodic` methods by attribute name.

    Declarations are inherited. A subclass overrides one by a new declaration of the same attribute; it keeps the
    socket, or the period, and replaces only the function by defining a method of that name; and it drops the
    declaration by setting the attribute to None. A handler that is for some groups stays so in both cases, unless it
    says for which others it is.

    Raises `DeclarationError` when two attributes declare a socket of the same name.
    """

    def __init__(self, server_cls: Any) -> None:
        self.server_cls = server_cls
        self.sockets: dict[str, SocketDescription] = {}
        self.periodic: dict[str, Periodic] = {}
        for cls in reversed(server_cls.__mro__):
            for attribute, value in vars(cls).items():
                self._take(attribute, value)
        self._check_names()

    @property
    def socket_names(self) -> list[str]:
        """The names by which a configuration knows the sockets."""
        return [description.name for description in self.sockets.values()]

    @property
    def declared(self) -> Declared:
        """What a configuration is to be compared with."""
        optional = [description.name for description in self.sockets.values() if description.optional]
        return Declared(self.socket_names, optional, self.server_cls.settings_type)

    def _take(self, attribute: str, value: Any) -> None:
        socket, periodic = self.sockets.get(attribute), self.periodic.get(attribute)
        if callable(value) and socket is not None and socket.input_handler is not None:
            value = socket.with_handler(value)
        elif callable(value) and periodic is not None:
            value = Periodic(periodic.seconds, value)
        if isinstance(value, SocketDescription):
            inherited = socket is not None and value.groups is None and value.binds and value.input_handler is not None
            self.sockets[attribute] = value.with_groups(socket.groups) if inherited and socket else value
        else:
            self.sockets.pop(attribute, None)
        if isinstance(value, Periodic):
            self.periodic[attribute] = value
        else:
            self.periodic.pop(attribute, None)

    def _check_names(self) -> None:
        seen: dict[str, str] = {}
        for attribute, description in self.sockets.items():
            other = seen.setdefault(description.name, attribute)
            if other != attribute:
                raise DeclarationError(
                    f"{self.server_cls.__name__} declares two sockets named {description.name!r}: "
                    f"{other} and {attribute}"
                )
