"""Identify files by content, and verify them. Needs no torch."""

import errno
import hashlib
import json
import os
import re
import stat
from pathlib import Path
from typing import Any

from pcsr.errors import UserError

GIT_BLOB = "git_blob"  # a kind of checksum
SUMS = "SHA256SUMS"  # of a folder of weights; `sha256sum -c` reads it, too
LARGEST_JSON = 2**26  # bytes; times of all images have less than one of it
DEEPEST = 64  # levels of nested JSON; the suite writes fewer than ten

# First bytes of files that are often found under a wrong name.
BEGINNINGS = (
    (b"version https://git-lfs", "a Git LFS pointer instead of the file (run `git lfs pull`)"),
    (b"PK\x03\x04", "a zip archive, such as a PyTorch file"),
    (b"\x80", "a pickle, such as an older PyTorch file"),
    (b"\x1f\x8b", "gzip-compressed"),
    (b"BZh", "bzip2-compressed"),
    (b"\xfd7zXZ", "xz-compressed"),
    (b"Rar!", "a RAR archive"),
    (b"7z\xbc\xaf", "a 7-Zip archive"),
    (b"%PDF", "a PDF document"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x89HDF", "an HDF5 file"),
)


def describe(path: Path) -> str:
    """Return what a file is, by its first bytes, to follow "is": "a web page (HTML)"."""
    with path.open("rb") as file:
        start = file.read(1024)
    if not start:
        return "empty, truncated by an interrupted copy perhaps"
    if start[5:9] == b"\0\0\0{":  # the header's length, then the header
        return "a safetensors file"
    for beginning, kind in BEGINNINGS:
        if start.startswith(beginning):
            return kind
    if not start.strip(b"\0"):
        return "zeros, as an interrupted copy leaves them"
    if re.match(rb"(\xef\xbb\xbf)?\s*<(!doctype\s+html|html|head|\?xml|!--)", start, re.IGNORECASE):
        return "a web page (HTML)"
    is_text = not re.search(rb"[^\t\n\r\x20-\x7e\x80-\xff]", start)
    return "text" if is_text else "of no format that is known here"


def require_file(path: Path, kind: str, fix: str) -> int:
    """Check that a path is a regular file; return its size in bytes.

    Args:
        path: the file.
        kind: what it should be, e.g. "weights file".
        fix: what to do if it is missing.

    Raises:
        UserError: it is missing, a folder, a device, or in a folder that cannot be read.
    """
    try:
        found = path.stat()
    except OSError as error:
        reason = f"no such {kind}" if isinstance(error, FileNotFoundError) else error.strerror
        raise UserError(f"{path}: {reason}; {fix}") from None
    except ValueError:  # a NUL in the name
        raise UserError(f"{str(path)!r}: no path has such a name; {fix}") from None
    if not stat.S_ISREG(found.st_mode):
        what = "a folder" if stat.S_ISDIR(found.st_mode) else "a special file"
        raise UserError(f"{path}: is {what}, not a {kind}; {fix}")
    return found.st_size


def read_bytes(path: Path, most: int) -> bytes:
    """Return the content of an untrusted file of at most ``most`` bytes.

    Raises:
        OSError: it is missing, larger, or no regular file, such as a pipe, which may never end.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "is not a regular file", str(path))
    if found.st_size > most:
        raise OSError(errno.EFBIG, f"is larger than {most >> 10} KiB", str(path))
    return path.read_bytes()


def read_json(path: Path) -> Any:
    """Return the value in a JSON file that may be hostile.

    Raises:
        OSError: see ``read_bytes``.
        ValueError: see ``parse_json``; or it is not UTF-8.
    """
    return parse_json(read_bytes(path, LARGEST_JSON).decode("utf-8"))


def parse_json(text: str) -> Any:
    """Parse JSON from a file that may be hostile.

    Raises:
        ValueError: it is not JSON, gives a key twice, or is nested so deeply that reading or
            printing it would fail.
    """
    depth = 0
    for found in re.finditer(r'"(?:[^"\\]|\\.)*"|[][{}]', text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(found[0], 0)
        if depth > DEEPEST:
            raise ValueError(f"nested more than {DEEPEST} levels deep")
    return json.loads(text, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return pairs as a mapping; refuse a key given twice, whose last value would silently win."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"gives {next(k for k in keys if keys.count(k) > 1)!r:.60} twice")
    return found


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, 64 hex digits."""
    return digest(path, "sha256")


def digest(path: Path, kind: str) -> str:
    """Return a checksum of a file's content in hex digits.

    ``kind`` is a name that ``hashlib`` knows, or ``git_blob`` for the SHA-1 by which git names it.
    SHA-1 is weaker than SHA-256: two files with the same id can be made on purpose, but not a
    second file with the id of a published one.
    """
    total = hashlib.new("sha1" if kind == GIT_BLOB else kind)
    with path.open("rb") as file:
        if kind == GIT_BLOB:
            total.update(b"blob %d\0" % os.fstat(file.fileno()).st_size)
        return hashlib.file_digest(file, lambda: total).hexdigest()


def sums(files: list[Path]) -> str:
    """Return the text of a ``SHA256SUMS`` for files of one folder."""
    return "".join(f"{sha256(file)}  {file.name}\n" for file in sorted(files))


def require_recorded(path: Path) -> None:
    """Verify a file against the checksum in a ``SHA256SUMS`` beside it, if there is one.

    Raises:
        UserError: the file has another checksum.
    """
    record = path.with_name(SUMS)
    if not record.is_file():
        return
    for line in record.read_text(encoding="utf-8", errors="replace").splitlines():
        recorded, _, name = line.partition("  ")
        if name == path.name and sha256(path) != recorded:
            raise UserError(
                f"{path}: damaged or changed: its sha256 is not the one in {record}; get it again, "
                f"for example by `git checkout -- {path.parent}`, or drop its line there."
            )
