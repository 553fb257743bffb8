import hashlib
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pcsr.data import download as module
from pcsr.data.download import fetch, mirror_folder
from pcsr.errors import UserError

BODY = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(BODY).hexdigest()


class Server(ThreadingHTTPServer):
    """A file server on 127.0.0.1 whose behaviour a test can break."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body = BODY
        self.etag: str | None = '"v1"'
        self.ranges = True
        self.statuses: list[int] = []  # answered first, one per request
        self.cuts: list[int] = []  # bytes after which the next answers break off
        self.requests: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/set.zip"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, headers = self.server, dict(self.headers.items())
        server.requests.append(headers)
        if server.statuses:
            self.send_response(server.statuses.pop(0))
            self.end_headers()
            return
        start = int(headers.get("Range", "bytes=0-")[6:-1])
        if not server.ranges or headers.get("If-Range", server.etag) != server.etag:
            start = 0
        total = len(server.body)
        if start >= total:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{total}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        if server.etag:
            self.send_header("ETag", server.etag)
        self.send_header("Content-Length", str(total - start))
        self.end_headers()
        end = start + server.cuts.pop(0) if server.cuts else total
        self.wfile.write(server.body[start:end])

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def get(server: Server, target: Path, **given: Any) -> Path:
    return fetch(server.url, target, **{"sha256": SHA256, "pause": 0.0, **given})


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_downloads_once(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "raw" / "set.zip"
    assert get(server, target, bytes=len(BODY)) == target
    assert target.read_bytes() == BODY
    get(server, target)
    assert len(server.requests) == 1
    assert left(target.parent) == ["set.zip"]


def test_resumes_after_dropped_connections(server: Server, tmp_path: Path) -> None:
    server.cuts = [140_000, 80_000]
    get(server, tmp_path / "set.zip")
    assert (tmp_path / "set.zip").read_bytes() == BODY
    starts = [int(headers.get("Range", "bytes=0-")[6:-1]) for headers in server.requests]
    assert 0 == starts[0] < starts[1] < starts[2]
    assert starts[1] >= 140_000 - module.CHUNK
    assert [headers.get("If-Range") for headers in server.requests] == [None, '"v1"', '"v1"']


def test_resumes_after_a_restart_of_the_program(server: Server, tmp_path: Path) -> None:
    server.cuts = [140_000] + [0] * module.ATTEMPTS
    with pytest.raises(UserError, match=r"cannot be downloaded .*PCSR_MIRROR") as error:
        get(server, tmp_path / "set.zip")
    assert server.url in str(error.value)
    assert left(tmp_path) == ["set.zip.part", "set.zip.part.json"]
    before = len(server.requests)
    get(server, tmp_path / "set.zip")
    assert (tmp_path / "set.zip").read_bytes() == BODY
    assert len(server.requests) == before + 1
    assert "Range" in server.requests[-1]
    assert left(tmp_path) == ["set.zip"]


def test_a_partial_file_of_another_version_or_url_is_not_resumed(
    server: Server, tmp_path: Path
) -> None:
    server.cuts = [140_000] + [0] * module.ATTEMPTS
    with pytest.raises(UserError, match="cannot be downloaded"):
        get(server, tmp_path / "set.zip")
    server.body, server.etag = BODY[::-1], '"v2"'
    digest = hashlib.sha256(server.body).hexdigest()
    get(server, tmp_path / "set.zip", sha256=digest)  # If-Range: the server starts again
    assert (tmp_path / "set.zip").read_bytes() == BODY[::-1]

    part = tmp_path / "other.zip.part"
    part.write_bytes(b"x" * 1000)
    part.with_name("other.zip.part.json").write_text('{"url": "http://else", "validator": null}')
    fetch(server.url, tmp_path / "other.zip", sha256=digest)
    assert "Range" not in server.requests[-1]


def test_a_server_without_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    server.ranges, server.cuts = False, [140_000]
    get(server, tmp_path / "set.zip")
    assert "Range" in server.requests[1]
    assert (tmp_path / "set.zip").read_bytes() == BODY


def test_a_server_that_always_cuts_at_the_same_place_is_given_up(
    server: Server, tmp_path: Path
) -> None:
    server.ranges, server.cuts = False, [140_000] * 50
    with pytest.raises(UserError, match="cannot be downloaded"):
        get(server, tmp_path / "set.zip")
    assert len(server.requests) == 1 + module.ATTEMPTS


@pytest.mark.parametrize("etag", ['"v1"', 'W/"v1"', None])
def test_only_a_strong_etag_guards_a_range(
    server: Server, tmp_path: Path, etag: str | None
) -> None:
    server.etag, server.cuts = etag, [140_000]
    get(server, tmp_path / "set.zip")
    assert "Range" in server.requests[1]
    assert server.requests[1].get("If-Range") == (etag if etag == '"v1"' else None)


def test_416_means_whole_or_start_again(server: Server, tmp_path: Path) -> None:
    for content in (BODY, BODY + b"too long"):
        part = tmp_path / "set.zip.part"
        part.write_bytes(content)
        part.with_name("set.zip.part.json").write_text(
            f'{{"url": "{server.url}", "validator": null}}'
        )
        server.requests.clear()
        get(server, tmp_path / "set.zip")
        assert (tmp_path / "set.zip").read_bytes() == BODY
        assert len(server.requests) == (1 if content == BODY else 2)
        (tmp_path / "set.zip").unlink()


def test_passing_server_errors_are_tried_again(server: Server, tmp_path: Path) -> None:
    server.statuses = [503, 429]
    get(server, tmp_path / "set.zip")
    assert len(server.requests) == 3


def test_a_refused_address_is_not_tried_again(server: Server, tmp_path: Path) -> None:
    server.statuses = [404]
    with pytest.raises(UserError, match=r"set\.zip: the server answered 404 Not Found; check"):
        get(server, tmp_path / "set.zip")
    assert len(server.requests) == 1
    assert left(tmp_path) == []


@pytest.mark.parametrize("check", ["sha256", "md5", "bytes"])
def test_wrong_bytes_are_removed_and_both_checksums_named(
    server: Server, tmp_path: Path, check: str
) -> None:
    server.body = BODY[:-1] + b"!" if check != "bytes" else BODY[:-7]
    expected, found = {
        "sha256": (SHA256, hashlib.sha256(server.body).hexdigest()),
        "md5": (hashlib.md5(BODY).hexdigest(), hashlib.md5(server.body).hexdigest()),
        "bytes": (len(BODY), len(server.body)),
    }[check]
    with pytest.raises(UserError) as error:
        fetch(server.url, tmp_path / "set.zip", **{check: expected})
    for part in (server.url, str(expected), str(found), "try again", "PCSR_MIRROR"):
        assert part in str(error.value)
    assert left(tmp_path) == []


def test_a_wrong_file_with_the_final_name_is_replaced(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set.zip").write_bytes(b"an older version")
    get(server, tmp_path / "set.zip")
    assert (tmp_path / "set.zip").read_bytes() == BODY


def test_the_mirror_comes_before_the_network(server: Server, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    (mirror / "sets").mkdir(parents=True)
    (mirror / "sets" / "set.zip").write_bytes(BODY)
    target = tmp_path / "raw" / "set.zip"
    get(server, target, copy=mirror / "sets/set.zip")
    assert target.read_bytes() == BODY
    assert server.requests == []
    get(server, tmp_path / "b.zip", copy=mirror / "sets/none.zip")
    assert len(server.requests) == 1


def test_a_wrong_mirror_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "set.zip").write_bytes(b"wrong")
    target = tmp_path / "raw" / "set.zip"
    with pytest.raises(UserError, match=rf"{tmp_path}/set\.zip: expected sha256 {SHA256}, found "):
        fetch(
            "http://nowhere.invalid/set.zip",
            target,
            sha256=SHA256,
            copy=tmp_path / "set.zip",
        )
    assert left(target.parent) == []
    assert (tmp_path / "set.zip").read_bytes() == b"wrong"


def test_no_answer_names_the_url_and_the_fix(tmp_path: Path, server: Server) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError) as error:
        get(server, tmp_path / "set.zip")
    for part in (server.url, "check the network", "PCSR_MIRROR", "data/README.md"):
        assert part in str(error.value)
    assert left(tmp_path) == []


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://a/b.zip", "set.zip"])
def test_other_addresses_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(UserError, match="not an http or https address"):
        fetch(url, tmp_path / "set.zip")


def test_a_full_disk_keeps_what_came(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Iterator[bytes]:
        yield BODY[:1000]
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(module, "_shown", full)
        with pytest.raises(OSError, match="No space left"):
            get(server, tmp_path / "set.zip")
    assert (tmp_path / "set.zip.part").read_bytes() == BODY[:1000]
    assert not (tmp_path / "set.zip").exists()
    get(server, tmp_path / "set.zip")
    assert server.requests[-1]["Range"] == "bytes=1000-"


def test_two_processes_download_one_file_once(server: Server, tmp_path: Path) -> None:
    both = [threading.Thread(target=get, args=(server, tmp_path / "set.zip")) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert (tmp_path / "set.zip").read_bytes() == BODY
    assert len(server.requests) == 1


def test_mirror_folder_reads_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PCSR_MIRROR", raising=False)
    assert mirror_folder() is None
    monkeypatch.setenv("PCSR_MIRROR", str(tmp_path))
    assert mirror_folder() == tmp_path
    monkeypatch.setenv("PCSR_MIRROR", os.fspath(tmp_path / "none"))
    with pytest.raises(UserError, match=r"PCSR_MIRROR: .*none: no such folder"):
        mirror_folder()
