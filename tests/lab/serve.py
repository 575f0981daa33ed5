"""Serves a folder over https, as the official package repository is served: serve.py ADDRESS PORT FOLDER CERT KEY."""

import functools
import http.server
import ssl
import sys


class Handler(http.server.SimpleHTTPRequestHandler):
    # Keeps connections open, because a client treats a file as incomplete if its TLS connection ends early.
    protocol_version = "HTTP/1.1"


address, port, folder, cert, key = sys.argv[1:]
handler = functools.partial(Handler, directory=folder)
server = http.server.ThreadingHTTPServer((address, int(port)), handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(cert, key)
# Each connection does its own handshake, so a slow one does not delay others.
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
server.serve_forever()
