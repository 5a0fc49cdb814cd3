"""gRPC's client for Python: one channel, which all threads share. Its messages are bytes, as those of the server."""

from concurrent.futures import ThreadPoolExecutor

import grpc

from benchmarks.clients import common


def stub(load):
    """Call in as many threads as are to call at once."""
    body = load.body
    with (
        grpc.insecure_channel(load.endpoints[0].removeprefix("tcp://")) as channel,
        ThreadPoolExecutor(load.outstanding) as pool,
    ):
        echo = channel.unary_unary("/benchmarks.Echo/Echo")

        def in_threads(functions):
            for done in [pool.submit(one) for one in functions]:
                done.result()

        return common.measure(load, [lambda: echo(body)] * load.outstanding, body, in_threads)


if __name__ == "__main__":
    common.play({"stub": stub})
