"""Hand-written loops on zmq.asyncio."""

import asyncio

import zmq
import zmq.asyncio

from benchmarks.servers import common, loops


def ready(socket_type, rcvhwm=0):
    """Make a socket, and say where it is."""
    socket = loops.bound(zmq, zmq.asyncio.Context(), socket_type, rcvhwm)
    common.announce(loops.endpoint(zmq, socket))
    return socket


async def echo(arguments):
    """Send back what comes."""
    socket = ready(arguments.role)
    while True:
        await socket.send_multipart(await socket.recv_multipart())


async def pull(arguments):
    """Count what comes."""
    socket = ready("pull", arguments.rcvhwm)
    while True:
        for _ in range(arguments.count):
            await socket.recv_multipart()
        common.done()


async def pub(arguments):
    """Publish what comes, or a batch."""
    context = zmq.asyncio.Context()
    publisher, control = loops.bound(zmq, context, "pub"), loops.bound(zmq, context, "pull")
    common.announce(loops.endpoint(zmq, publisher), loops.endpoint(zmq, control))
    while True:
        message = await control.recv_multipart()
        if message[-1] == common.BURST:
            for _ in range(arguments.count):
                await publisher.send_multipart([b"", b"text/plain", common.BODY])
        else:
            await publisher.send_multipart(message)


async def waiting(arguments):
    """Answer each request in a task of its own, after a second."""
    socket = ready("router")
    tasks = set()

    async def handle(message):
        await asyncio.sleep(common.WAIT_SECONDS)
        await socket.send_multipart(message)

    while True:
        task = asyncio.create_task(handle(await socket.recv_multipart()))
        tasks.add(task)  # the loop itself keeps only weak references
        task.add_done_callback(tasks.discard)


async def backlog(arguments):
    """Block at the first message, and work off the others beside a task that ticks."""
    socket = ready("pull")
    gap = common.Gap()

    async def tick():
        while True:
            await asyncio.sleep(common.TICK_SECONDS)
            gap.tick()

    ticker = asyncio.create_task(tick())
    while not ticker.done():
        await socket.recv_multipart()
        common.block()
        gap.reset()
        for _ in range(arguments.count):
            await socket.recv_multipart()
        gap.tick()
        common.done(gap.longest)


async def idle(arguments):
    """Wait at many sockets, with a task each."""
    context = zmq.asyncio.Context()
    sockets = [loops.bound(zmq, context, "pull") for _ in range(arguments.sockets)]

    async def drain(socket):
        while True:
            await socket.recv_multipart()

    tasks = [asyncio.create_task(drain(socket)) for socket in sockets]
    await asyncio.sleep(0)
    common.announce(*(loops.endpoint(zmq, socket) for socket in sockets))
    await asyncio.gather(*tasks)


ROLES = {
    "rep": echo,
    "router": echo,
    "pull": pull,
    "pub": pub,
    "waiting": waiting,
    "backlog": backlog,
    "idle": idle,
}

if __name__ == "__main__":
    asyncio.run(common.play(ROLES))
