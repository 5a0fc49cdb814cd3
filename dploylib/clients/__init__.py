"""Clients: what programs, tests and handlers talk to services with."""

from .listening import ListeningClient
from .observable import Following, ObservableServiceClient
from .pushing import PushClient
from .request import DEFAULT_TIMEOUT, EndpointStatus, RequestClient

__all__ = [
    "DEFAULT_TIMEOUT",
    "EndpointStatus",
    "Following",
    "ListeningClient",
    "ObservableServiceClient",
    "PushClient",
    "RequestClient",
]
