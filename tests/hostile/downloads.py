"""A server that lies, and what servers may say."""

import hashlib
import socket
import threading
import time
from collections.abc import Callable

BODY = bytes(range(256)) * 400
SHA256 = hashlib.sha256(BODY).hexdigest()
OK = b"HTTP/1.1 200 OK\r\n"
Answer = bytes | Callable[[socket.socket], None]


class Liar:
    """A server on 127.0.0.1 that sends any bytes: path -> answer."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def url(self, path: str = "set.zip") -> str:
        return f"http://127.0.0.1:{self.port}/{path}"

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for thread in (self._accepting, *self._threads):
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                request = connection.recv(2**16).decode("latin1")
                path = request.split(" ")[1].lstrip("/") if " " in request else ""
                self.asked.append(path)
                answer = self.answers.get(path, b"HTTP/1.1 404 Not Found\r\n\r\n")
                if callable(answer):
                    answer(connection)
                else:
                    connection.sendall(answer)
            except OSError:
                pass  # the client has had enough


def head(*lines: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode("latin1")


def endless(start: bytes, chunk: bytes, pause: float = 0.0) -> Callable[[socket.socket], None]:
    def send(connection: socket.socket) -> None:
        connection.sendall(start)
        while True:
            connection.sendall(chunk)
            time.sleep(pause)

    return send


LENGTHS = (
    "abc",
    "-5",
    "1e9",
    "0x10",
    "5, 6",
    "9" * 30,
    "+7",
    "1_0",
    "١٢".encode().decode("latin1"),
)
LOCATIONS = (
    *("file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x", "javascript:x", "gopher://x", "//["),
    *("http://[::1", "http://127.0.0.1:99999/", "http://127.0.0.1:x/", "http://", "http://a b/"),
    *("http://\xff\xfe/", "http://.../", "set.zip", "", "\x7f", "http://" + "x" * 300 + "/"),
)
STATUSES = (
    "",
    "abc OK",
    "999 \x1b[31mred",
    "204 Empty",
    "304 Same",
    "206 Partial",
    "100 x",
)
ENCODINGS = ("gzip", "deflate", "br", "zstd", "gzip, gzip", "\x01", "x-unknown")
