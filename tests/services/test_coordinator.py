"""The coordinator as a base to subclass, and the control socket."""

import gevent
import pytest
from gevent.event import Event

from dploylib.errors import AddressInUse, ServerFailing, ServiceFailing, ServiceStateError
from dploylib.servers import Hook, Server, bind_in
from dploylib.services import GreenletServerCoordinator, ServerCoordinator, Service, State
from dploylib.transport import Context, Socket

pytestmark = pytest.mark.greenlet_only("it is about the base class, with subclasses that run servers in greenlets")


class Echo(Server):
    @bind_in("request", "rep")
    def request(self, socket, received):
        return received


class Recording(ServerCoordinator):
    """Runs servers in plain greenlets, and takes note of what it is asked to do."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.calls = []
        self.greenlets = {}

    def spawn(self, run):
        self.calls.append(("spawn", run.name))
        self.greenlets[run.name] = gevent.spawn(self.serve, run)

    def serve(self, run):
        error = run.serve(self.context)
        self.calls.append(("ended", run.name))
        self.server_ended(run, error)

    def kill(self, run):
        self.calls.append(("kill", run.name))
        if run.name in self.greenlets:
            self.greenlets[run.name].kill(block=False)
        self.server_ended(run, None)


def test_a_subclass_says_where_servers_run_and_gets_the_rest(start, ask):
    coordinator = Recording()
    service = start(coordinator, a=Echo, b=Echo)
    assert coordinator.calls == [("spawn", "a"), ("spawn", "b")]
    assert ask(service.endpoints["a"]["request"]) == "hello"
    assert set(coordinator.servers) == {"a", "b"}
    service.stop()
    # They are told to stop over the control socket, and nobody needs to be killed.
    assert sorted(coordinator.calls[2:]) == [("ended", "a"), ("ended", "b")]
    service.wait()


def test_one_that_ends_while_another_one_is_given_up_is_not_given_up_as_well(start, monkeypatch):
    class Giving(Recording):
        def kill(self, run):
            self.calls.append(("kill", run.name))

        def abandon(self, run):
            self.calls.append(("abandon", run.name))
            gevent.killall(list(self.greenlets.values()))
            for one in self._alive():
                self.server_ended(one, None)

        def serve(self, run):
            run.serve(self.context)
            gevent.sleep(3600)

    monkeypatch.setattr("dploylib.services.coordinator._CLOSING_TIME", 0.01)
    monkeypatch.setattr("dploylib.services.coordinator._DYING_TIME", 0.01)
    coordinator = Giving()
    service = start(coordinator, a=Echo, b=Echo)
    service.stop(0)
    assert sum(what == "abandon" for what, _ in coordinator.calls) == 1


def test_a_subclass_is_told_to_kill_what_is_not_ready(make_service, config_for):
    class Slow(Echo):
        def setup(self):
            gevent.sleep(3600)

    coordinator = Recording()
    service = make_service(coordinator, slow=Slow, fine=Echo)
    starting = gevent.spawn(pytest.raises, ServiceStateError, service.start, config_dict=config_for(service))
    while ("spawn", "fine") not in coordinator.calls:
        gevent.sleep(0.001)
    service.stop(0)
    starting.get(timeout=10)
    assert ("kill", "slow") in coordinator.calls


def test_a_spawn_that_fails_ends_what_was_spawned_before(make_service, config_for):
    class Fails(GreenletServerCoordinator):
        def spawn(self, run):
            if run.name == "b":
                raise OSError("no more room")
            super().spawn(run)

    service = make_service(Fails(), a=Echo, b=Echo, c=Echo)
    with pytest.raises(OSError, match="no more room"):
        service.start(config_dict=config_for(service))
    assert service.state is State.STOPPED


def test_a_coordinator_stopped_while_it_spawns_spawns_no_more(make_service, config_for):
    class Slow(GreenletServerCoordinator):
        spawned = ()
        go_on = Event()

        def spawn(self, run):
            super().spawn(run)
            self.spawned = (*self.spawned, run.name)
            self.go_on.wait()

    coordinator = Slow()
    service = make_service(coordinator, a=Echo, b=Echo)
    starting = gevent.spawn(pytest.raises, ServiceStateError, service.start, config_dict=config_for(service))
    while not coordinator.spawned:
        gevent.sleep(0.001)
    stopping = gevent.spawn(service.stop, 0)
    while service.state is not State.STOPPING:
        gevent.sleep(0.001)
    coordinator.go_on.set()
    gevent.joinall([starting, stopping], timeout=10, raise_error=True)
    assert coordinator.spawned == ("a",)


def test_the_base_needs_a_subclass():
    with pytest.raises(NotImplementedError, match=r"must say in spawn\(\) where a server runs"):
        ServerCoordinator().spawn(None)
    with pytest.raises(NotImplementedError, match=r"must say in kill\(\) how a server is ended"):
        ServerCoordinator().kill(None)


def test_a_coordinator_that_was_never_set_up_has_no_context_and_can_be_stopped():
    coordinator = GreenletServerCoordinator()
    with pytest.raises(ServiceStateError, match="no context before the service is started"):
        coordinator.context  # noqa: B018 - the access is what is tested
    assert coordinator.servers == {}
    coordinator.stop(0)


def test_a_server_killed_by_somebody_else_makes_the_service_fail(start):
    coordinator = Recording()
    service = start(coordinator, echo=Echo)
    coordinator.server_ended(coordinator._runs["echo"], gevent.GreenletExit())
    with pytest.raises(ServiceFailing, match="server 'echo' ended without being told to: GreenletExit") as caught:
        service.wait()
    assert isinstance(caught.value.__cause__, gevent.GreenletExit)
    coordinator.greenlets["echo"].kill()


def test_a_greenlet_that_is_killed_before_it_began_is_noticed(make_service, config_for):
    class Kills(GreenletServerCoordinator):
        def spawn(self, run):
            super().spawn(run)
            self.kill(run)

    service = make_service(Kills(), echo=Echo)
    with pytest.raises(ServerFailing, match="server 'echo' ended without being told to"):
        service.start(config_dict=config_for(service))


def test_servers_whose_names_begin_alike_become_ready_and_stop_each_on_its_own(start, ask):
    names = ["echo", "echo2", "ech", "e"]
    service = start(**dict.fromkeys(names, Echo))
    assert [ask(service.endpoints[name]["request"]) for name in names] == ["hello"] * 4


def test_a_server_is_not_ready_because_one_whose_name_begins_alike_is(make_service, config_for):
    ready = []

    class Slow(Echo):
        def setup(self):
            gevent.sleep(0.05)
            ready.append(self.name)

    service = make_service(echo2=Echo, echo=Slow, ech=Echo)
    with service.start(config_dict=config_for(service)):
        assert ready == ["echo"]


def test_a_coordinator_is_for_one_service_at_a_time(make_service, config_for, ask):
    coordinator = GreenletServerCoordinator()
    one, other = make_service(coordinator, echo=Echo), make_service(coordinator, echo=Echo)
    one.start(config_dict=config_for(one))
    with pytest.raises(ServiceStateError, match="runs the servers of another one"):
        other.start(config_dict=config_for(other))
    assert other.state is State.NEW
    assert ask(one.endpoints["echo"]["request"]) == "hello"
    one.stop()
    with other.start(config_dict=config_for(other)):
        assert ask(other.endpoints["echo"]["request"]) == "hello"


@pytest.mark.parametrize("wrong", [GreenletServerCoordinator, "thread", 5])
def test_what_is_no_coordinator_is_refused(wrong):
    with pytest.raises(TypeError, match="an object of a subclass of ServerCoordinator, not"):
        Service(coordinator=wrong)


@pytest.mark.parametrize("wrong", [Hook, object(), "hook"])
def test_what_is_no_hook_is_refused(wrong):
    with pytest.raises(TypeError, match=r"an object of a subclass of dploylib\.servers\.Hook, not"):
        Service(hooks=[wrong])


def test_strangers_on_the_control_socket_do_no_harm(make_service, config_for, ask, ipc_dir):
    """It may be bound to an endpoint that others can reach."""
    uri = f"ipc://{ipc_dir}/control"

    class Slow(Echo):
        def setup(self):
            with Socket.connect_new("xsub", uri) as stranger:
                for frames in ([b"\x01stranger/"], [b"\x01"], [b""], [b"\x01slow", b"garbage"], [b"x"] * 3):
                    stranger.send_frames(frames)
            gevent.sleep(0.05)
            self.is_set_up = True

    service = make_service(GreenletServerCoordinator(control_uri=uri), slow=Slow)
    with service.start(config_dict=config_for(service)):
        assert service.servers["slow"].is_set_up
        assert ask(service.endpoints["slow"]["request"]) == "hello"


def test_services_in_one_context_have_control_sockets_of_their_own(make_service, config_for, ask, leak_check):
    with Context.new() as context:
        one, other, third, fourth = (
            make_service(GreenletServerCoordinator(*control_uri, context=context), echo=Echo)
            for control_uri in ([], [], ["inproc://given"], ["inproc://given"])
        )
        one.start(config_dict=config_for(one))
        other.start(config_dict=config_for(other))
        third.start(config_dict=config_for(third))
        with pytest.raises(AddressInUse, match="inproc://given"):
            fourth.start(config_dict=config_for(fourth))
        fourth.wait()  # which returns: it does not run
        third.stop()
        one.stop()
        assert ask(other.endpoints["echo"]["request"]) == "hello"
        other.stop()
