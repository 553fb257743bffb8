"""Resumable, verified downloads, from the network or a local mirror.

Servers are not trusted: addresses, lengths and bodies are checked, and no download grows beyond the
size that the file should have.
"""

import filecmp
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from pcsr.errors import UserError, log, one_line
from pcsr.storage import content
from pcsr.storage.files import locked, rename

CHUNK = 2**16  # bytes; an interruption loses at most this much
ATTEMPTS = 4  # consecutive ones that get less than CHUNK
TIMEOUT = (10, 60)  # seconds to connect, and between two reads
SLOWEST = 2**10  # bytes per second over TIMEOUT[1]; a server that trickles never times out
LARGEST = 2**32  # bytes of a file whose size is not known beforehand
REDIRECTS = 5
LOG_EVERY = 30  # seconds
MIRROR = "set PCSR_MIRROR to a folder laid out as data/README.md says"
AGAIN = (408, 425, 429, 500, 502, 503, 504)  # transient HTTP statuses, worth a retry


def mirror_folder() -> Path | None:
    """Return the folder named by the environment variable PCSR_MIRROR, or None if it is unset.

    Raises:
        UserError: it names a folder that does not exist.
    """
    value = os.environ.get("PCSR_MIRROR")
    if not value:
        return None
    if not Path(value).is_dir():
        raise UserError(f"PCSR_MIRROR: {value}: no such folder; fix or unset the variable.")
    return Path(value)


def in_mirror(*names: str | None) -> Path | None:
    """Return the first of these files or folders that the mirror has; None if it has none."""
    folder = mirror_folder()
    places = [folder / name for name in names if folder and name]
    return next((place for place in places if place.exists()), None)


def name_of(url: str) -> str:
    """Return the name of the file at an address."""
    return PurePosixPath(urlsplit(url).path).name


def fetch(
    url: str | None,
    destination: Path,
    *,
    other_urls: Sequence[str] = (),
    bytes: int | None = None,
    copy: Path | None = None,
    get: str = "",
    pause: float = 1.0,
    **checksums: str | None,
) -> Path:
    """Download ``url`` to ``destination`` unless it is already there, and return the path.

    An existing file with the expected size and checksum is left alone. Without a checksum to
    compare, it is accepted unless it differs from ``copy``. A download grows in
    ``<destination>.part``, survives interruptions and restarts, and gets its final name only once
    it is complete, verified and on disk. Two processes that need the same file download it once.

    Args:
        url: address, or None for a file that only the user or a mirror can provide.
        other_urls: addresses of the same file, tried in order if ``url`` fails.
        bytes: size of the file, if known; otherwise it must not exceed 4 GiB.
        copy: the file in a mirror, to be taken instead of a download where it exists.
        get: where the user gets a file that has no address.
        pause: seconds before the second attempt; doubles with each further one.
        checksums: what is published of ``sha256``, ``md5`` and ``git_blob``, the file's id in its
            git repository, in hex digits.

    Raises:
        UserError: the address is not HTTP, the server does not answer, has no such file or sends
            nonsense, or the size or checksum is not as expected.
        OSError: the disk is full; the partial download stays, and a later call resumes it.
    """
    expected = Expected(bytes, {kind: known for kind, known in checksums.items() if known})
    copy = copy if copy and copy.is_file() else None
    urls = [address for address in (url, *other_urls) if address is not None]
    for address in urls:
        if urlsplit(address).scheme not in ("http", "https"):
            raise UserError(f"{address}: not an http or https address; fix the url.")
    destination.parent.mkdir(parents=True, exist_ok=True)
    with locked(destination):
        problem = expected.problem(destination)
        if problem is None and copy and not expected.checksums:
            same = filecmp.cmp(copy, destination, shallow=False)
            problem = None if same else f"differs from {copy}"
        if problem is None:
            return destination
        if destination.is_file():
            log.warning("%s: %s; downloading it again", destination, problem)
        part = destination.with_name(f"{destination.name}.part")
        if copy:
            found = Expected(bytes, {}).problem(copy)
            if found is None:
                log.info("copying %s", copy)
                _remove(part)  # what a download left
                shutil.copyfile(copy, part)
                if found := expected.problem(part):
                    part.unlink()
            if found is not None:
                raise UserError(f"{copy}: {found}; put the right file there, or unset PCSR_MIRROR.")
        elif not urls:
            raise UserError(
                f"{destination}: {problem}; put the right file there, or into PCSR_MIRROR. {get}"
            )
        else:
            _from_hosts(urls, part, expected, pause)
        _state(part).unlink(missing_ok=True)
        rename(part, destination)
    return destination


