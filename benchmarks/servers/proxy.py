"""`zmq.proxy`, with workers behind it that echo: a front in C that knows nothing of them. This process is the proxy."""

from __future__ import annotations

from benchmarks.servers import common, loops, processes


def echo(arguments):
    """Pass on what comes to the workers in turn, which send it back, in processes of their own."""
    directory = processes.started_beside(start, arguments.workers)
    import zmq  # after the fork

    context = zmq.Context()
    clients = loops.bound(zmq, context, "router", arguments.rcvhwm)
    workers = context.socket(zmq.DEALER)
    workers.setsockopt(zmq.SNDHWM, 0)
    workers.setsockopt(zmq.RCVHWM, 0)
    monitor = workers.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
    workers.bind(endpoint(directory))
    for _ in range(arguments.workers):
        monitor.recv_multipart()
    workers.disable_monitor()
    common.announce(loops.endpoint(zmq, clients))
    zmq.proxy(clients, workers)


def start(directory, workers, count):
    """Start the workers."""
    workers.extend(processes.forked(work, endpoint(directory)) for _ in range(count))


def work(uri):
    """Be a worker."""
    from dploylib import Server, Service, connect_in

    class EchoServer(Server):
        @connect_in("request", "rep")
        def answer(self, socket, received):
            return received.text

    service = Service()
    service.add_server("bench", EchoServer)
    service.run(config_dict={"servers": {"bench": {"request": {"uri": uri}}}})


def endpoint(directory):
    """Where the workers connect."""
    return f"ipc://{directory}/backend"


if __name__ == "__main__":
    common.play({"rep": echo})
