"""Zip and tar archives, sound and not."""

import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from pcsr.data.archives import open_archive

PATTERN = "set/*.png"


def everything(archive: Path) -> dict[str, bytes]:
    with open_archive(archive, PATTERN) as readers:
        return {name: read() for name, read in readers.items()}


def zipped(path: Path, members: dict[str, bytes], **given: int) -> Path:
    with zipfile.ZipFile(path, "w", given.get("compression", zipfile.ZIP_STORED)) as packed:
        for name, data in members.items():
            entry = zipfile.ZipInfo(name)
            entry.compress_type = packed.compression
            entry.external_attr = given.get("mode", 0o100644) << 16
            packed.writestr(entry, data)
    return path


def header(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size, entry.type, entry.linkname = size, kind, link
    return entry.tobuf(tarfile.GNU_FORMAT)


def tarred(path: Path, *parts: bytes, pack: Callable[[bytes], bytes] = bytes) -> Path:
    """Write a tar of headers and contents, each padded to whole blocks."""
    padded = (part + bytes(-len(part) % 512) for part in parts)
    path.write_bytes(pack(b"".join(padded) + bytes(1024)))
    return path


def edited(source: Path, target: Path, *changes: tuple[bytes, int, bytes]) -> Path:
    """Overwrite fields of all local and central headers of a zip: (signature, offset, value)."""
    data = bytearray(source.read_bytes())
    for signature, offset, value in changes:
        at = data.find(signature)
        while at >= 0:
            data[at + offset : at + offset + len(value)] = value
            at = data.find(signature, at + 4)
    target.write_bytes(data)
    return target


LOCAL, CENTRAL = b"PK\x03\x04", b"PK\x01\x02"
