import hashlib
import io
import json
import logging
import math
import resource
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pcsr.config.load import load_datasets
from pcsr.config.models import DatasetConfig
from pcsr.data import images
from pcsr.data.bicubic import resize
from pcsr.data.prepare import make_store, reduced
from pcsr.data.store import Store
from pcsr.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def photo(seed: int, height: int = 40, width: int = 31) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height + seed, width, 3), np.uint8)


def config(source: dict[str, Any], **given: Any) -> DatasetConfig:
    return DatasetConfig.model_validate({"source": source, **given})


@pytest.fixture
def hr(tmp_path: Path) -> Path:
    """Six images img_1 ... img_10 whose natural order is not alphabetical."""
    for seed, number in enumerate((1, 2, 3, 8, 9, 10)):
        images.write(tmp_path / "hr" / f"img_{number}.png", photo(seed))
    return tmp_path / "hr"


@pytest.fixture(autouse=True)
def no_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PCSR_MIRROR", raising=False)


def folder(hr: Path, **given: Any) -> DatasetConfig:
    return config({"kind": "folder", "path": str(hr), "get": "Ask the museum."}, **given)


def contents(out: Path) -> dict[str, bytes]:
    """The store's files; of the manifest what does not depend on when it was made."""
    files = {path.name: path.read_bytes() for path in out.iterdir()}
    manifest = json.loads(files.pop("manifest.json"))
    del manifest["made"]
    return {**files, "manifest.json": json.dumps(manifest).encode()}


# -- what is packed ------------------------------------------------------------------------------


def test_a_folder_is_packed_in_natural_order(tmp_path: Path, hr: Path) -> None:
    make_store("set", folder(hr, expected=6), tmp_path / "out")
    store = Store.open(tmp_path / "out")
    assert store.names == ["img_1", "img_2", "img_3", "img_8", "img_9", "img_10"]
    assert all(np.array_equal(store.hr(i), photo(i)) for i in range(6))
    assert store.lr(0) is None
    assert store.complete
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["hr.bin", "manifest.json"]
    manifest = store.manifest
    assert manifest["format"] == 1
    assert manifest["dataset"] == "set"
    assert manifest["expected"] == 6
    assert manifest["config"] == folder(hr, expected=6).identity()
    assert manifest["bytes"] == (tmp_path / "out" / "hr.bin").stat().st_size
    assert "versions" in manifest["made"]


def test_first_and_last_are_inclusive_and_natural(tmp_path: Path, hr: Path) -> None:
    make_store("set", folder(hr, first="img_3", last="img_9"), tmp_path / "out")
    assert Store.open(tmp_path / "out").names == ["img_3", "img_8", "img_9"]
    with pytest.raises(UserError, match=r"no image of .* lies between first 'img_4'"):
        make_store("set", folder(hr, first="img_4", last="img_7"), tmp_path / "none")
    assert not (tmp_path / "none" / "manifest.json").exists()


def test_reductions_are_matlab_bicubic_rounded_once(tmp_path: Path, hr: Path) -> None:
    make_store("set", folder(hr, reductions=(1, 0.9, 0.6), last="img_2"), tmp_path / "out")
    store = Store.open(tmp_path / "out")
    assert store.names == [f"img_{n}{suffix}" for n in (1, 2) for suffix in ("", "@0.9", "@0.6")]
    assert store.sizes[3:] == [(41, 31), (37, 28), (25, 19)]
    for k, factor in ((1, 0.9), (2, 0.6)):
        planes = torch.from_numpy(photo(0).astype(np.float64)).permute(2, 0, 1)[None]
        size = math.ceil(factor * 40), math.ceil(factor * 31)
        expected = resize(planes, size)[0].permute(1, 2, 0).numpy()
        found = store.hr(k).astype(np.float64)
        assert found.shape[:2] == size
        assert np.abs(found - expected.clip(0, 255)).max() <= 0.5
    assert (reduced(np.full((9, 9, 3), 255, np.uint8), 0.5) == 255).all()


def test_given_lr_images_are_packed_too(tmp_path: Path, hr: Path) -> None:
    lrs = [photo(50 + i, -40, 7) for i in range(6)]
    for i, number in enumerate((1, 2, 3, 8, 9, 10)):
        images.write(tmp_path / "lr" / f"img_{number}x4.png", lrs[i])
    source = {"kind": "folder", "path": str(hr), "lr_path": str(tmp_path / "lr"), "get": "Ask."}
    make_store("set", config(source), tmp_path / "out")
    store = Store.open(tmp_path / "out")
    for i in range(6):
        assert np.array_equal(store.hr(i), photo(i))
        assert np.array_equal(store.lr(i), lrs[i])
    # The same folder without LR: the old lr.bin must not stay.
    make_store("set", folder(hr), tmp_path / "out")
    assert Store.open(tmp_path / "out").lr(0) is None
    assert not (tmp_path / "out" / "lr.bin").exists()
    (tmp_path / "lr" / "img_3x4.png").unlink()
    with pytest.raises(UserError, match=r"no LR image 'img_3' .* Ask\."):
        make_store("set", config(source), tmp_path / "out")
    with pytest.raises(ValueError, match="do not fit reduced"):
        config(source, reductions=(1, 0.5))


