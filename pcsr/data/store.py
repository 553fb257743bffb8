"""The packed store of a prepared data set.

A prepared data set is a folder of up to three files: ``hr.bin`` (the concatenated bytes of all HR
images), ``lr.bin`` (ready-made LR images in the same order, if the set has them) and
``manifest.json``, written last. A folder without a manifest is not a data set.

The manifest holds a checksum of each image and of itself, and opening a store verifies all of them:
a flipped bit would change training and PSNR without changing the identity of the data.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pcsr.errors import UserError, one_line
from pcsr.storage import content

FORMAT = 1
HR, LR, MANIFEST = "hr.bin", "lr.bin", "manifest.json"
MADE, CHECKSUM = "made", "checksum"  # how a store came to be, and there the manifest's checksum
# What manifests have from before there was a checksum: more means that its name is damaged.
OLDER = {"format", "dataset", "config", "origin", "expected", "complete", "images", "bytes", MADE}
OLDER_MADE = {"commit", "modified", "command", "made", "python", "machine", "versions"}


@dataclass(frozen=True)
class Stored:
    """Record of an image in a store: sizes in pixels, offsets in bytes, sha256 of its bytes."""

    name: str
    height: int
    width: int
    offset: int
    sha256: str
    lr_height: int = 0
    lr_width: int = 0
    lr_offset: int = 0
    lr_sha256: str = ""

    @property
    def end(self) -> int:
        """Offset in ``hr.bin`` of the first byte after the image."""
        return self.offset + 3 * self.height * self.width

    @property
    def lr_end(self) -> int:
        """Offset in ``lr.bin`` of the first byte after the image; 0 if it has no LR image."""
        return self.lr_offset + 3 * self.lr_height * self.lr_width

    def record(self) -> dict[str, Any]:
        """Return the image's entry in the manifest."""
        values = asdict(self)
        return {key: values[key] for key in values if self.lr_sha256 or not key.startswith("lr_")}


def sha256(image: np.ndarray) -> str:
    """Return the checksum of an image's bytes in (H, W, 3) order."""
    return hashlib.sha256(np.ascontiguousarray(image).data).hexdigest()


def identity(checksums: Iterable[str]) -> str:
    """Combine the checksums of a sequence of images into one."""
    return hashlib.sha256("".join(checksums).encode()).hexdigest()


