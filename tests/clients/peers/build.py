"""A service that broadcasts what becomes of its requests. Prints its endpoints: of requests, and of broadcasts."""

import gevent

from dploylib import Server, Service, bind, bind_in


class Builder(Server):
    out = bind("out", "pub")

    def setup(self):
        print(self.sockets.request.endpoint, self.sockets.out.endpoint, flush=True)

    @bind_in("request", "rep", concurrency=100)
    def build(self, socket, received):
        self.spawn(self.work, received.id, received.json["lines"])
        return "begun"

    def work(self, id, lines):
        for number in range(lines):
            self.sockets.out.send_json({"type": "output", "body": {"type": "line", "data": str(number)}}, id=id)
            gevent.sleep(0)
        self.sockets.out.send_json({"type": "status", "body": {"type": "completed"}}, id=id)


if __name__ == "__main__":
    service = Service()
    service.add_server("builder", Builder)
    uris = {"request": {"uri": "tcp://127.0.0.1:*"}, "out": {"uri": "tcp://127.0.0.1:*"}}
    service.run(config_dict={"servers": {"builder": uris}})
