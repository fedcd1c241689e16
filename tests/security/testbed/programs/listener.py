"""A process with any name that listens on a port. `listener.py PORT NAME_IN_HEX [BODY_IN_HEX]` answers every HTTP
request with the body, or not at all without one.
"""

import ctypes
import socket
import sys
import threading

PORT, NAME, *BODY = sys.argv[1:]
ctypes.CDLL(None).prctl(15, bytes.fromhex(NAME), 0, 0, 0)  # PR_SET_NAME


def answer(connection):
    connection.recv(65536)
    body = bytes.fromhex(BODY[0])
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    connection.sendall(head + body)
    connection.close()


with socket.socket() as server:
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("127.0.0.1", int(PORT)))
    server.listen(50)
    held = []
    while True:
        connection, _ = server.accept()
        if BODY:
            threading.Thread(target=answer, args=(connection,), daemon=True).start()
        else:
            held.append(connection)