def seal(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest with its checksum, which covers everything else in it.

    The checksum is among the facts on how the store was made, so that stores of the same images
    differ in nothing else.
    """
    made = {key: value for key, value in manifest.get(MADE, {}).items() if key != CHECKSUM}
    text = json.dumps({**manifest, MADE: made}, sort_keys=True)
    return {**manifest, MADE: {**made, CHECKSUM: hashlib.sha256(text.encode()).hexdigest()}}


def _is_unchanged(manifest: Mapping[str, Any]) -> bool:
    """Return whether a manifest is unchanged, as far as can be told of one without a checksum."""
    made = manifest.get(MADE, {})
    if CHECKSUM in made:
        return manifest == seal(manifest)
    return manifest.keys() <= OLDER and made.keys() <= OLDER_MADE


def intact(images: Sequence[Stored], hr: np.ndarray, lr: np.ndarray | None) -> int:
    """Return how many images, from the first on, match their checksums.

    ``hr`` and ``lr`` are the contents of the files, uint8 (n,); without LR images, ``lr`` is None.
    """

    def whole(image: Stored) -> bool:
        if sha256(hr[image.offset : image.end]) != image.sha256:
            return False
        lr_sha256 = "" if lr is None else sha256(lr[image.lr_offset : image.lr_end])
        return image.lr_sha256 in ("", lr_sha256)

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # hashing releases Python's lock
        good = list(pool.map(whole, images))
    return good.index(False) if False in good else len(images)


def _is_consistent(image: Stored, last: Stored) -> bool:
    """Return whether an image has sizes, a place in the files, and an LR image if the last has."""
    sides = [image.height, image.width]
    sides += [image.lr_height, image.lr_width] if last.lr_sha256 else []
    offsets = [image.offset, image.lr_offset]
    return (
        all(type(number) is int for number in sides + offsets)
        and (image.end <= last.end and image.lr_end <= last.lr_end)
        and (min(sides) >= 1 and min(offsets) >= 0)
        and bool(image.lr_sha256) == bool(last.lr_sha256)
    )


class Store:
    """A prepared data set, memory-mapped and read-only. Use :meth:`Store.open` to get one."""

    def __init__(self, folder: Path, manifest: dict[str, Any], images: list[Stored]) -> None:
        self.folder = folder
        self.manifest = manifest
        self.images = images
        self.complete: bool = manifest["complete"]
        self._hr = np.memmap(folder / HR, np.uint8, mode="r")
        has_lr = bool(images[-1].lr_sha256)
        self._lr = np.memmap(folder / LR, np.uint8, mode="r") if has_lr else None

    @classmethod
    def open(cls, folder: Path) -> "Store":
        """Open a prepared data set and verify all of its bytes, once per process that uses it.

        This takes a second per GB and thread, and reads the files into the system's cache.

        Raises:
            UserError: a file is missing or damaged: it does not match the manifest, or the manifest
                does not match its own checksum.
        """
        path = folder / MANIFEST
        fix = f"run `pcsr prepare {folder.name}`."
        try:
            manifest = content.parse_json(path.read_text(encoding="utf-8"))
            images = [Stored(**record) for record in manifest["images"]]
            sizes = {HR: images[-1].end, LR: images[-1].lr_end}
            whole = manifest["format"] == FORMAT and manifest["bytes"] == sum(sizes.values())
            whole = whole and isinstance(manifest["complete"], bool)
            whole = whole and all(_is_consistent(image, images[-1]) for image in images)
            whole = whole and _is_unchanged(manifest)
        except FileNotFoundError:
            raise UserError(f"{path}: no such file, so {folder} is not prepared; {fix}") from None
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            reason = one_line(error)
            raise UserError(f"{path}: not a readable manifest ({reason}); {fix}") from None
        if not whole:
            raise UserError(f"{path}: its entries are inconsistent; {fix}")
        for name, expected in sizes.items():
            file = folder / name
            found = file.stat().st_size if file.is_file() else 0
            if expected and found != expected:
                raise UserError(f"{file}: expected {expected} bytes, found {found}; {fix}")
        store = cls(folder, manifest, images)
        if (good := intact(images, store._hr, store._lr)) < len(images):
            raise UserError(
                f"{folder}: damaged: the bytes of image '{images[good].name}' are not those that "
                f"were prepared; {fix}"
            )
        return store

    def __len__(self) -> int:
        return len(self.images)

    @property
    def names(self) -> list[str]:
        """Names of the images, in order."""
        return [image.name for image in self.images]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of the HR images."""
        return [(image.height, image.width) for image in self.images]

    @property
    def digest(self) -> str:
        """Identity of the data: a checksum over the checksums of all images, in order."""
        both = ((image.sha256, image.lr_sha256) for image in self.images)
        return identity(checksum for pair in both for checksum in pair if checksum)

    def packed(self) -> Tensor:
        """Return the bytes of all HR images, uint8 (n,), memory-mapped."""
        path = str(self.folder / HR)
        return torch.from_file(path, size=self.images[-1].end, dtype=torch.uint8)

    def hr(self, i: int) -> np.ndarray:
        """Return HR image ``i``, uint8 (H, W, 3), as a read-only view of the file."""
        at = self.images[i]
        return np.asarray(self._hr[at.offset : at.end]).reshape(at.height, at.width, 3)

    def lr(self, i: int) -> np.ndarray | None:
        """Return ready-made LR image ``i``, uint8 (h, w, 3), or None if the set has none."""
        at = self.images[i]
        if self._lr is None:
            return None
        return np.asarray(self._lr[at.lr_offset : at.lr_end]).reshape(at.lr_height, at.lr_width, 3)
