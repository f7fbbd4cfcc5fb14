"""An HTTP proxy in this process that leads everything to one server."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class HttpProxy:
    """Takes requests and tunnels (CONNECT) for any server, and passes them on to ``server`` (HOST:PORT).

    ``requests`` holds the head of each. With a ``refusal``, like ``407 Proxy Authentication Required``, all
    are refused.
    """

    def __init__(self, server: str = "", refusal: str = "") -> None:
        self.server, self.refusal = server.rpartition("/")[2], refusal
        self.requests: list[str] = []

    @contextmanager
    def serve(self) -> Iterator[str]:
        """Listen on a port of this machine; yield the URL."""
        with socket.create_server(("127.0.0.1", 0)) as listening:
            threading.Thread(target=self._accept, args=(listening,), daemon=True).start()
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
            with suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)

    def _accept(self, listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listening.accept()
                threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _answer(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(65_536)
            self.requests.append(head.decode("latin-1").partition("\r\n\r\n")[0])
            if self.refusal:
                client.sendall(f"HTTP/1.1 {self.refusal}\r\nContent-Length: 0\r\n\r\n".encode())
                return
            host, _, port = self.server.rpartition(":")
            with socket.create_connection((host, int(port))) as server:
                if head.startswith(b"CONNECT"):
                    client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                else:
                    server.sendall(head)
                back = threading.Thread(target=_pipe, args=(server, client), daemon=True)
                back.start()
                _pipe(client, server)
                back.join()


def _pipe(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
