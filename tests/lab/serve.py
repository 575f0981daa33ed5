"""Serves a folder over https, as the official package repository is served: serve.py ADDRESS PORT FOLDER CERT KEY."""

import functools
import http.server
import ssl
import sys


class Handler(http.server.SimpleHTTPRequestHandler):
    # Connections stay open, as a client that was cut off in TLS takes its file for cut off too.
    protocol_version = "HTTP/1.1"


address, port, folder, cert, key = sys.argv[1:]
handler = functools.partial(Handler, directory=folder)
server = http.server.ThreadingHTTPServer((address, int(port)), handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(cert, key)
# The handshake is each connection's own business: a slow one must not hold up the next.
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
server.serve_forever()
