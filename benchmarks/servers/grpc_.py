"""A Python gRPC server with one unary method, whose messages are bytes: nothing is spent on Protocol Buffers."""

from concurrent.futures import ThreadPoolExecutor

import grpc

from benchmarks.servers import common

THREADS = 10  # as in gRPC's own examples


def echo(request, context):
    return request


def serve(arguments):
    """Answer calls."""
    server = grpc.server(ThreadPoolExecutor(THREADS))
    handlers = {"Echo": grpc.unary_unary_rpc_method_handler(echo)}  # without serializers, bytes stay bytes
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("benchmarks.Echo", handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    common.announce(f"tcp://127.0.0.1:{port}")
    server.wait_for_termination()


if __name__ == "__main__":
    common.play({"rep": serve})
