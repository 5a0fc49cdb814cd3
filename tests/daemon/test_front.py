"""The front: clients never notice that workers come and go."""

from tests.daemon.conftest import ask


def test_a_request_is_answered_by_a_worker(stage):
    uri = stage.lane("request")
    stage.configure()
    [worker] = stage.start_workers()
    client = stage.client(uri)
    assert ask(client, "pid") == str(worker.pid)
    assert ask(client, "echo hello") == "hello"
