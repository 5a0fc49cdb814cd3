"""Profiles of a service: where its time goes, by greenlet."""

import contextlib
import json
import pickle
import subprocess
import sys

import gevent
import pytest
from gevent.monkey import get_original

from dploylib.clients import RequestClient
from dploylib.control.profiling import Profiler, Session, profile, render
from dploylib.errors import ServiceStateError
from dploylib.servers import Hook, Server, bind_in, every
from dploylib.services import Service, ThreadedServerCoordinator
from dploylib.testing import running

ENOUGH = 0.3  # seconds for a greenlet that never pauses to be seen, once at least
ANYWHERE = {"uri": "tcp://127.0.0.1:*"}
CONFIGURATION = {"servers": {name: {"request": ANYWHERE} for name in ("busy", "other")}}
allocate_lock = get_original("_thread", "allocate_lock")


class Busy(Server):
    @bind_in("request", "rep")
    def answer(self, socket, received):
        return str(compute())

    @every(0.001)
    def tick(self):
        compute()


def compute():
    return sum(number * number for number in range(2_000))


@pytest.fixture
def service():
    service = Service()
    for name in CONFIGURATION["servers"]:
        service.add_server(name, Busy)
    return service


@contextlib.contextmanager
def asked(service, *names):
    """Within it, these servers are asked again and again."""
    over = False

    def ask(name):
        with RequestClient(service.endpoints[name]["request"]) as client:
            while not over:
                client.request("now")

    asking = [gevent.spawn(ask, name) for name in names]
    try:
        yield
    finally:
        over = True
        gevent.joinall(asking, raise_error=True)


@pytest.fixture
def elsewhere():
    """Call a function in a thread of its own, which has no hub afterwards."""

    def call(function, *arguments):
        try:
            return function(*arguments)
        finally:
            gevent.get_hub().destroy(destroy_loop=True)

    return lambda *arguments: gevent.get_hub().threadpool.spawn(call, *arguments)


def functions(session):
    """The names in each stack, from the outermost on."""
    return [[frame.partition("\0")[0] for frame in stack] for stack, _ in session.frame_records]


def roots(session):
    return {stack[0] for stack in functions(session)}


def shows_both(session):
    """Whether it has been seen that a request is answered, and that the clock ticks."""
    found = functions(session)
    return any(stack[0] == "busy: Busy.tick" and "compute" in stack for stack in found) and any(
        stack[0] == "receive busy.request" and "answer" in stack and "compute" in stack for stack in found
    )


def sampled(sample):
    """Sample until both have been seen: on a busy machine there are few samples."""
    with gevent.Timeout(60):
        while not shows_both(session := sample()):
            pass
    return session


def test_the_root_of_a_stack_is_the_greenlet_with_server_and_socket(service, elsewhere):
    with running(service, CONFIGURATION), asked(service, "busy"):
        session = sampled(lambda: elsewhere(profile, service.servers.values(), ENOUGH).get())
        found = functions(session)
        assert "receive other.request" not in roots(session)
        assert session.sample_count >= len(found)
        assert sys.getprofile() is None


def test_the_time_that_a_hub_waits_is_nobodys(elsewhere):
    class Quiet(Server):
        @bind_in("request", "rep")
        def answer(self, socket, received):
            return received.text

    service = Service()
    service.add_server("busy", Quiet)
    with running(service, {"servers": {"busy": {"request": ANYWHERE}}}):
        session = elsewhere(profile, service.servers.values(), ENOUGH).get()
        seconds = dict.fromkeys(roots(session), 0.0)
        for stack, lasted in session.frame_records:
            seconds[stack[0].partition("\0")[0]] += lasted
        assert max(seconds, key=seconds.__getitem__) == "idle: nothing to do"


def test_it_may_be_asked_for_in_the_hub_itself(service):
    with running(service, CONFIGURATION), asked(service, "busy"):
        assert "receive busy.request" in roots(profile(service.servers.values(), ENOUGH))


