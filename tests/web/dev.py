#!/usr/bin/env python3
"""Serves web/ from the disk and passes everything else on to a running server, to work on the studio without a build.

    ./target/release/vstar serve --data-dir .vstar &
    tests/web/dev.py --port 8090 --server http://127.0.0.1:8080 [--below /studio]

`--below` serves the page below a path, as a proxy may do.
"""

import argparse
import http.client
import mimetypes
import pathlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

WEB = pathlib.Path(__file__).resolve().parents[2] / "web"
# The policy of the service, so that what it forbids is seen here too.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade"}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_any(self):
        below = self.server.below
        if below and self.path == below:
            self.send_response(308)
            self.send_header("location", below + "/")
            self.send_header("content-length", "0")
            return self.end_headers()
        if not self.path.startswith(below + "/"):
            return self.answer(404, b"not found", "text/plain")
        path = self.path[len(below) :]
        plain = path.split("?")[0]
        if plain == "/":
            return self.file(WEB / "index.html")
        if plain.startswith("/assets/"):
            return self.file((WEB / plain[len("/assets/") :]).resolve())
        return self.pass_on(path)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

    def file(self, path):
        if not path.is_relative_to(WEB) or not path.is_file():
            return self.answer(404, b"not found", "text/plain")
        kind = "text/javascript" if path.suffix == ".js" else mimetypes.guess_type(path.name)[0] or "text/plain"
        return self.answer(200, path.read_bytes(), kind)

    def answer(self, status, body, kind):
        self.send_response(status)
        for name, value in (
            ("content-type", f"{kind}; charset=utf-8"),
            ("content-length", str(len(body))),
            ("cache-control", "no-store"),
            ("content-security-policy", POLICY),
            ("x-content-type-options", "nosniff"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def pass_on(self, path):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP | {"host", "origin"}}
        server = self.server.upstream
        connection = http.client.HTTPConnection(server.hostname, server.port, timeout=120)
        try:
            connection.request(self.command, path, body or None, headers)
            response = connection.getresponse()
        except OSError:
            return self.close()
        self.send_response(response.status)
        for name, value in response.getheaders():
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        length = response.getheader("content-length")
        bare = response.status in (204, 304)
        if length is None and not bare:
            self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        try:
            while not bare and (part := response.read1(65536)):
                self.wfile.write(part if length is not None else b"%x\r\n%s\r\n" % (len(part), part))
                self.wfile.flush()
            if length is None and not bare:
                self.wfile.write(b"0\r\n\r\n")
        except (OSError, http.client.HTTPException):
            self.close()
        finally:
            connection.close()

    def close(self):
        """Ends the connection without an answer, as a proxy does whose server has gone."""
        self.close_connection = True
        try:
            self.connection.shutdown(2)
        except OSError:
            pass

    def log_message(self, *_):
        pass


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--port", type=int, default=8090)
    parser.add_argument("--server", default="http://127.0.0.1:8080")
    parser.add_argument("--below", default="")
    options = parser.parse_args()
    server = ThreadingHTTPServer(("127.0.0.1", options.port), Handler)
    server.daemon_threads = True
    server.upstream = urlsplit(options.server)
    server.below = options.below.rstrip("/")
    print(f"http://127.0.0.1:{options.port}{server.below}/")
    server.serve_forever()


if __name__ == "__main__":
    main()
