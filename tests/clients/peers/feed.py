"""A service that publishes each line that it reads, `ID TEXT`. Prints the endpoint that it is bound to."""

import sys

from dploylib import Server, Service, bind, offload


class Feed(Server):
    out = bind("out", "pub")

    def setup(self):
        print(self.sockets.out.endpoint, flush=True)
        self.spawn(self.publish)

    def publish(self):
        while line := offload(sys.stdin.readline):
            id, _, text = line.rstrip("\n").partition(" ")
            self.sockets.out.send_text(text, id=id)


if __name__ == "__main__":
    service = Service()
    service.add_server("feed", Feed)
    service.run(config_dict={"servers": {"feed": {"out": {"uri": sys.argv[1]}}}})
