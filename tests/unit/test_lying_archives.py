"""Archives that are damaged or hostile: one error, in a moment, in little memory; no escape."""

import bz2
import gzip
import lzma
import struct
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import psutil
import pytest
from hostile.archives import CENTRAL, LOCAL, edited, everything, header, tarred, zipped

from pcsr.data import images
from pcsr.errors import UserError

SECONDS, GROWTH = 1.0, 160 * 2**20
ZEROS = 500_000_000


@pytest.fixture(scope="module")
def png(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("png") / "a.png"
    images.write(path, np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8))
    return path.read_bytes()


def refusal(archive: Path) -> str:
    process = psutil.Process()
    memory, began = process.memory_info().rss, time.process_time()
    with pytest.raises(UserError) as error:
        everything(archive)
    message = str(error.value)
    assert time.process_time() - began < SECONDS, (archive.name, message)
    assert process.memory_info().rss - memory < GROWTH, (archive.name, message)
    assert message.isprintable() and str(archive) in message, message
    return message


def test_sound_archives_are_read(tmp_path: Path, png: bytes) -> None:
    members = {"set/b.png": png, "set/a.png": png[::-1], "set/note.txt": b"x", "else/c.png": png}
    expected = {name: data for name, data in members.items() if name in ("set/a.png", "set/b.png")}
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2):
        assert everything(zipped(tmp_path / "a.zip", members, compression=method)) == expected
    for pack in (bytes, gzip.compress, bz2.compress, lzma.compress):
        parts = [part for name, data in members.items() for part in (header(name, len(data)), data)]
        assert everything(tarred(tmp_path / "a.tar", *parts, pack=pack)) == expected


def test_zips_that_lie(tmp_path: Path, png: bytes) -> None:
    good = zipped(tmp_path / "good.zip", {"set/a.png": png})
    packed = zipped(tmp_path / "p.zip", {"set/a.png": png}, compression=zipfile.ZIP_DEFLATED)
    bad = tmp_path / "bad.zip"
    encrypted = edited(good, bad, (LOCAL, 6, b"\1\0"), (CENTRAL, 8, b"\1\0"))
    assert "is encrypted" in refusal(encrypted)
    for method in (1, 6, 9, 14, 93, 95, 99, 1234):
        number = struct.pack("<H", method)
        assert f"method {method}" in refusal(
            edited(good, bad, (LOCAL, 8, number), (CENTRAL, 10, number))
        )
    crc = (LOCAL, 14, b"abcd"), (CENTRAL, 16, b"abcd")
    assert "Bad CRC" in refusal(edited(good, bad, *crc))
    for size in (0, 1, len(png) - 1, len(png) + 1, 10**6, 10**9, 2**32 - 2):
        number = struct.pack("<I", size)
        for source in (good, packed):
            refusal(edited(source, bad, (LOCAL, 22, number), (CENTRAL, 24, number)))
    refusal(edited(good, bad, (CENTRAL, 42, struct.pack("<I", 2**31))))
    refusal(edited(good, bad, (LOCAL, 30, b"other.png")))
    for name in ("/set/a.png", "../set/a.png", "x/../set/a.png", "/etc/set/\x1b[31m.png"):
        assert "a path out of the archive" in refusal(zipped(bad, {name: png}))
    assert "is a link" in refusal(zipped(bad, {"set/a.png": b"/etc/passwd"}, mode=0o120777))
    with zipfile.ZipFile(bad, "w") as twice, pytest.warns(UserWarning, match="Duplicate"):
        twice.writestr("set/a.png", png)
        twice.writestr("set/a.png", png)
    assert "is in it twice" in refusal(bad)
    zipped(bad, {"set/a.png": bytes(ZEROS // 5)}, compression=zipfile.ZIP_DEFLATED)
    assert "bytes are in it" in refusal(bad)
    many = zipped(bad, {f"set/{i}.txt": b"" for i in range(3000)}, mode=0)
    assert "holds no image" in refusal(many)
    for size in range(0, good.stat().st_size, 250):
        bad.write_bytes(good.read_bytes()[:size])
        refusal(bad)


def test_tars_that_lie(tmp_path: Path, png: bytes) -> None:
    bad = tmp_path / "bad.tar"
    whole = (header("set/a.png", len(png)), png)
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
        assert "link" in refusal(tarred(bad, header("set/a.png", 0, kind, "/etc/passwd"), *whole))
    for name in ("/set/a.png", "../set/a.png", "x/../set/a.png"):
        message = refusal(tarred(bad, header(name, len(png)), png))
        assert "a path out of the archive" in message
    assert "is in it twice" in refusal(tarred(bad, *whole, *whole))
    for size in (len(png) + 5000, 10**6, 2**29 + 1, 8**11 - 1, 2**60):
        refusal(tarred(bad, header("set/a.png", size), png))
        refusal(tarred(bad, *whole, header("set/b.png", size), png))
        refusal(tarred(bad, header("else/b.png", size), *whole) if size > 2**29 else bad)
    for kind in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, b"X", b"K"):
        refusal(tarred(bad, header("x", ZEROS, kind), b"5 a=b", *whole))
    zeros = gzip.compress(bytes(ZEROS // 5), 1)
    for first in (header("set/a.png", ZEROS), header("else", ZEROS), header("x", ZEROS, b"x")):
        bad.write_bytes(gzip.compress(first) + zeros * 5)
        refusal(bad)
    deep = b"".join(header("x", 0, tarfile.XHDTYPE) for _ in range(5000))
    refusal(tarred(bad, deep, *whole))
    for pack in (bytes, gzip.compress, bz2.compress, lzma.compress):
        good = tarred(bad, *whole, pack=pack).read_bytes()
        for size in range(0, min(len(good), 512 + len(png)), 300):
            bad.write_bytes(good[:size])
            refusal(bad)


def test_flipped_bits_give_the_image_or_the_error(tmp_path: Path, png: bytes) -> None:
    """A zip has checksums of its own; a tar has none, which is why archives are verified whole."""
    file = tmp_path / "archive"
    whole = (header("set/a.png", len(png)), png)
    for is_zip in (True, False):
        zipped(file, {"set/a.png": png}) if is_zip else tarred(file, *whole, pack=gzip.compress)
        good, refused = file.read_bytes(), 0
        for place in range(0, len(good), 37):
            data = bytearray(good)
            data[place] ^= 1 << (place % 8)
            file.write_bytes(data)
            try:
                assert everything(file) == {"set/a.png": png} or not is_zip
            except UserError:
                refused += 1
        assert refused > (len(good) // 37 - 5 if is_zip else 0)


def test_what_is_no_archive_is_called_what_it_is(tmp_path: Path) -> None:
    for data, kind in {
        b"<html>404": "a web page (HTML)",
        b"": "empty",
        b"Not found": "text",
        b"Rar!\x1a\7\1\0": "a RAR archive",
        b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive",
    }.items():
        file = tmp_path / "set.zip"
        file.write_bytes(data)
        message = refusal(file)
        assert "neither a zip nor a tar archive" in message and f"it is {kind}" in message
