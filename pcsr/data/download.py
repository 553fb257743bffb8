"""Downloads that resume, are checked, and can come from a local mirror instead of the network."""

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
from pcsr.files import locked

CHUNK = 2**16  # bytes; a cut loses at most this much
ATTEMPTS = 4  # in a row without a new byte
TIMEOUT = (10, 60)  # seconds to connect, and between two pieces of data
LOG_EVERY = 30  # seconds
MIRROR = "set PCSR_MIRROR to a folder laid out as data/README.md says"
AGAIN = (408, 425, 429, 500, 502, 503, 504)  # HTTP statuses that may pass

log = logging.getLogger("pcsr")


def mirror_folder() -> Path | None:
    """Return the folder that the environment variable PCSR_MIRROR names, or None.

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
    """Make ``destination`` hold what ``url`` names, and return it.

    Nothing is done when the file is there with the right checksum; one that has no known checksum
    is the right one if the mirror has no other. What is downloaded grows in
    ``<destination>.part``, survives cuts and restarts, and gets its final name only when it is
    whole, checked and on the disk. Two processes that want the same file download it once.

    Args:
        url: address, or None for a file that only the user or a mirror has.
        bytes: size of the file, if known.
        sha256: expected checksum, 64 hex digits.
        md5: expected checksum, where no sha256 is published.
        mirror: folder that is looked into before the network.
        mirror_name: path of the file inside ``mirror``.
        get: where the user gets a file that has no address.
        pause: seconds before the second attempt; doubles with each further one.

    Raises:
        UserError: no HTTP address, no answer, no such file, or the size or checksum is not the
            expected one.
        OSError: the disk is full; the part stays, and a later call goes on from it.
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
                found = None if same else f"is not what {copy} holds"
            if found is None:
                return destination
            log.warning("%s: %s; getting it again", destination, found)
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
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(destination)
    return destination


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _state(part: Path) -> Path:
    """Path of the note beside a part that says which version of which url it is a part of."""
    return _beside(part, ".json")


def _problem(path: Path, size: int | None, sha256: str | None, md5: str | None) -> str | None:
    """Say what is wrong with a file, or None."""
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
    """Complete ``part``; give up after ``ATTEMPTS`` in a row that brought nothing new."""
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
        log.warning("%s: %s; trying again", url, _short(reason))
        time.sleep(pause * 2 ** max(0, failures - 1))


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _short(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."


def _transfer(url: str, part: Path) -> None:
    """Ask once for what ``part`` lacks, and append what comes.

    Raises:
        UserError: the server refuses the address.
        requests.RequestException: the transfer did not come to its end.
    """
    headers = {"Accept-Encoding": "identity"} | _resume_headers(url, part)
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        have, status = _size(part), answer.status_code
        served = answer.headers.get("Content-Range", "")
        if status == 416 and served == f"bytes */{have}":
            return  # the part was whole already
        if status == 416 or (status == 206 and not served.startswith(f"bytes {have}-")):
            part.unlink(missing_ok=True)
            raise requests.RequestException("the server has another range than was asked for")
        if status in AGAIN:
            raise requests.RequestException(f"the server answered {status} {answer.reason}")
        if status not in (200, 206):
            raise UserError(
                f"{url}: the server answered {status} {answer.reason}; check the url, or {MIRROR}."
            )
        if status == 200:  # from the start, also where a rest was asked for
            have = 0
            part.write_bytes(b"")
            _state(part).write_text(json.dumps({"url": url, "validator": _validator(answer)}))
        with part.open("ab") as file:
            for piece in _shown(answer, url, have):
                file.write(piece)


def _resume_headers(url: str, part: Path) -> dict[str, str]:
    """Return the headers that ask for the rest of ``part``, if it is a part of ``url``."""
    try:
        known = json.loads(_state(part).read_text())
        same, validator = known["url"] == url, known["validator"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    if not same or not _size(part):
        return {}
    headers = {"Range": f"bytes={_size(part)}-"}
    return headers | {"If-Range": validator} if validator else headers


def _validator(answer: requests.Response) -> str | None:
    """Return what names this version of the file; a weak ETag may not be used for ranges."""
    tag = answer.headers.get("ETag", "")
    return tag if tag.startswith('"') else answer.headers.get("Last-Modified")


def _shown(answer: requests.Response, url: str, have: int) -> Iterator[bytes]:
    """Pass on the data; show a bar on a terminal, log lines elsewhere."""
    name = Path(urlsplit(url).path).name
    length = answer.headers.get("Content-Length")
    total = have + int(length) if length is not None else None
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    said = time.monotonic()
    log.info("downloading %s", url)
    console = Console(stderr=True)
    with Progress(
        *columns, TransferSpeedColumn(), console=console, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task(name, total=total, completed=have)
        for piece in answer.iter_content(CHUNK):
            yield piece
            have += len(piece)
            progress.update(task, completed=have)
            if progress.disable and time.monotonic() - said > LOG_EVERY:
                said = time.monotonic()
                share = f" of {total / 1e6:.0f}" if total else ""
                log.info("%s: %.0f%s MB", name, have / 1e6, share)
