"""Zip and tar archives, sound and not."""

import bz2
import gzip
import lzma
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from hostile.archives import CENTRAL, LOCAL, edited, everything, header, tarred, zipped
from hostile.names import PATHS

from pcsr.data import archives
from torture.harness import Attempt, Case, Kind

# Fields of the headers of a zip: (offset in local ones, offset in central ones, bytes).
FIELDS = ((6, 8, 2), (8, 10, 2), (14, 16, 4), (18, 20, 4), (22, 24, 4), (26, 28, 2), (28, 30, 2))
EXTREMES = (0, 1, 9, 12, 14, 99, 0xFFFF, 10**6, 10**9, 2**31, 2**32 - 1)
PACKERS = (bytes, gzip.compress, bz2.compress, lzma.compress)
TYPES = (tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)
TYPES += (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_SPARSE, b"X")
EVERY, BOMB = 50, 100_000_000  # of the cases that are bombs; bytes of zeros


def lying_zip(path: Path, members: dict[str, bytes], random: np.random.Generator) -> None:
    """Write a zip with hostile names, and put nonsense into some of its headers."""
    method = int(random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)))
    mode = 0o120777 if random.random() < 0.1 else 0o100644
    zipped(path, members, compression=method, mode=mode)
    for _ in range(random.integers(3)):
        local, central, size = FIELDS[random.integers(len(FIELDS))]
        value = (int(random.choice(EXTREMES)) % 256**size).to_bytes(size, "little")
        changes = ((LOCAL, local, value), (CENTRAL, central, value))
        edited(path, path, *(changes if random.random() < 0.5 else changes[: random.integers(3)]))


def lying_tar(path: Path, members: dict[str, bytes], random: np.random.Generator) -> None:
    """Write a tar with members that are no files, or of other sizes than they say."""
    parts = []
    for name, data in members.items():
        kind, size = tarfile.REGTYPE, len(data)
        if random.random() < 0.2:
            kind = TYPES[random.integers(len(TYPES))]
        if random.random() < 0.2:
            size = int(random.choice((0, 1, size + 5000, 2**29 + 1, 8**11 - 1, 2**60)))
        parts += [header(name, size, kind, "/etc/passwd"), data]
    tarred(path, *parts, pack=PACKERS[random.integers(len(PACKERS))])


def damage(path: Path, random: np.random.Generator) -> None:
    """Flip bits, or cut the end, or neither."""
    data, how = bytearray(path.read_bytes()), random.random()
    if how < 0.3:
        for place in random.integers(len(data), size=random.integers(1, 6)):
            data[place] ^= 1 << int(random.integers(8))
    elif how < 0.5:
        del data[int(random.integers(len(data))) :]
    path.write_bytes(data)


@contextmanager
def attempts(folder: Path) -> Iterator[Attempt]:
    """Read all images of an archive; a zip has to give what was put in, or nothing."""
    archive = folder / "archive"

    def attempt(case: Case) -> None:
        random = case.random
        names = [f"set/{n}.png" for n in range(4)]
        if random.random() < 0.4:
            names += [f"{random.choice(PATHS)}/set/x.png", f"set/{random.choice(PATHS)}.png"]
        chosen = random.choice(names, random.integers(1, 5), replace=False).tolist()
        members = {name: random.bytes(int(random.integers(3000))) for name in chosen}
        if case.number % EVERY == 0:
            members["set/bomb.png"] = bytes(BOMB)
        is_zip = random.random() < 0.5
        (lying_zip if is_zip else lying_tar)(archive, members, random)
        damage(archive, random)
        found = everything(archive)
        assert not any(name.startswith("/") or ".." in Path(name).parts for name in found)
        assert not is_zip or set(found.values()) <= set(members.values())
        assert [path.name for path in folder.iterdir()] == [archive.name]

    yield attempt


KIND = Kind(count=1000, attempts=attempts, memory=2 * archives.SLACK)
