"""Servers that lie: one prompt error, and never more on disk than the file should have."""

import gzip
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hostile.downloads import BODY, ENCODINGS, LENGTHS, LOCATIONS, OK, STATUSES, Liar, endless, head
from torture.downloads import SHA256, Answer

from pcsr.data import download
from pcsr.data.download import fetch
from pcsr.errors import UserError

SECONDS, GROWTH = 5.0, 64 * 2**20


@pytest.fixture
def liar(monkeypatch: pytest.MonkeyPatch) -> Iterator[Liar]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "TIMEOUT", (1, 0.3))
    made = Liar()
    yield made
    made.close()


def refusal(liar: Liar, answer: Answer, folder: Path, **given: Any) -> str:
    target = folder / "set.zip"
    liar.answers["set.zip"] = answer
    process = psutil.Process()
    memory, began = process.memory_info().rss, time.monotonic()
    expected = {"sha256": SHA256, "bytes": len(BODY), "pause": 0.0, **given}
    with pytest.raises(UserError) as error:
        fetch(liar.url(), target, **expected)
    message = str(error.value)
    assert time.monotonic() - began < SECONDS, message
    assert process.memory_info().rss - memory < GROWTH, message
    assert message.isprintable() and liar.url() in message, message
    assert not target.exists()
    largest = expected["bytes"] or download.LARGEST
    assert all(path.stat().st_size <= largest for path in folder.iterdir())
    return message


# http.client leaves a socket to the garbage collector where a status line is nonsense.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_headers_that_are_nonsense(liar: Liar, tmp_path: Path) -> None:
    for length in LENGTHS:
        message = refusal(liar, head(f"Content-Length: {length}") + BODY, tmp_path)
        assert "a length of" in message or "cannot be downloaded" in message
    for location in LOCATIONS:
        for status in ("302 Found", "301 Moved", "307 Temporary"):
            refusal(liar, head(f"Location: {location}", status=status), tmp_path)
    for status in STATUSES:
        refusal(liar, head("Content-Length: 0", status=status), tmp_path)
    for encoding in ENCODINGS:
        lines = (f"Content-Encoding: {encoding}", f"Content-Length: {len(BODY)}")
        assert "compressed" in refusal(liar, head(*lines) + BODY, tmp_path)
    bomb = gzip.compress(gzip.compress(bytes(10**7)))
    refusal(liar, head("Content-Encoding: gzip") + bomb, tmp_path)
    for nonsense in (b"", b"\0" * 5000, b"SSH-2.0-x\r\n", b"HTTP/1.1", OK, OK + b"x" * 10**5):
        refusal(liar, nonsense, tmp_path)
    refusal(liar, OK + b"".join(b"H%d: x\r\n" % n for n in range(500)) + b"\r\n", tmp_path)
    for ranges in ("bytes 5-9/10", "bytes x", "bytes 0-99999999999/1"):
        partial = head(f"Content-Range: {ranges}", status="206 Partial")
        refusal(liar, partial + BODY + BODY, tmp_path)


def test_bodies_that_are_longer_than_the_file(liar: Liar, tmp_path: Path) -> None:
    chunked = head("Transfer-Encoding: chunked")
    chunk = b"10000\r\n" + bytes(2**16) + b"\r\n"
    for answer in (
        endless(head(), bytes(2**16)),
        endless(chunked, chunk),
        head(f"Content-Length: {2**40}") + BODY,
        head(f"Content-Length: {len(BODY) + 1}") + BODY + b"x",
        head() + BODY + b"x",
    ):
        message = refusal(liar, answer, tmp_path)
        assert f"expected {len(BODY)} bytes, the server sends" in message
    for answer in (
        chunked + b"xyz\r\n",
        chunked + b"-5\r\n",
        chunked + b"f" * 99,
        chunked + b"5\r\nab",
    ):
        refusal(liar, answer, tmp_path)


def test_bodies_of_unknown_size_are_bounded_too(
    liar: Liar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "LARGEST", 500_000)
    for answer in (endless(head(), bytes(2**16)), head("Content-Length: 500001")):
        message = refusal(liar, answer, tmp_path, bytes=None)
        assert "expected at most 500000 bytes" in message


def test_redirects_are_followed_a_few_times_and_not_out_of_http(liar: Liar, tmp_path: Path) -> None:
    liar.answers |= {
        "a": head("Location: /b", status="302 Found") + b"x" * 10**6,
        "b": head("Location: c", status="301 Moved"),
        "c": head(f"Content-Length: {len(BODY)}") + BODY,
    }
    fetch(liar.url("a"), tmp_path / "got", sha256=SHA256)
    assert (tmp_path / "got").read_bytes() == BODY
    loop = head("Location: /set.zip", status="302 Found")
    assert "redirects more than" in refusal(liar, loop, tmp_path)
    assert len(liar.asked) == 3 + 1 + download.REDIRECTS
    body = endless(head("Location: /gone", status="302 Found"), bytes(2**16))
    assert "404" in refusal(liar, body, tmp_path)


def test_a_server_that_trickles_is_given_up(liar: Liar, tmp_path: Path) -> None:
    message = refusal(liar, endless(head(f"Content-Length: {len(BODY)}"), b"x", 0.02), tmp_path)
    assert "bytes per second" in message
    silent = endless(head(f"Content-Length: {len(BODY)}"), b"x", 1.5)
    assert "cannot be downloaded" in refusal(liar, silent, tmp_path)


def test_other_hosts_are_tried_in_order(liar: Liar, tmp_path: Path) -> None:
    good = head(f"Content-Length: {len(BODY)}") + BODY
    bad: list[Answer] = [
        head(status="404 Not Found"),
        head("Content-Length: x"),
        head(f"Content-Length: {len(BODY)}") + BODY[::-1],
        head() + b"<!DOCTYPE html><html>moved",
        endless(head(), bytes(2**16)),
        head(f"Content-Length: {len(BODY)}") + BODY[:-9],
        b"",
    ]
    for number, answer in enumerate(bad):
        liar.answers = {"a": answer, "b": bad[0], "c": good}
        target = tmp_path / f"{number}.zip"
        urls = [liar.url("b"), liar.url("c")]
        fetch(liar.url("a"), target, other_urls=urls, sha256=SHA256, bytes=len(BODY), pause=0.0)
        assert target.read_bytes() == BODY
    liar.asked.clear()
    liar.answers = {"a": good}
    fetch(liar.url("a"), tmp_path / "x", other_urls=[liar.url("b")], sha256=SHA256)
    assert liar.asked == ["a"]
    message = refusal(liar, bad[3], tmp_path, other_urls=[], bytes=None)
    assert "a web page (HTML)" in message
    with pytest.raises(UserError, match="not an http or https address"):
        fetch(liar.url("a"), tmp_path / "y", other_urls=["file:///etc/passwd"])
