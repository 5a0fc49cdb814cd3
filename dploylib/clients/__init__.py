"""Clients: what programs, tests and handlers talk to services with."""

from .request import DEFAULT_TIMEOUT, EndpointStatus, RequestClient

__all__ = ["DEFAULT_TIMEOUT", "EndpointStatus", "RequestClient"]
