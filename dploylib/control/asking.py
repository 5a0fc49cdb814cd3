"""Asking the control servers of a service, all of its processes at once."""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import gevent
import msgspec

from ..errors import DployError, ServiceStateError
from ..transport import Context, Envelope, Problem
from .finding import runs
from .protocol import control_endpoint, control_pids, decoded

__all__ = ["Answer", "ask", "ask_one"]


class Answer(NamedTuple):
    """What a process has answered: a `value`, or why there is none, `error`, which is '' otherwise."""

    pid: int
    value: Any
    error: str


def ask(run_dir: str, verb: str, argument: Any = None, kind: type[Any] = object, timeout: float = 1.0) -> list[Answer]:
    """What all processes answer that have a control server in a run directory, in the order of their process ids.

    `argument` becomes JSON; `kind` is what an answer is. What does not answer within `timeout` seconds has an error.
    """
    with Context.new() as context:
        pids = _pids(run_dir)
        asking = [gevent.spawn(_ask, context, run_dir, pid, verb, argument, kind, timeout) for pid in pids]
        gevent.joinall(asking)
        return [one.get() for one in asking]


def ask_one(run_dir: str, verb: str, argument: Any = None, kind: type[Any] = object, timeout: float = 1.0) -> Answer:
    """What the first of them answers that does: of what the whole service is to do, one of its processes is told.

    Raises `ServiceStateError` when there is none at all.
    """
    answer = None
    with Context.new() as context:
        for pid in _pids(run_dir):
            answer = _ask(context, run_dir, pid, verb, argument, kind, timeout)
            if not answer.error:
                break
    if answer is None:
        raise ServiceStateError(f"no process of a service can be asked in {run_dir}")
    return answer


def _pids(run_dir: str) -> list[int]:
    try:
        return [pid for pid in control_pids(run_dir) if runs(pid)]
    except OSError:
        return []


def _ask(context: Context, run_dir: str, pid: int, verb: str, argument: Any, kind: type[Any], timeout: float) -> Answer:
    body = b"" if argument is None else msgspec.json.encode(argument)
    try:
        with contextlib.closing(context.socket("req", {"linger": 0, "maxmsgsize": -1})) as socket:
            socket.connect(control_endpoint(run_dir, pid))
            socket.send_envelope(Envelope(verb, "application/json", body), timeout)
            answer = socket.receive_envelope(timeout)
        problem = Problem.from_envelope(answer)
        if problem is not None:
            return Answer(pid, None, problem.detail or problem.title)
        return Answer(pid, decoded(answer.data, kind), "")
    except TimeoutError:
        return Answer(pid, None, f"no answer within {timeout:g} s")
    except (DployError, msgspec.MsgspecError) as error:
        return Answer(pid, None, str(error))