@dataclass(frozen=True)
class Expected:
    """What a file should be: its size in bytes, if known, and its checksums by kind."""

    size: int | None
    checksums: Mapping[str, str]

    def problem(self, path: Path) -> str | None:
        """Return what is wrong with a file's size or checksum, or None."""
        if not path.is_file():
            return "no such file"
        found = path.stat().st_size
        if self.size is not None and found != self.size:
            return f"expected {self.size} bytes, found {found}"
        for kind, checksum in self.checksums.items():
            if (digest := content.digest(path, kind)) != checksum:
                what = content.describe(path)
                told = f", {what}" if "HTML" in what or "LFS" in what else ""
                return f"expected {kind} {checksum}, found {digest}{told}"
        return None


def _from_hosts(urls: Sequence[str], part: Path, expected: Expected, pause: float) -> None:
    """Download and verify ``part`` from the first address that serves the right file."""
    for number, url in enumerate(urls, start=1):
        try:
            _download(url, part, expected.size, pause)
            found = expected.problem(part)
            if found is None:
                return
            _remove(part)
            raise UserError(f"{url}: {found}; the download was removed: try again, or {MIRROR}.")
        except UserError as error:
            if number == len(urls):
                raise
            log.warning("%s Trying %s", error, urls[number])


def _remove(part: Path) -> None:
    part.unlink(missing_ok=True)
    _state(part).unlink(missing_ok=True)


def _state(part: Path) -> Path:
    """Return the JSON beside a partial download that records its url and version."""
    return part.with_name(f"{part.name}.json")


def _download(url: str, part: Path, size: int | None, pause: float) -> None:
    """Complete ``part``; give up after ``ATTEMPTS`` consecutive attempts with little progress."""
    failures, longest = 0, _size(part)
    while True:
        try:
            _transfer(url, part, size)
            return
        except ValueError as error:  # an answer that is nonsense stays so
            _remove(part)
            raise UserError(
                f"{url}: cannot be downloaded ({one_line(error)}); check the url, or {MIRROR}."
            ) from None
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            reason = one_line(error)
        failures = 0 if _size(part) >= longest + CHUNK else failures + 1
        longest = max(longest, _size(part))
        if failures == ATTEMPTS:
            raise UserError(
                f"{url}: cannot be downloaded ({reason}); check the network, or {MIRROR}."
            )
        log.warning("%s: %s; retrying", url, reason)
        time.sleep(pause * 2 ** max(0, failures - 1))


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _transfer(url: str, part: Path, size: int | None) -> None:
    """Request the rest of ``part`` once, and append the response to it.

    Raises:
        UserError: the server rejects the request, or has more than the file should have.
        ValueError: the answer is nonsense.
        requests.RequestException, urllib3.exceptions.HTTPError: the transfer is incomplete.
    """
    headers = {"Accept-Encoding": "identity"} | _resume_headers(url, part)
    with _Session() as session, _answer(session, url, headers) as response:
        have, status = _size(part), response.status_code
        served = response.headers.get("Content-Range", "")
        if status == 416 and served == f"bytes */{have}":
            return  # the part was complete already
        if status == 416 or (status == 206 and not served.startswith(f"bytes {have}-")):
            part.unlink(missing_ok=True)
            raise requests.RequestException("the server sent a different range than requested")
        if status in AGAIN:
            raise requests.RequestException(f"the server answered {status} {response.reason}")
        if status not in (200, 206):
            raise UserError(
                f"{url}: the server answered {status} {one_line(response.reason, 60)}; check the "
                f"url, or {MIRROR}."
            )
        if status == 200:  # the whole file, even if only the rest was requested
            have = 0
        stated = _stated_length(response)
        _require_room(url, part, size, have + (stated or 0))
        if status == 200:
            part.write_bytes(b"")
            _state(part).write_text(json.dumps({"url": url, "validator": _validator(response)}))
        with part.open("ab") as file:
            for chunk in _shown(response, url, have, stated):
                have += len(chunk)
                _require_room(url, part, size, have)
                file.write(chunk)