def test_grey_images_need_grey_to_rgb(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "hr").mkdir()
    Image.fromarray(photo(0)[:, :, 0]).save(tmp_path / "hr" / "grey.png")
    with pytest.raises(UserError, match=r"grey\.png: the image is grey; .* grey_to_rgb"):
        make_store("set", folder(tmp_path / "hr"), tmp_path / "out")
    make_store("set", folder(tmp_path / "hr", grey_to_rgb=True), tmp_path / "out")
    packed = Store.open(tmp_path / "out").hr(0)
    assert np.array_equal(packed, np.repeat(photo(0)[:, :, :1], 3, axis=2))


# -- where images come from ---------------------------------------------------------------------


def test_wheels_are_found_without_importing_them(tmp_path: Path) -> None:
    table = load_datasets()
    make_store("embedded-test", table["embedded-test"], tmp_path / "out")
    store = Store.open(tmp_path / "out")
    assert store.names == ["astronaut", "china"]
    assert store.sizes == [(512, 512), (427, 640)]
    for entry in ("skimage/data/none.png", "no_such_package/a.png"):
        with pytest.raises(UserError, match=f"{entry}: the Python package"):
            make_store("set", config({"kind": "wheels", "images": [entry]}), tmp_path / "none")
    wrong = {"kind": "wheels", "images": ["skimage/data/coffee.png"]}
    with pytest.raises(UserError, match="set: expected 2 images, found 1"):
        make_store("set", config(wrong, expected=2), tmp_path / "none")


def test_no_embedded_image_is_in_two_splits() -> None:
    table = load_datasets()
    splits = [table[f"embedded-{split}"].source.images for split in ("train", "valid", "test")]
    every = [image for split in splits for image in split]
    assert len(every) == len(set(every))
    stereo = [split for split in splits if any("motorcycle" in image for image in split)]
    assert len(stereo) == 1


def pack(archive: Path, hr: Path) -> dict[str, Any]:
    """Make an archive as the network serves it, with files that are no images of the set."""
    files = [(f"set/HR/{path.name}", path.read_bytes()) for path in sorted(hr.iterdir())]
    files += [("set/HR/._img_1.png", b"by a Mac"), ("set/LR/img_1.png", b"?"), ("set/a.txt", b"?")]
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as packed:
            for name, data in files:
                packed.writestr(name, data)
    else:
        with tarfile.open(archive, "w") as packed:
            for name, data in files:
                member = tarfile.TarInfo(name)
                member.size = len(data)
                packed.addfile(member, io.BytesIO(data))
    data = archive.read_bytes()
    checks = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    # Nothing listens there: an archive can only come from data/raw or from the mirror.
    url = f"http://127.0.0.1:9/{archive.name}"
    return {"kind": "archive", "url": url, "members": "set/HR/*.png", **checks}


@pytest.mark.parametrize("suffix", ["zip", "tar"])
def test_an_archive_is_read_without_being_unpacked(tmp_path: Path, hr: Path, suffix: str) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    source = pack(raw / f"set.{suffix}", hr)
    make_store("set", config(source, expected=6), tmp_path / "out", raw)
    make_store("same", folder(hr), tmp_path / "same")
    assert Store.open(tmp_path / "out").digest == Store.open(tmp_path / "same").digest
    assert {path.name for path in raw.iterdir()} == {f"set.{suffix}", f"set.{suffix}.lock"}
    with pytest.raises(UserError, match="expected 7 images, found 6 in set"):
        make_store("set", config(source, expected=7), tmp_path / "none", raw)
    with pytest.raises(UserError, match=r"holds no image 'x/\*\.png'"):
        make_store("set", config(source | {"members": "x/*.png"}), tmp_path / "none", raw)


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set.zip").write_bytes(b"hello")
    source = {"kind": "archive", "url": "http://127.0.0.1:9/set.zip", "members": "*"}
    source["md5"] = hashlib.md5(b"hello").hexdigest()
    with pytest.raises(UserError, match="neither a zip nor a tar"):
        make_store("set", config(source), tmp_path / "out", tmp_path)


