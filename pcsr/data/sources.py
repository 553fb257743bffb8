"""Find the raw images of a data set in installed packages, an archive, a folder or a mirror."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib import util
from pathlib import Path, PurePosixPath

import numpy as np

from pcsr.config.models import DatasetConfig, FolderSource, WheelsSource
from pcsr.data import images
from pcsr.data.archives import Reader, open_archive
from pcsr.data.download import fetch, in_mirror, name_of
from pcsr.errors import UserError, log


@dataclass(frozen=True)
class Source:
    """A raw image that is read on demand, with its ready-made LR image if it has one."""

    name: str
    hr: Callable[[], np.ndarray]
    lr: Callable[[], np.ndarray] | None = None


@dataclass(frozen=True)
class Sources:
    """The raw images of a data set, in order, and where they come from."""

    origin: str
    images: list[Source]
    fixed: bool  # by a checksum or a package, so that a wrong count is an error, not a warning


@contextmanager
def open_sources(config: DatasetConfig, raw: Path) -> Iterator[Sources]:
    """Find the images of a data set; an archive stays open within the context.

    Raises:
        UserError: images are missing, or an archive is not available.
    """
    source, grey = config.source, config.grey_to_rgb
    if isinstance(source, WheelsSource):
        packaged = _files([_in_package(entry) for entry in source.images], grey)
        yield Sources("installed packages", packaged, fixed=True)
        return
    local = in_mirror(source.mirror)
    if local and local.is_dir():
        found = _files(images.list_images(local), grey)
        yield Sources(f"{source.mirror} in PCSR_MIRROR", found, fixed=False)
    elif isinstance(source, FolderSource):
        yield Sources(source.path, _folder(source, grey), fixed=False)
    else:
        name = name_of(source.url)
        archive = fetch(
            source.url,
            raw / name,
            other_urls=source.other_urls,
            bytes=source.bytes,
            sha256=source.sha256,
            md5=source.md5,
            copy=in_mirror(source.mirror, name),  # a mirror has it at either place
        )
        with open_archive(archive, source.members) as readers:
            yield Sources(archive.name, _packed(archive, readers, grey), fixed=True)


def _files(files: list[Path], grey_to_rgb: bool) -> list[Source]:
    return [Source(file.stem, partial(images.read, file, grey_to_rgb)) for file in files]


def _in_package(entry: str) -> Path:
    """Return the path of ``package/path/image`` without importing the package."""
    package, _, inside = entry.partition("/")
    spec = util.find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    if not folders or not (Path(folders[0]) / inside).is_file():
        raise UserError(
            f"{entry}: the Python package '{package}' is not installed or has no such image; "
            "install the suite again with the versions of constraints.txt."
        )
    return Path(folders[0]) / inside


def _folder(source: FolderSource, grey_to_rgb: bool) -> list[Source]:
    try:
        found = _files(images.list_images(Path(source.path)), grey_to_rgb)
        if source.lr_path is None:
            return found
        lr_files = images.lr_images(Path(source.lr_path), [image.name for image in found])
    except UserError as error:
        raise UserError(f"{error} {source.get}".strip()) from None
    pairs = zip(found, _files(lr_files, grey_to_rgb), strict=True)
    return [replace(image, lr=lr.hr) for image, lr in pairs]


def _packed(archive: Path, readers: Mapping[str, Reader], grey_to_rgb: bool) -> list[Source]:
    def decode(name: str) -> np.ndarray:
        return images.read(readers[name](), grey_to_rgb, name=f"{archive}/{name}")

    names = sorted(readers, key=lambda name: (images.natural_key(name), name))
    return [Source(PurePosixPath(name).stem, partial(decode, name)) for name in names]


def choose(sources: Sources, config: DatasetConfig, name: str) -> list[Source]:
    """Select the images from ``first`` to ``last``, and check their number against ``expected``.

    Raises:
        UserError: no image is selected, or a fixed source does not have the expected number.
    """
    key = images.natural_key
    chosen = [
        image
        for image in sources.images
        if (config.first is None or key(config.first) <= key(image.name))
        and (config.last is None or key(image.name) <= key(config.last))
    ]
    if not chosen:
        raise UserError(
            f"{name}: no image of {sources.origin} lies between first '{config.first}' and last "
            f"'{config.last}'; fix these names."
        )
    if config.expected not in (None, len(chosen)):
        problem = f"{name}: expected {config.expected} images, found {len(chosen)} in"
        if sources.fixed:
            raise UserError(
                f"{problem} {sources.origin}; fix expected, or the keys that select images."
            )
        log.warning("%s %s; results on this set are not comparable", problem, sources.origin)
    return chosen
