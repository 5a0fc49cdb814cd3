"""A small web application: a page, and /health for whoever wants to know whether it works."""

import html
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

GREETING = os.environ.get("GREETING", "Hello")
PAGE = f"""<!doctype html>
<title>A sample</title>
<h1>{html.escape(GREETING)} from dploy</h1>
<p>Change the greeting: <code>dploy env set sample GREETING=Moin</code>
"""


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        pages = {"/": ("text/html; charset=utf-8", PAGE), "/health": ("text/plain", "ok\n")}
        kind, text = pages.get(self.path, ("text/plain", "there is no such page\n"))
        body = text.encode()
        self.send_response(200 if self.path in pages else 404)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server = ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler)
    print("listening at", server.server_port, flush=True)
    server.serve_forever()
