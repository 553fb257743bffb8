"""Read images from zip and tar archives that may be damaged or hostile, without unpacking them."""

import io
import stat
import tarfile
import zipfile
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from pcsr.data import images
from pcsr.errors import UserError, one_line
from pcsr.storage import content

LARGEST = 2**29  # bytes of one image file; an uncompressed 8K image has a fifth of that
EXPANSION = 20  # unpacked bytes per byte of an archive; images hardly compress
SLACK = 2**26  # more unpacked bytes, for small archives
LONGEST_NAME = 2**16  # bytes of a tar header that names a member
NAMES = (  # types of such headers, which are read in one piece
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
)
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)
ENCRYPTED = 0x1


Reader = Callable[[], bytes]


@dataclass(frozen=True)
class Member:
    """A file in an archive, with its size in bytes and, if it cannot be used, the reason."""

    name: str
    size: int
    open: Callable[[], IO[bytes] | None]
    problem: str = ""


@contextmanager
def open_archive(archive: Path, pattern: str) -> Iterator[dict[str, Reader]]:
    """Open a zip or tar archive; yield name -> reader of the images whose path matches a glob.

    Raises:
        UserError: the archive is damaged or has no such image; or an image, when it is read, is
            damaged, encrypted, too large, or a link.
    """
    with ExitStack() as stack:
        with _one_error(archive):
            members = _members(archive, stack)
        readers: dict[str, Reader] = {}
        for member in members:
            if PurePosixPath(member.name).match(pattern) and images.is_image(member.name):
                _require_usable(archive, member, readers)
                readers[member.name] = partial(_read, archive, member)
        if not readers:
            raise UserError(f"{archive}: holds no image '{pattern}'; fix members.")
        yield readers


def _require_usable(archive: Path, member: Member, others: Collection[str]) -> None:
    path = PurePosixPath(member.name)
    problem = member.problem
    if member.size > LARGEST:
        problem = f"has {member.size} bytes, more than any image"
    elif member.name in others:
        problem = "is in it twice"
    elif path.is_absolute() or ".." in path.parts:
        problem = "has a path out of the archive"
    if problem:
        raise UserError(
            f"{archive}: its image '{one_line(member.name)}' {problem}; get the archive from its "
            "authors."
        )


@contextmanager
def _one_error(archive: Path, member: str = "") -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the archive is untrusted: any part of it may be anything
        what = f"its image '{one_line(member)}'" if member else "it"
        raise UserError(
            f"{archive}: damaged: {what} cannot be read ({one_line(error)}); remove the file and "
            "get it again."
        ) from None


def _read(archive: Path, member: Member) -> bytes:
    with _one_error(archive, member.name):
        with member.open() or io.BytesIO() as file:
            data = file.read()
        if len(data) != member.size:
            raise EOFError(f"{len(data)} of {member.size} bytes")
    return data


def _members(archive: Path, stack: ExitStack) -> list[Member]:
    """Open an archive; return its members, which must not expand beyond measure."""
    kind = content.describe(archive)
    if kind.startswith("a zip"):
        found = _of_zip(stack.enter_context(zipfile.ZipFile(archive)))
    else:
        try:
            tar = stack.enter_context(tarfile.open(archive, tarinfo=_Bounded))  # noqa: SIM115
        except tarfile.ReadError as error:
            raise UserError(
                f"{archive}: neither a zip nor a tar archive: it is {kind} ({one_line(error)}); "
                "remove the file, or fix the url."
            ) from None
        found = _of_tar(tar)
    limit = EXPANSION * archive.stat().st_size + SLACK
    members, total = [], 0
    for member in found:
        total += member.size + tarfile.BLOCKSIZE
        if total > limit:
            raise ValueError(f"more than {limit} bytes are in it")
        members.append(member)
    return members


def _of_zip(packed: zipfile.ZipFile) -> Iterator[Member]:
    for entry in packed.infolist():
        problem = ""
        if entry.flag_bits & ENCRYPTED:
            problem = "is encrypted"
        elif entry.compress_type not in METHODS:
            problem = f"is compressed by method {entry.compress_type}, which images never are"
        elif stat.S_ISLNK(entry.external_attr >> 16):
            problem = "is a link"
        yield Member(entry.filename, entry.file_size, partial(packed.open, entry), problem)


def _of_tar(tar: tarfile.TarFile) -> Iterator[Member]:
    for entry in tar:
        problem = "" if entry.isreg() else "is a link or a device"
        yield Member(entry.name, entry.size, partial(tar.extractfile, entry), problem)


class _Bounded(tarfile.TarInfo):
    """A tar header; one with a name or attributes that would fill the memory is refused."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Bounded":
        """See ``tarfile.TarInfo.frombuf``."""
        header = super().frombuf(buf, encoding, errors)
        if header.size < 0 or (header.type in NAMES and header.size > LONGEST_NAME):
            raise tarfile.ReadError(f"a header of {header.size} bytes")
        return header
