import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile.images import photo

from pcsr.data import images
from pcsr.data.batches import Crops
from pcsr.data.store import Store, sha256
from pcsr.data.test_images import open_images
from pcsr.errors import UserError
from pcsr.geometry import crop_origins

SIZES = [(40, 30), (16, 50), (33, 33)]


def make_store(folder: Path, with_lr: bool = False) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Write a store by hand, after the description of the format, and return its images."""
    folder.mkdir(parents=True)
    hrs = [photo(*size, seed=i) for i, size in enumerate(SIZES)]
    lrs = [photo(height // 4, width // 4, seed=9) for height, width in SIZES]
    records: list[dict[str, Any]] = []
    hr_bytes = lr_bytes = b""
    for i, (hr, lr) in enumerate(zip(hrs, lrs, strict=True)):
        record = {"name": f"p{i}", "height": hr.shape[0], "width": hr.shape[1]}
        record |= {"offset": len(hr_bytes), "sha256": sha256(hr)}
        if with_lr:
            record |= {"lr_height": lr.shape[0], "lr_width": lr.shape[1]}
            record |= {"lr_offset": len(lr_bytes), "lr_sha256": sha256(lr)}
        records.append(record)
        hr_bytes += hr.tobytes()
        lr_bytes += lr.tobytes() if with_lr else b""
    (folder / "hr.bin").write_bytes(hr_bytes)
    if with_lr:
        (folder / "lr.bin").write_bytes(lr_bytes)
    manifest = {"format": 1, "complete": True, "images": records, "config": {}}
    manifest["bytes"] = len(hr_bytes) + len(lr_bytes)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return hrs, lrs


@pytest.mark.parametrize("with_lr", [False, True])
def test_store_gives_back_the_images(tmp_path: Path, with_lr: bool) -> None:
    hrs, lrs = make_store(tmp_path / "s", with_lr)
    store = Store.open(tmp_path / "s")
    assert len(store) == 3
    assert store.names == ["p0", "p1", "p2"]
    assert store.sizes == SIZES
    assert store.complete
    for i in range(3):
        assert np.array_equal(store.hr(i), hrs[i])
        lr = store.lr(i)
        assert (lr is not None and np.array_equal(lr, lrs[i])) if with_lr else lr is None
    with pytest.raises(ValueError, match="read-only"):
        store.hr(0)[0, 0, 0] = 1


def edit(folder: Path, **changes: Any) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | changes))


def test_damaged_stores_are_refused_with_the_fix(tmp_path: Path) -> None:
    def refused(problem: str, name: str) -> None:
        with pytest.raises(UserError, match=problem) as error:
            Store.open(folder)
        assert name in str(error.value)
        assert "run `pcsr prepare s`" in str(error.value)

    folder = tmp_path / "s"
    refused("not prepared", "manifest.json")
    make_store(folder, with_lr=True)
    whole = (folder / "manifest.json").read_text()
    for name in ("hr.bin", "lr.bin"):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[:-1])
        refused(f"expected {len(data)} bytes, found {len(data) - 1}", name)
        (folder / name).unlink()
        refused("found 0", name)
        (folder / name).write_bytes(data)
    for text in ("", whole[: len(whole) // 2], "[]", '{"images": []}', '{"images": [{"name": 1}]}'):
        (folder / "manifest.json").write_text(text)
        refused("not a readable manifest", "manifest.json")
    for change in ({"format": 2}, {"bytes": 1}, {"complete": "yes"}):
        (folder / "manifest.json").write_text(whole)
        edit(folder, **change)
        refused("entries are inconsistent", "manifest.json")


def test_digest_changes_with_any_image_and_with_the_order(tmp_path: Path) -> None:
    make_store(tmp_path / "a")
    make_store(tmp_path / "b", with_lr=True)
    a, b = Store.open(tmp_path / "a"), Store.open(tmp_path / "b")
    assert len(a.digest) == 64
    assert a.digest != b.digest
    records = [image.record() for image in a.images]
    assert "lr_height" not in records[0]
    edit(tmp_path / "a", images=[records[1], records[0], records[2]])
    assert Store.open(tmp_path / "a").digest != a.digest
    (tmp_path / "a" / "hr.bin").write_bytes(bytes(a.images[-1].end))
    records = [
        r | {"sha256": sha256(np.zeros((*size, 3), np.uint8))}
        for r, size in zip(records, SIZES, strict=True)
    ]
    edit(tmp_path / "a", images=records)
    assert Store.open(tmp_path / "a").digest != a.digest


def test_crop_origins_of_the_protocol() -> None:
    assert crop_origins(127, 128, 64, 48) == []
    assert crop_origins(128, 128, 64, 48) == [0]
    assert crop_origins(128 + 48, 128, 64, 48) == [0]
    assert crop_origins(128 + 49, 128, 64, 48) == [0, 49]
    assert crop_origins(128 + 64, 128, 64, 48) == [0, 64]
    assert crop_origins(128 + 64 + 49, 128, 64, 48) == [0, 64, 113]


@pytest.mark.parametrize(("size", "step", "keep_over"), [(128, 64, 48), (64, 32, 24), (20, 10, 7)])
def test_crop_count_and_cover_by_brute_force(size: int, step: int, keep_over: int) -> None:
    for length in range(1, 5 * size):
        origins = crop_origins(length, size, step, keep_over)
        regular = [at for at in range(length) if at % step == 0 and at + size <= length]
        assert origins[: len(regular)] == regular
        covered = {pixel for at in origins for pixel in range(at, at + size)}
        assert covered <= set(range(length))
        if length >= size:
            uncovered_before = length - (regular[-1] + size)
            formula = (length - size) // step + 1 + (uncovered_before > keep_over)
            assert len(origins) == len(set(origins)) == formula
            assert len(covered) == length if uncovered_before > keep_over else True
            assert length - len(covered) <= keep_over


def test_crops_are_cut_where_the_table_says(tmp_path: Path) -> None:
    hrs, _ = make_store(tmp_path / "s")
    crops = Crops(Store.open(tmp_path / "s"), 16, torch.device("cpu"))
    assert len(crops) == len(crops.table) > 10
    index = np.array([len(crops) - 1, 0, 5, 0])
    batch = crops.cut(crops.places(index))
    assert batch.shape == (4, 3, 16, 16)
    assert batch.dtype == torch.uint8
    for crop, (i, y, x) in zip(batch, crops.table[index], strict=True):
        assert np.array_equal(crop.permute(1, 2, 0), hrs[i][y : y + 16, x : x + 16])
    with pytest.raises(IndexError):
        crops.places(np.array([len(crops)]))


@pytest.mark.parametrize("turn", list(itertools.product((False, True), repeat=3)))
def test_crops_are_turned_rows_then_columns_then_across(
    tmp_path: Path, turn: tuple[bool, bool, bool]
) -> None:
    make_store(tmp_path / "s")
    crops = Crops(Store.open(tmp_path / "s"), 16, torch.device("cpu"))
    index = np.array([3, len(crops) - 1])
    expected = crops.cut(crops.places(index))
    by_row, by_column, across = turn
    expected = expected.flip(-2) if by_row else expected
    expected = expected.flip(-1) if by_column else expected
    expected = expected.mT if across else expected
    turned = crops.cut(crops.places(index, np.array([turn, turn])))
    assert torch.equal(turned, expected)


def write_folder(folder: Path, names: list[str], arrays: list[np.ndarray]) -> None:
    for name, array in zip(names, arrays, strict=True):
        images.write(folder / f"{name}.png", array)


def test_open_images_on_a_store_a_folder_and_a_file(tmp_path: Path) -> None:
    hrs, lrs = make_store(tmp_path / "plain")
    make_store(tmp_path / "ready", with_lr=True)
    write_folder(tmp_path / "hr", ["p0", "p1", "p2"], hrs)
    write_folder(tmp_path / "lr", ["p0", "p1x4", "p2"], lrs)
    pairs = [
        (tmp_path / "plain", None, False),
        (tmp_path / "hr", None, False),
        (tmp_path / "ready", None, True),
        (tmp_path / "hr", tmp_path / "lr", True),
        (tmp_path / "plain", tmp_path / "lr", True),
    ]
    for path, lr_folder, has_lr in pairs:
        opened = open_images(path, lr_folder)
        assert len(opened) == len(list(opened)) == 3
        assert opened.names == [image.name for image in opened] == ["p0", "p1", "p2"]
        for i, image in enumerate(opened):
            assert np.array_equal(image.hr, hrs[i])
            assert (image.lr is not None) == has_lr
            assert image.lr is None or np.array_equal(image.lr, lrs[i])
        same = Store.open(tmp_path / ("ready" if has_lr else "plain"))
        assert opened.digest == same.digest  # the pixels count, not the files
        assert opened.complete
    edit(tmp_path / "plain", complete=False)
    assert not open_images(tmp_path / "plain").complete
    single = open_images(tmp_path / "hr" / "p1.png", tmp_path / "lr")
    assert single.names == ["p1"]
    assert np.array_equal(single[0].hr, hrs[1])


def test_open_images_is_lazy(tmp_path: Path) -> None:
    write_folder(tmp_path, ["a"], [photo(8, 8)])
    (tmp_path / "b.png").write_text("no image")
    opened = iter(open_images(tmp_path))
    assert next(opened).name == "a"
    with pytest.raises(UserError, match=r"b\.png: not an image"):
        next(opened)


def test_open_images_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none: no such file or folder; .*pcsr prepare"):
        open_images(tmp_path / "none")
    write_folder(tmp_path / "hr", ["a", "b"], [photo(8, 8)] * 2)
    write_folder(tmp_path / "lr", ["a"], [photo(2, 2)])
    with pytest.raises(UserError, match=r"lr: no LR image 'b' or 'bx4'"):
        open_images(tmp_path / "hr", tmp_path / "lr")
    (tmp_path / "hr" / "a.jpg").touch()
    with pytest.raises(UserError, match="two images are called 'a'"):
        open_images(tmp_path / "hr")