@pytest.mark.parametrize("named", [False, True])
def test_the_archive_comes_from_the_mirror(
    tmp_path: Path, hr: Path, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    place = tmp_path / "mirror" / ("sets" if named else "")
    place.mkdir(parents=True)
    source = pack(place / "set.zip", hr) | {"mirror": "sets/set.zip" if named else "set/HR"}
    monkeypatch.setenv("PCSR_MIRROR", str(tmp_path / "mirror"))
    make_store("set", config(source, expected=6), tmp_path / "out", tmp_path / "raw")
    assert len(Store.open(tmp_path / "out")) == 6
    assert (tmp_path / "raw" / "set.zip").read_bytes() == (place / "set.zip").read_bytes()


def test_a_folder_of_the_mirror_may_be_incomplete(
    tmp_path: Path, hr: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = pack(tmp_path / "set.zip", hr) | {"mirror": "hr"}
    monkeypatch.setenv("PCSR_MIRROR", str(tmp_path))
    make_store("set", config(source, expected=9), tmp_path / "out", tmp_path / "raw")
    assert not Store.open(tmp_path / "out").complete
    assert "expected 9 images, found 6" in caplog.text
    assert not (tmp_path / "raw").exists()
    make_store("set", config(source, expected=6), tmp_path / "out", tmp_path / "raw")
    assert Store.open(tmp_path / "out").complete


def test_a_missing_folder_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none: no such folder; .* Ask the museum\."):
        make_store("set", folder(tmp_path / "none"), tmp_path / "out")


def test_no_two_images_of_one_name(tmp_path: Path, hr: Path) -> None:
    with pytest.raises(UserError, match=r"set: two images are called 'img_1@0\.5'"):
        make_store("set", folder(hr, reductions=(1, 0.5, 0.5)), tmp_path / "out")
    (hr / "img_1.jpg").touch()
    with pytest.raises(UserError, match="set: two images are called 'img_1'"):
        make_store("set", folder(hr), tmp_path / "out")


# -- stopping and resuming ------------------------------------------------------------------------


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the images that are read from now on."""
    names: list[str] = []
    real = images.read

    def counted(source: Any, *rest: Any, **given: Any) -> np.ndarray:
        names.append(Path(source).stem)
        return real(source, *rest, **given)

    monkeypatch.setattr(images, "read", counted)
    return names


def test_a_second_call_does_nothing_and_says_so(
    tmp_path: Path, hr: Path, reads: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pcsr")
    make_store("set", folder(hr, expected=7), tmp_path / "out")
    before = (tmp_path / "out" / "manifest.json").stat().st_mtime_ns
    reads.clear()
    caplog.clear()
    make_store("set", folder(hr, expected=7), tmp_path / "out")
    assert reads == []
    assert (tmp_path / "out" / "manifest.json").stat().st_mtime_ns == before
    assert "set: already prepared" in caplog.text
    assert "it is not complete" in caplog.text


def test_another_configuration_or_a_damaged_file_makes_it_again(
    tmp_path: Path, hr: Path, reads: list[str]
) -> None:
    make_store("set", folder(hr), tmp_path / "out")
    make_store("set", folder(hr, last="img_3"), tmp_path / "out")
    assert len(Store.open(tmp_path / "out")) == 3
    whole = contents(tmp_path / "out")
    with (tmp_path / "out" / "hr.bin").open("ab") as file:
        file.write(b"!")
    reads.clear()
    make_store("set", folder(hr, last="img_3"), tmp_path / "out")
    assert reads == ["img_1", "img_2", "img_3"]
    assert contents(tmp_path / "out") == whole


@contextmanager
def stopped_at(name: str) -> Iterator[None]:
    """Raise KeyboardInterrupt when the image ``name`` is read."""
    real = images.read

    def stop(source: Any, *rest: Any, **given: Any) -> np.ndarray:
        if Path(source).stem == name:
            raise KeyboardInterrupt
        return real(source, *rest, **given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "read", stop)
        with pytest.raises(KeyboardInterrupt):
            yield


TAILS = {
    "nothing": lambda out: None,
    "bytes of an image without its record": lambda out: append(out / "hr.bin.part", b"x" * 999),
    "a torn record": lambda out: append(out / "index.jsonl.part", b'[{"name": "img_8", "hei'),
    "zeros, after a power cut": lambda out: append(out / "index.jsonl.part", b"\0" * 50),
}


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


@pytest.mark.parametrize("tail", TAILS)
def test_a_restart_resumes_and_gives_the_same_store(
    tmp_path: Path, hr: Path, reads: list[str], tail: str
) -> None:
    made = folder(hr, reductions=(1, 0.7))
    make_store("set", made, tmp_path / "at-once")
    out = tmp_path / "out"
    with stopped_at("img_8"):
        make_store("set", made, out)
    assert not (out / "manifest.json").exists()
    assert not (out / "hr.bin").exists()
    TAILS[tail](out)
    reads.clear()
    make_store("set", made, out)
    assert reads == ["img_8", "img_9", "img_10"]
    assert contents(out) == contents(tmp_path / "at-once")


def test_lost_bytes_are_made_again(tmp_path: Path, hr: Path, reads: list[str]) -> None:
    out = tmp_path / "out"
    with stopped_at("img_8"):
        make_store("set", folder(hr), out)
    data = (out / "hr.bin.part").read_bytes()
    (out / "hr.bin.part").write_bytes(data[:-1])
    reads.clear()
    make_store("set", folder(hr), out)
    assert reads == ["img_3", "img_8", "img_9", "img_10"]
    assert all(np.array_equal(Store.open(out).hr(i), photo(i)) for i in range(6))


@pytest.mark.parametrize("change", [{"first": "img_2"}, {"reductions": (1, 0.5)}])
def test_a_restart_with_another_configuration_starts_afresh(
    tmp_path: Path, hr: Path, reads: list[str], change: dict[str, Any]
) -> None:
    out = tmp_path / "out"
    with stopped_at("img_8"):
        make_store("set", folder(hr), out)
    reads.clear()
    make_store("set", folder(hr, **change), out)
    assert reads[-5:] == ["img_2", "img_3", "img_8", "img_9", "img_10"]
    assert len(reads) == (5 if "first" in change else 6)
    make_store("set", folder(hr, **change), tmp_path / "at-once")
    assert contents(out) == contents(tmp_path / "at-once")


def test_an_old_store_stays_usable_until_the_new_one_is_whole(tmp_path: Path, hr: Path) -> None:
    out = tmp_path / "out"
    make_store("set", folder(hr, last="img_2"), out)
    with stopped_at("img_8"):
        make_store("set", folder(hr), out)
    assert Store.open(out).names == ["img_1", "img_2"]


def test_a_full_disk_stops_it_and_a_later_run_resumes(
    tmp_path: Path, hr: Path, reads: list[str]
) -> None:
    out = tmp_path / "out"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # room for two images and a bit
    try:
        with pytest.raises(OSError, match="File too large"):
            make_store("set", folder(hr), out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (out / "hr.bin.part").stat().st_size > 0
    assert not (out / "manifest.json").exists()
    reads.clear()
    make_store("set", folder(hr), out)
    assert reads == ["img_3", "img_8", "img_9", "img_10"]
    assert all(np.array_equal(Store.open(out).hr(i), photo(i)) for i in range(6))


def test_an_unreadable_image_is_named_and_the_rest_is_kept(
    tmp_path: Path, hr: Path, reads: list[str]
) -> None:
    good = (hr / "img_9.png").read_bytes()
    (hr / "img_9.png").write_bytes(good[:200])
    with pytest.raises(UserError, match=r"img_9\.png: the image is damaged"):
        make_store("set", folder(hr), tmp_path / "out")
    (hr / "img_9.png").write_bytes(good)
    reads.clear()
    make_store("set", folder(hr), tmp_path / "out")
    assert reads == ["img_9", "img_10"]


# -- is it the published set ---------------------------------------------------------------------


def test_the_number_of_tiles_tells_whether_a_set_is_the_published_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The images have 1, 4, 0 and 8 tiles: pixels beyond whole tiles make none."""
    for number, size in enumerate(((128, 128), (243, 240), (127, 999), (240, 464))):
        images.write(tmp_path / "hr" / f"{number}.png", np.zeros((*size, 3), np.uint8))
    here = folder(tmp_path / "hr", expected=4)
    caplog.set_level(logging.INFO, "pcsr")

    def said(out: str, **given: Any) -> list[tuple[int, str]]:
        caplog.clear()
        make_store("set", here.model_copy(update=given), tmp_path / out)
        return [
            (one.levelno, one.getMessage()) for one in caplog.records if " tiles" in one.message
        ]

    as_published = [(logging.INFO, "set: 4 images, 13 tiles, as published")]
    not_it = "set: 4 images, 13 tiles, but the published set has 12,320; results on this set are "
    assert said("out") == []
    assert said("out", tiles=13) == as_published  # a prepared set is not packed again for it
    assert "already prepared" in caplog.text
    assert said("new", tiles=13) == as_published
    assert said("new", tiles=12_320) == [(logging.WARNING, f"{not_it}not comparable")]
    assert said("few", tiles=13, expected=5) == []
    assert "expected 5 images, found 4" in caplog.text
