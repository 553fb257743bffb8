"""Servers that lie: any status, header and body."""

import gzip
import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from pcsr.data import download
from pcsr.data.download import fetch
from pcsr.errors import UserError
from torture.harness import Attempt, Case, Kind

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
LARGEST = 500_000  # bytes of a file of unknown size


def pick(random: np.random.Generator, *choices: str) -> str:
    return choices[random.integers(len(choices))]


def lie(random: np.random.Generator) -> Answer:
    """Make an answer of which any part may be sound or not."""
    lines, length = [], str(len(BODY))
    status = pick(random, *["200 OK"] * 9, "206 Partial", "302 Found", *STATUSES)
    if random.random() < 0.7:
        wrong = pick(random, "0", str(len(BODY) + 1), str(2**40), *LENGTHS)
        lines.append(f"Content-Length: {length if random.random() < 0.7 else wrong}")
    if random.random() < 0.1:
        lines.append(f"Content-Encoding: {pick(random, *ENCODINGS)}")
    chunked = random.random() < 0.2
    if chunked:
        lines.append("Transfer-Encoding: chunked")
    if status.startswith("3"):
        lines.append(f"Location: {pick(random, '/set.zip', *LOCATIONS)}")
    if status.startswith("206"):
        ranges = ("0-9/10", "x", "0-99999999999/1", f"0-{len(BODY) - 1}/{len(BODY)}", "5-9/10")
        lines.append(f"Content-Range: bytes {pick(random, *ranges)}")
    start = bytearray(head(*lines, status=status))
    if random.random() < 0.2:
        start[random.integers(len(start))] = random.integers(256)
    if random.random() < 0.1:
        part = b"10000\r\n" + bytes(2**16) + b"\r\n" if chunked else bytes(2**16)
        return endless(bytes(start), part, float(random.choice((0, 0, 0.02, 1.5))))
    return bytes(start) + body(random, chunked)


def body(random: np.random.Generator, chunked: bool) -> bytes:
    """Make a body: the file, whole, cut, longer, changed, compressed, or something else."""
    at = int(random.integers(len(BODY)))
    lies = (BODY[:at], BODY + b"x", BODY[at:] + BODY[:at], gzip.compress(BODY), b"")
    lies += (b"<!DOCTYPE html><html>Sign in", random.bytes(200))
    made = BODY if random.random() < 0.5 else lies[random.integers(len(lies))]
    if not chunked:
        return made
    size = f"{len(made):x}"
    size = pick(random, size, size, size, f"{len(made) // 2:x}", "-5", "xyz", "f" * 99)
    return b"%s\r\n%s\r\n0\r\n\r\n" % (size.encode(), made)


@contextmanager
def attempts(folder: Path) -> Iterator[Attempt]:
    """Download a file with a known checksum; it has to be that file."""
    os.environ["NO_PROXY"] = "127.0.0.1"
    download.TIMEOUT, download.LARGEST = (1, 0.3), LARGEST
    liar = Liar()

    def attempt(case: Case) -> None:
        target = folder / f"{case.number}" / "set.zip"
        size = len(BODY) if case.random.random() < 0.7 else None
        others = [liar.url("other")] if case.random.random() < 0.2 else []
        liar.answers = {"set.zip": lie(case.random), "other": lie(case.random)}
        try:
            fetch(liar.url(), target, other_urls=others, bytes=size, sha256=SHA256, pause=0.0)
            assert target.read_bytes() == BODY
        except UserError:
            assert not target.exists()
            raise
        finally:
            assert all(x.stat().st_size <= (size or LARGEST) for x in target.parent.iterdir())

    yield attempt
    liar.close()


KIND = Kind(count=300, attempts=attempts)