def test_servers_in_threads_are_sampled_there():
    service = Service(coordinator=ThreadedServerCoordinator())
    for name in CONFIGURATION["servers"]:
        service.add_server(name, Busy)
    with running(service, CONFIGURATION), asked(service, "busy", "other"):
        session = profile(service.servers.values(), ENOUGH)
        assert roots(session) >= {"receive busy.request", "receive other.request"}


def test_as_a_hook_it_has_the_hubs_of_servers_that_start_later(service, wait_until):
    service = Service(coordinator=ThreadedServerCoordinator(), hooks=[profiler := Profiler()])
    service.add_server("busy", Busy)
    with running(service, {"servers": {"busy": {"request": ANYWHERE}}}), asked(service, "busy"):
        [sampler] = profiler._samplers.values()
        wait_until(lambda: any("receive busy.request" in stack[0] for stack in sampler.seconds.copy()))
        assert "receive busy.request" in roots(profiler.stop())


def test_in_another_process_the_hook_does_nothing():
    assert type(pickle.loads(pickle.dumps(Profiler()))) is Hook


def test_there_is_one_profile_of_a_hub_at_a_time(service, elsewhere, wait_until):
    with running(service, CONFIGURATION):
        profiler = Profiler()
        profiler.sample(gevent.get_hub())
        wait_until(lambda: profiler._samplers[gevent.get_hub()].seconds)
        with pytest.raises(ServiceStateError, match="a profile is being made already"):
            elsewhere(profile, service.servers.values(), 0.001).get()
        assert profiler.stop().frame_records
        assert elsewhere(profile, service.servers.values(), ENOUGH).get().frame_records


def test_a_hub_that_is_blocked_all_the_time_cannot_be_sampled(service, elsewhere):
    with running(service, CONFIGURATION):
        over = allocate_lock()
        over.acquire()

        def sample():
            try:
                return profile(service.servers.values(), 0.001)
            finally:
                over.release()

        sampling = elsewhere(sample)
        over.acquire()  # blocks the hub of this thread, patched or not
        with pytest.raises(ServiceStateError, match="something blocks the hub"):
            sampling.get()
        assert profile(service.servers.values(), ENOUGH).frame_records


# What is made of it -----------------------------------------------------------------------------------------------


@pytest.fixture
def session(service):
    with running(service, CONFIGURATION), asked(service, "busy"):
        session = sampled(lambda: profile(service.servers.values(), ENOUGH))
    return Session.from_json(json.loads(json.dumps(session.to_json())))  # as it comes from another process


def test_speedscope_reads_it(session):
    made = json.loads(render({"worker 1": session}, ".json"))
    assert made["$schema"] == "https://www.speedscope.app/file-format-schema.json"
    names = {frame["name"] for frame in made["shared"]["frames"]}
    assert names >= {"receive busy.request", "answer", "compute"}
    assert "worker 1" not in names


def test_a_browser_reads_it(session):
    page = render({"worker 1": session}, ".html")
    assert page.startswith("<!DOCTYPE html>")
    assert "receive busy.request" in page


def test_a_terminal_shows_it(session):
    assert "receive busy.request" in render({"worker 1": session}, ".txt")


def test_of_several_processes_each_has_a_root(session):
    other = Session.from_json(json.loads(json.dumps(session.to_json())))
    made = json.loads(render({"worker 1": session, "worker 2": other}, ".json"))
    frames = [frame["name"] for frame in made["shared"]["frames"]]
    opened = [frames[event["frame"]] for event in made["profiles"][0]["events"] if event["type"] == "O"]
    assert {"worker 1", "worker 2"} <= set(opened)
    assert opened.count("receive busy.request") == 2


def test_without_pyinstrument_it_says_what_to_install():
    script = (
        "import sys; sys.modules['pyinstrument'] = None\nfrom dploylib.errors import MissingPackage\n"
        "try:\n    import dploylib.control.profiling\nexcept MissingPackage as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "profiles need pyinstrument: pip install 'dploylib[profile]'\n"
