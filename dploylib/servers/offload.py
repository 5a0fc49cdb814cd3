"""Work that would block the hub, in threads."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import gevent

from ..handling import Message, begin, forget, handled

__all__ = ["offload"]

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def offload(function: Callable[_Arguments, _Result], *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
    """Call `function(*args, **kwargs)` in a thread, while the other greenlets run. Returns or raises what it does.

    For what would block the hub: calls into libraries that gevent cannot patch, and computations in C that release the
    GIL, such as hashing, compression or numpy. Python code that computes is no quicker in a thread and takes its turns
    with the hub, which slows down but is not blocked.

    The function sees the context variables of the caller (`contextvars`), and changes a copy of them. It must not touch
    what belongs to the hub: no sockets of dploylib, no events, no greenlets.

    A thread cannot be ended. When the caller's greenlet is ended, by the `timeout` of its handler say, the function
    goes on to its end, and what it returns or raises then is dropped.

    The threads are those of `gevent.get_hub().threadpool`, in which gevent looks up host names too: 10, unless its
    `maxsize` says otherwise. When all are busy, callers wait for one.
    """
    call = (contextvars.copy_context(), handled(), function, args, kwargs)
    result, error = gevent.get_hub().threadpool.apply(_outcome, call)
    if error is not None:
        try:
            raise error
        finally:
            del error  # whose traceback has this frame, which would keep both alive
    return cast(_Result, result)


def _outcome(
    context: contextvars.Context, message: Message | None, function: Callable[..., Any], args: Any, kwargs: Any
) -> tuple[Any, Any]:
    """What a function returns and what it raises. The pool would print an exception, also one that is caught later."""
    if message is not None:
        begin(message)
    try:
        return context.run(function, *args, **kwargs), None
    except BaseException as error:  # noqa: BLE001 - it is raised from offload()
        return None, error
    finally:
        forget()