def _require_room(url: str, part: Path, size: int | None, offered: int) -> None:
    """Refuse a body that is longer than the file should be, before it is written."""
    limit = LARGEST if size is None else size
    if offered > limit:
        _remove(part)
        expected = f"at most {limit}" if size is None else f"{size}"
        raise UserError(
            f"{url}: expected {expected} bytes, the server sends {offered} or more; check the url, "
            f"or {MIRROR}."
        )


class _Session(requests.Session):
    """Leaves redirects to the caller, because requests would read their bodies to the end."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """See ``requests.Session.get_redirect_target``."""


def _answer(session: requests.Session, url: str, headers: dict[str, str]) -> requests.Response:
    """Request an address and follow its redirects; their bodies are not read.

    Raises:
        ValueError: there are too many redirects, or one leaves HTTP or drops encryption.
    """
    allowed = ("https",) if urlsplit(url).scheme == "https" else ("http", "https")
    at = url
    for _ in range(1 + REDIRECTS):
        response = session.get(
            at, headers=headers, stream=True, timeout=TIMEOUT, allow_redirects=False
        )
        if not response.is_redirect:
            return response
        response.close()
        at = urljoin(at, response.headers["Location"].encode("latin1").decode())
        if urlsplit(at).scheme not in allowed:
            raise ValueError(f"it redirects to {one_line(at, 100)}")
    raise ValueError(f"it redirects more than {REDIRECTS} times")


def _stated_length(response: requests.Response) -> int | None:
    """Return the length of the body that the server states, in bytes; None if it states none.

    Raises:
        ValueError: the length is nonsense, or the body is compressed, so its size is unknown.
    """
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding.strip().lower() not in ("", "identity"):
        raise ValueError(f"the server sends it compressed: {encoding}")
    stated = response.headers.get("Content-Length")
    if stated is None:
        return None
    if not (stated.isascii() and stated.isdigit() and len(stated) < 20):
        raise ValueError(f"the server states a length of {stated!r:.40} bytes")
    return int(stated)


def _resume_headers(url: str, part: Path) -> dict[str, str]:
    """Return the headers that request the rest of ``part``; none if it is from another url."""
    try:
        state = json.loads(_state(part).read_text())
        same, validator = state["url"] == url, state["validator"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    if not same or not _size(part):
        return {}
    headers = {"Range": f"bytes={_size(part)}-"}
    return headers | {"If-Range": validator} if validator else headers


def _validator(response: requests.Response) -> str | None:
    """Return what identifies this version of the file; weak ETags are not valid for ranges."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified")


def _shown(response: requests.Response, url: str, have: int, stated: int | None) -> Iterator[bytes]:
    """Yield the data; show a progress bar on a terminal, log lines elsewhere."""
    name = name_of(url)
    total = have + stated if stated is not None else None
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn())
    last_logged = time.monotonic()
    log.info("downloading %s", url)
    console = Console(stderr=True)
    with Progress(
        *columns, TransferSpeedColumn(), console=console, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task(name, total=total, completed=have)
        for chunk in _in_time(response):
            yield chunk
            have += len(chunk)
            progress.update(task, completed=have)
            if progress.disable and time.monotonic() - last_logged > LOG_EVERY:
                last_logged = time.monotonic()
                share = f" of {total / 1e6:.0f}" if total else ""
                log.info("%s: %.0f%s MB", name, have / 1e6, share)


def _in_time(response: requests.Response) -> Iterator[bytes]:
    """Yield the data as it comes, unless it comes too slowly (``requests.Timeout``)."""
    began, came = time.monotonic(), 0
    while chunk := response.raw.read1(CHUNK):  # what is there, without waiting for all of CHUNK
        yield chunk
        came += len(chunk)
        if (now := time.monotonic()) - began > TIMEOUT[1]:
            if came < SLOWEST * (now - began):
                raise requests.Timeout(f"fewer than {SLOWEST} bytes per second")
            began, came = now, 0
