"""Daemons: a service as several worker processes, run and reloaded by gunicorn's arbiter.

`dploylib serve` is the interface. Its processes are

- the *arbiter* (`arbiter`), gunicorn's: it opens the sockets that listen (`listeners`), starts the others, and replaces
  them. It runs nothing of the user's; what he has is looked at in a child (`planning`);
- *workers* (`worker`), which run the service, or those of its servers that are shared; and one that runs those of which
  there may be only one;
- the *front* (`front`), where messages are balanced: it has the connections of the clients, and outlives the workers.
"""

__all__: list[str] = []
