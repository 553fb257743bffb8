"""Read other projects' ``torch.save`` files; nothing in them is executed, and memory is bounded.

The names that a file refers to and its declared sizes are checked before PyTorch reads it.
"""

import pickletools
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from pcsr.errors import UserError, one_line
from pcsr.storage import content

LARGEST = 2**31  # bytes of a file; checkpoints of these networks have under 100 MB
STEPS = 500_000  # of unpickling, under a second; these networks take 10,000
PICKLES = 5  # that a file of PyTorch before 1.6 begins with
AGAIN = "copy or download it again."

# Names that weights refer to. PyTorch allows more, some of which allocate whatever size the file
# declares.
NUMBERS = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
PLAIN = {
    *("collections.OrderedDict", "torch.Size", "torch.device"),
    *("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"),
    *(f"torch.{kind}Storage" for kind in NUMBERS),
}
MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")  # before and since NumPy 2


class Ignored:
    """Stand-in for objects beside the weights that are not needed, such as NumPy numbers."""

    def __init__(self, *_: Any) -> None:
        """Ignore what it is made of."""

    def __setstate__(self, state: Any) -> None:
        """Ignore the state as well."""


#: Stand-ins for the NumPy numbers and arrays that training scripts save beside the weights.
BESIDE: Mapping[str, Any] = dict.fromkeys(
    (
        *(f"{core}.{name}" for core in MULTIARRAY for name in ("scalar", "_reconstruct")),
        *("numpy.dtype", "numpy.ndarray", "_codecs.encode"),
    ),
    Ignored,
)


class _Float64(Ignored):
    """Stand-in for numpy's float64 in a pickled array."""

    def __init__(self, name: str, *_: Any) -> None:
        if name != "f8":
            raise ValueError(f"a table of type {name}")


class Table(Ignored):
    """Stand-in for an array in a pickled file; reads only float64 numbers.

    A file must not call NumPy's own constructors, which could be made to build arrays of pointers
    from its bytes.
    """

    values: np.ndarray

    def __setstate__(self, state: Any) -> None:
        """Read (version, shape, dtype, column-major flag, bytes)."""
        _, shape, kind, by_columns, raw = state
        if not isinstance(kind, _Float64) or by_columns:
            raise ValueError("not a float64 table")
        self.values = np.frombuffer(raw, "<f8").reshape(shape)


def _bytes(text: str, _: str) -> bytes:
    return text.encode("latin1")


#: Stand-ins that read the arrays whose numbers are needed, see :class:`Table`.
TABLES: Mapping[str, Any] = {
    **{f"{core}._reconstruct": Table for core in MULTIARRAY},
    "numpy.dtype": _Float64,
    "numpy.ndarray": Ignored,
    "_codecs.encode": _bytes,
}


def read(path: Path, stand_ins: Mapping[str, Any] = BESIDE) -> Any:
    """Read a file of ``torch.save`` without executing anything in it.

    Args:
        stand_ins: functions and classes to use for other names that the file may refer to.

    Raises:
        UserError: the file is missing, was not made by ``torch.save``, is damaged, would expand
            beyond its size, or is more than weights.
    """
    size = content.require_file(path, "weights file", "give the path of a published checkpoint.")
    if size > LARGEST:
        raise UserError(f"{path}: has {size / 1e9:.1f} GB, no checkpoint of these networks has.")
    try:
        for name in _referred_to(path, size):
            if name not in PLAIN and name not in stand_ins:
                raise UserError(
                    f"{path}: refused, because it is more than weights: it would run "
                    f"{one_line(name, 60)} when read. Get the file from its authors, or re-save it "
                    "as plain tensors."
                )
        instead: list[Any] = [(stand_in, name) for name, stand_in in stand_ins.items()]
        with torch.serialization.safe_globals(instead), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unusual pickles: they are read, or refused
            return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # the file is untrusted: any part of it may be anything
        what = content.describe(path)
        if "PyTorch" in what:
            what += f", but it cannot be read ({one_line(error, 80)}); it may be truncated"
        fix = "give it the ending .safetensors." if "safetensors" in what else AGAIN
        raise UserError(f"{path}: not a readable PyTorch file: it is {what}; {fix}") from None


def _referred_to(path: Path, size: int) -> Iterator[str]:
    """Yield ``module.name`` of all functions and classes that a file refers to."""
    with path.open("rb") as file:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as packed:
                for entry in _pickles(packed, size):
                    with packed.open(entry) as opened:
                        yield from _names(opened)
            return
        file.seek(0)
        for _ in range(PICKLES):
            yield from _names(file)


def _pickles(packed: zipfile.ZipFile, size: int) -> list[zipfile.ZipInfo]:
    """Return an archive's pickles, after checking that it is undamaged and not compressed."""
    entries = packed.infolist()
    stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    if not stored or sum(entry.file_size for entry in entries) > size:
        raise ValueError("compressed, which PyTorch never does: it may fill the memory")
    if damaged := packed.testzip():  # PyTorch does not look at the checksums
        raise ValueError(f"the checksum of {damaged} does not match")
    if any("/code/" in entry.filename for entry in entries):
        raise UserError(
            f"{packed.filename}: is a TorchScript program, which would run; get plain weights."
        )
    found = [entry for entry in entries if entry.filename.endswith(".pkl")]
    if not found:
        raise ValueError("no data.pkl in it")
    return found


def _names(file: IO[bytes]) -> Iterator[str]:
    """Yield the names that a pickle refers to, without unpickling it."""
    strings = ["", "code"]
    for step, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if step > STEPS:
            raise ValueError("too many steps to unpickle")
        if isinstance(argument, str):
            strings = [strings[-1], argument]
        if opcode.name in ("GLOBAL", "INST"):
            yield str(argument).replace(" ", ".")
        elif opcode.name == "STACK_GLOBAL":
            yield ".".join(strings)


def require_plain(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are larger than the file, or not of finite floating-point numbers.

    A tensor with a stride of 0 may declare any number of elements, each of which takes memory once
    it is used. Only BatchNorm's counters are integers.

    Raises:
        UserError: names the first such tensor.
    """
    left = path.stat().st_size
    for name, tensor in weights.items():
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
        needed = tensor.numel() * tensor.element_size() if plain else 0
        left -= needed
        if not plain or needed > tensor.untyped_storage().nbytes() or left < 0:
            raise UserError(
                f"{path}: '{one_line(name)}' is larger than the file; get it from its authors."
            )
        counter = name.endswith("num_batches_tracked")
        if not (counter or (tensor.is_floating_point() and tensor.isfinite().all())):
            raise UserError(
                f"{path}: '{one_line(name)}' is not of plain finite numbers; get the file again."
            )
