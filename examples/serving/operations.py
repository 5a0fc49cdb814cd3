"""Hooks of the daemon. They run in the arbiter, which has no gevent, and must not wait: it looks after all others."""

from collections import Counter

deaths = Counter()  # by role; in the arbiter, so it outlives every worker


def tell_where(arbiter):
    """All processes are ready, for the first time."""
    arbiter.log.info("clients connect to %s", ", ".join(listener.endpoint for listener in arbiter.LISTENERS))


def tell_how_many(arbiter, new, old):
    """The number of workers is another one: at the start, by a signal, or by a reload."""
    if old is not None and new != old:
        arbiter.log.info("%d workers, and no longer %d", new, old)


def count_deaths(arbiter, worker):
    """A process has ended. `told_at` says whether it was told to."""
    if worker.told_at is None:
        deaths[worker.role] += 1
        arbiter.log.warning("%d %s processes have died since the start", deaths[worker.role], worker.role)
