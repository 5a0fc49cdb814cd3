"""The life of a service, as a table."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from ..errors import ServiceStateError

__all__ = ["Lifecycle", "State"]


class State(Enum):
    """What a service is doing."""

    NEW = "new"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"


_NEXT: dict[State, frozenset[State]] = {
    State.NEW: frozenset({State.STARTING}),
    State.STARTING: frozenset({State.RUNNING, State.STOPPING}),
    State.RUNNING: frozenset({State.STOPPING}),
    State.STOPPING: frozenset({State.STOPPED}),
    State.STOPPED: frozenset({State.STARTING}),  # a service may be started again
}


class Lifecycle:
    """The state of one service, which changes only as the table says. `on_change` is called with each new one."""

    def __init__(self) -> None:
        self.state = State.NEW
        self.on_change: Callable[[State], None] = _ignore

    def become(self, state: State) -> None:
        """Change the state. Raises `ServiceStateError` where the table has no such step."""
        if state not in _NEXT[self.state]:
            raise ServiceStateError(f"a service that is {self.state.value} cannot become {state.value}")
        self.state = state
        self.on_change(state)


def _ignore(state: State) -> None:
    """Nobody wants to know."""
