"""Services: sets of servers that are run together from one configuration.

For example::

    from dploylib.services import Service

    service = Service()
    service.add_server("echo", EchoServer)
    service.run(config_file="config.yaml")
"""

from ..errors import ServiceFailing
from .blocking import watch_for_blocking
from .coordinator import GreenletServerCoordinator, ServerCoordinator, ServerRun
from .lifecycle import State
from .processes import ProcessServerCoordinator
from .service import Service
from .templates import Required, ServiceTemplate, required
from .threads import ThreadedServerCoordinator

__all__ = [
    "GreenletServerCoordinator",
    "ProcessServerCoordinator",
    "Required",
    "ServerCoordinator",
    "ServerRun",
    "Service",
    "ServiceFailing",
    "ServiceTemplate",
    "State",
    "ThreadedServerCoordinator",
    "required",
    "watch_for_blocking",
]
