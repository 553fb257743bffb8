"""Resumable, verified downloads, from the network or a local mirror."""

import filecmp
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import requests
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from pcsr.errors import UserError
from pcsr.files import locked, rename

CHUNK = 2**16  # bytes; an interruption loses at most this much
ATTEMPTS = 4  # consecutive ones without a new byte
TIMEOUT = (10, 60)  # seconds to connect, and between two reads
LOG_EVERY = 30  # seconds
MIRROR = "set PCSR_MIRROR to a folder laid out as data/README.md says"
AGAIN = (408, 425, 429, 500, 502, 503, 504)  # transient HTTP statuses, worth a retry

log = logging.getLogger("pcsr")


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


def fetch(
    url: str | None,
    destination: Path,
    *,
    bytes: int | None = None,
    sha256: str | None = None,
    md5: str | None = None,
    mirror: Path | None = None,
    mirror_name: str | None = None,
    get: str = "",
    pause: float = 1.0,
) -> Path:
    """Download ``url`` to ``destination`` unless it is already there, and return the path.

    An existing file with the expected size and checksum is left alone. Without a checksum to
    compare, it is accepted unless the mirror has a different one. A download grows in
    ``<destination>.part``, survives interruptions and restarts, and gets its final name only once
    it is complete, verified and on disk. Two processes that need the same file download it once.

    Args:
        url: address, or None for a file that only the user or a mirror can provide.
        bytes: size of the file, if known.
        sha256: expected checksum, 64 hex digits.
        md5: expected checksum, where no sha256 is published.
        mirror: folder searched before the network.
        mirror_name: path of the file inside ``mirror``.
        get: where the user gets a file that has no address.
        pause: seconds before the second attempt; doubles with each further one.

    Raises:
        UserError: the address is not HTTP, the server does not answer or has no such file, or the
            size or checksum is not as expected.
        OSError: the disk is full; the partial download stays, and a later call resumes it.
    """
    if url is not None and urlsplit(url).scheme not in ("http", "https"):
        raise UserError(f"{url}: not an http or https address; fix the url.")
    destination.parent.mkdir(parents=True, exist_ok=True)
    with locked(destination):
        problem = "no such file"
        copy = mirror / mirror_name if mirror is not None and mirror_name else None
        if destination.is_file():
            found = _problem(destination, bytes, sha256, md5)
            if found is None and copy is not None and copy.is_file() and not (sha256 or md5):
                same = filecmp.cmp(copy, destination, shallow=False)
                found = None if same else f"differs from {copy}"
            if found is None:
                return destination
            log.warning("%s: %s; downloading it again", destination, found)
            problem = found
        part = _beside(destination, ".part")
        if copy is not None and copy.is_file():
            origin, fix = str(copy), "put the right file there, or unset PCSR_MIRROR."
            log.info("copying %s", copy)
            _state(part).unlink(missing_ok=True)
            shutil.copyfile(copy, part)
        elif url is None:
            raise UserError(
                f"{destination}: {problem}; put the right file there, or into PCSR_MIRROR. {get}"
            )
        else:
            origin, fix = url, f"the download was removed: try again, or {MIRROR}."
            _download(url, part, pause)
        found = _problem(part, bytes, sha256, md5)
        _state(part).unlink(missing_ok=True)
        if found is not None:
            part.unlink()
            raise UserError(f"{origin}: {found}; {fix}")
        rename(part, destination)
    return destination


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _state(part: Path) -> Path:
    """Path of the JSON beside a partial download that records its url and version."""
    return _beside(part, ".json")


def _problem(path: Path, size: int | None, sha256: str | None, md5: str | None) -> str | None:
    """Return what is wrong with a file's size or checksum, or None."""
    found = path.stat().st_size
    if size is not None and found != size:
        return f"expected {size} bytes, found {found}"
    for name, expected in (("sha256", sha256), ("md5", md5)):
        if expected is not None:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, name).hexdigest()
            if digest != expected:
                return f"expected {name} {expected}, found {digest}"
    return None


def _download(url: str, part: Path, pause: float) -> None:
    """Complete ``part``; give up after ``ATTEMPTS`` consecutive attempts without progress."""
    failures, longest = 0, _size(part)
    while True:
        try:
            _transfer(url, part)
            return
        except requests.RequestException as error:
            reason = error
        failures = 0 if _size(part) > longest else failures + 1
        longest = max(longest, _size(part))
        if failures == ATTEMPTS:
            raise UserError(
                f"{url}: cannot be downloaded ({_short(reason)}); check the network, or {MIRROR}."
            ) from None
        log.warning("%s: %s; retrying", url, _short(reason))
        time.sleep(pause * 2 ** max(0, failures - 1))


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _short(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."


def _transfer(url: str, part: Path) -> None:
    """Request the rest of ``part`` once, and append the response to it.

    Raises:
        UserError: the server rejects the request.
        requests.RequestException: the transfer is incomplete.
    """
    headers = {"Accept-Encoding": "identity"} | _resume_headers(url, part)
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
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
                f"{url}: the server answered {status} {response.reason}; check the url, or "
                f"{MIRROR}."
            )
        if status == 200:  # the whole file, even if only the rest was requested
            have = 0
            part.write_bytes(b"")
            _state(part).write_text(json.dumps({"url": url, "validator": _validator(response)}))
        with part.open("ab") as file:
            for chunk in _shown(response, url, have):
                file.write(chunk)


def _resume_headers(url: str, part: Path) -> dict[str, str]:
    """Return the headers that request the rest of ``part``; none if it is not of ``url``."""
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


def _shown(response: requests.Response, url: str, have: int) -> Iterator[bytes]:
    """Yield the data; show a progress bar on a terminal, log lines elsewhere."""
    name = Path(urlsplit(url).path).name
    length = response.headers.get("Content-Length")
    total = have + int(length) if length is not None else None
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    last_logged = time.monotonic()
    log.info("downloading %s", url)
    console = Console(stderr=True)
    with Progress(
        *columns, TransferSpeedColumn(), console=console, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task(name, total=total, completed=have)
        for chunk in response.iter_content(CHUNK):
            yield chunk
            have += len(chunk)
            progress.update(task, completed=have)
            if progress.disable and time.monotonic() - last_logged > LOG_EVERY:
                last_logged = time.monotonic()
                share = f" of {total / 1e6:.0f}" if total else ""
                log.info("%s: %.0f%s MB", name, have / 1e6, share)
