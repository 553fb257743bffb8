"""Pickles that run something, take the memory, or are no weights, in every form."""

import pickle
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hostile.weights import lies, released_names
from models import build

from pcsr.weights.load import load_method
from torture.harness import PROOF, Attempt, Case, Kind

# Functions that would run a command, open files or take memory, with arguments.
CALLS: dict[tuple[str, str], tuple[Any, ...]] = {
    ("os", "system"): ("touch proof",),
    ("os", "popen"): ("touch proof",),
    ("posix", "system"): ("touch proof",),
    ("subprocess", "run"): (["touch", "proof"],),
    ("subprocess", "Popen"): (["touch", "proof"],),
    ("builtins", "eval"): ("open('proof', 'w')",),
    ("builtins", "exec"): ("open('proof', 'w')",),
    ("__builtin__", "eval"): ("open('proof', 'w')",),
    ("builtins", "open"): ("proof", "w"),
    ("io", "open"): ("proof", "w"),
    ("pathlib", "Path.touch"): ("proof",),
    ("builtins", "bytearray"): (10**11,),
    ("builtins", "getattr"): ("a", "upper"),
    ("builtins", "__import__"): ("antigravity",),
    ("importlib", "import_module"): ("antigravity",),
    ("pickle", "loads"): (b"cos\nsystem\n(Vtouch proof\ntR.",),
    ("code", "InteractiveInterpreter"): (),
    ("operator", "attrgetter"): ("a.b",),
    ("functools", "partial"): (1,),
    ("timeit", "timeit"): ("open('proof', 'w')",),
    ("runpy", "run_path"): ("proof",),
    ("ctypes", "CDLL"): ("libc.so.6",),
    ("torch", "load"): ("proof",),
    ("torch", "empty"): (10**11,),
    ("torch", "UntypedStorage"): (10**11,),
    ("torch.hub", "load"): ("x", "y"),
    ("torch.serialization", "load"): ("proof",),
    ("numpy", "zeros"): (10**11,),
    ("numpy", "load"): ("proof", None, True),
    ("numpy", "fromfile"): ("proof",),
    ("numpy._core.multiarray", "fromfile"): ("proof",),
}


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def call(random: np.random.Generator) -> bytes:
    """Return opcodes that call a function, in one of the ways that pickles have for it."""
    names = list(CALLS)
    module, name = names[random.integers(len(names))]
    arguments = pickle.dumps(CALLS[module, name], 2)[2:-1]
    plain = b"c" + f"{module}\n{name}\n".encode()
    both = text(module) + text(name)
    # The names that are pushed last are not those that are taken.
    hidden = text(module) + b"q\x010" + text(name) + b"q\x020"
    hidden += text("collections") + text("OrderedDict") + b"00h\x01h\x02\x93"
    function = (plain, both + b"\x93", hidden)[random.integers(3)]
    listed = b"".join(pickle.dumps(value, 2)[2:-1] for value in CALLS[module, name])
    ways = (
        function + arguments + b"R",
        function + arguments + b"\x81",
        b"(" + function + listed + b"o",
        b"(" + listed + b"i" + f"{module}\n{name}\n".encode(),
    )
    return ways[random.integers(len(ways))]


def program(random: np.random.Generator) -> bytes:
    """Return a whole pickle that calls something, beside or inside what weights may hold."""
    made = call(random)
    shapes = (
        made,
        b"}" + text("head_conv.0.weight") + made + b"s",
        b"}" + text("state_dict") + b"}" + text("x") + made + b"ss",
        b"ccollections\nOrderedDict\n)R" + text("x") + made + b"s",
        b"ccollections\nOrderedDict\n)R" + made + b"b",
        b"]" + made + b"a",
        made + b"0}",
    )
    return b"\x80\x04" + shapes[random.integers(len(shapes))] + b"."


def dressed(data: bytes, plain: Path, target: Path, random: np.random.Generator) -> None:
    """Write a pickle as a file of its own, in an older file of PyTorch, or into a newer one."""
    how = random.integers(4)
    if how == 0:
        target.write_bytes(data)
        return
    if how == 1:
        start = b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {}))
        target.write_bytes(start + data + pickle.dumps([], 2))
        return
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.infolist():
            hit = entry.filename.endswith("data.pkl")
            if hit and how == 2:
                new.writestr(entry.filename, data)
                continue
            new.writestr(entry.filename, old.read(entry))
            if hit:
                new.writestr(f"{entry.filename.removesuffix('data.pkl')}constants.pkl", data)


@contextmanager
def attempts(folder: Path) -> Iterator[Attempt]:
    """Load a hostile file as weights; none may be loaded, and nothing may be executed."""
    weights = released_names(build("fsrcnn", "original", options={"width": 8}))
    plain, target = folder / "plain.pth", folder / "hostile.pth"
    torch.save(weights, plain)
    saved = list(lies(weights, folder / PROOF).values())

    def attempt(case: Case) -> None:
        if case.number < 2 * len(saved):
            zipped = case.number < len(saved)
            lie = saved[case.number % len(saved)]
            torch.save(lie, target, _use_new_zipfile_serialization=zipped)
        else:
            dressed(program(case.random), plain, target, case.random)
        load_method(target)
        raise AssertionError("loaded")

    yield attempt


KIND = Kind(count=1000, attempts=attempts)
