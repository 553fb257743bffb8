"""Servers that lie: any status, header and body."""

import gzip
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
from hostile.downloads import (
    BODY,
    ENCODINGS,
    LENGTHS,
    LOCATIONS,
    SHA256,
    STATUSES,
    Answer,
    Liar,
    endless,
    head,
)

from pcsr.data import download
from pcsr.data.download import fetch
from pcsr.errors import UserError
from torture.harness import Attempt, Case, Kind

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

    settings = mock.patch.multiple(download, TIMEOUT=(1, 0.3), LARGEST=LARGEST)
    with closing(liar), settings, mock.patch.dict(os.environ, NO_PROXY="127.0.0.1"):
        yield attempt


KIND = Kind(count=300, attempts=attempts)
