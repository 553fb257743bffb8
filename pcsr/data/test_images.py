"""Images that a model is evaluated on, from a prepared data set, a folder or a file."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pcsr import escape
from pcsr.data import images
from pcsr.data.store import MANIFEST, Store, identity, sha256
from pcsr.errors import UserError

HRReader = Callable[[int], np.ndarray]
LRReader = Callable[[int], np.ndarray | None]


@dataclass(frozen=True)
class TestImage:
    """An HR image, uint8 (H, W, 3), and its ready-made LR image, uint8 (h, w, 3), or None."""

    __test__ = False  # pytest collects classes called Test*

    name: str
    hr: np.ndarray
    lr: np.ndarray | None


@dataclass
class TestImages:
    """Test images, each loaded on access. Use :func:`open_images` to get them."""

    __test__ = False

    names: list[str]
    hr: HRReader
    lr: LRReader | None
    known_digest: str = ""
    complete: bool = True  # False if the data set lacks images it should have

    def __post_init__(self) -> None:
        # Names end up in tables, so line breaks and bytes outside UTF-8 are escaped beforehand.
        self.names = images.unique([escape.printable(name) for name in self.names], "images")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> TestImage:
        return TestImage(self.names[i], self.hr(i), self.lr(i) if self.lr else None)

    def __iter__(self) -> Iterator[TestImage]:
        return (self[i] for i in range(len(self)))

    @property
    def digest(self) -> str:
        """Identity of the data, equal to that of a store of the same images.

        For images that are not in a store, the first access reads all of them.
        """
        if not self.known_digest:
            both = ((image.hr, image.lr) for image in self)
            self.known_digest = identity(sha256(x) for pair in both for x in pair if x is not None)
        return self.known_digest


def open_images(path: Path, lr_folder: Path | None = None, scale: float = 4) -> TestImages:
    """Open the images to evaluate a model on.

    Args:
        path: a prepared data set, a folder of images, or one image.
        lr_folder: ready-made LR images, named like the HR images or with ``x<scale>`` after
            the stem. They replace those of a prepared data set.
        scale: HR size / LR size of the images in ``lr_folder``.

    Raises:
        UserError: the path does not exist, two images share a name, or an LR image is missing.
    """
    hr: HRReader
    lr: LRReader | None
    if (path / MANIFEST).exists():
        store = Store.open(path)
        names, hr, lr, digest = store.names, store.hr, store.lr, store.digest
        complete = store.complete
    elif path.exists():
        files = images.list_images(path) if path.is_dir() else [path]
        names = images.unique([file.stem for file in files], str(path))
        hr, lr, digest, complete = _reader(files), None, "", True
    else:
        raise UserError(
            f"{path}: no such file or folder; give an image, a folder of images, or a data set "
            "made by `pcsr prepare`."
        )
    if lr_folder is not None:
        lr, digest = _reader(images.lr_images(lr_folder, names, scale)), ""
    return TestImages(names, hr, lr, digest, complete)


def _reader(files: Sequence[Path]) -> HRReader:
    return lambda i: images.read(files[i])
