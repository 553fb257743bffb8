"""Flipped bits in what the suite itself wrote: stores, weights, states, unfinished sweeps."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from models import build, stage_of
from safetensors.torch import save

from pcsr.config.models import DatasetConfig, FolderSource, StageConfig
from pcsr.data import images
from pcsr.data.prepare import make_store
from pcsr.data.store import MANIFEST, Store
from pcsr.storage.journal import Journal
from pcsr.training import run as training
from pcsr.weights import checkpoint
from pcsr.weights.load import load_method
from torture.harness import Attempt, Case, Kind


def store_of_three(folder: Path) -> Path:
    """Make a store of three images with ready-made LR images."""
    random = np.random.default_rng(0)
    for name in "abc":
        for kind, side in (("HR", 64), ("LR", 16)):
            image = random.integers(0, 256, (side, side, 3), np.uint8)
            images.write(folder / kind / f"{name}.png", image)
    places = {"path": str(folder / "HR"), "lr_path": str(folder / "LR")}
    source = FolderSource(kind="folder", get="", **places)
    make_store("set", DatasetConfig(source=source), folder / "set")
    return folder / "set"


def trained(store: Path, out: Path) -> bytes:
    """Train FSRCNN for six steps; returns the weights."""
    method = build("fsrcnn", "original", options={"width": 8})
    settings = {"iterations": 6, "learning_rate": 1e-3, "batch": 2, "patch": 8}
    stage = StageConfig.model_validate({**settings, "save_every": 2, "log_every": 1})
    run = training.Run(
        *(method, stage_of(method, "train"), stage, 0, Store.open(store), out),
        *(torch.device("cpu"), {"model": method.config.model_dump(mode="json")}),
    )
    training.train(run, lambda: {"psnr_rgb": 20.0})
    return b"".join(t.numpy().tobytes() for t in checkpoint.load(out)[0].values())


def rows(file: Path, whole: list[Any]) -> bytes:
    """Read an unfinished sweep: what is left of it has to be its beginning."""
    read = Journal(file, "abc").read()
    assert read == whole[: len(read)]
    return b"x" * len(read)


def pixels(store: Path) -> bytes:
    opened = Store.open(store)
    return b"".join(opened.hr(i).tobytes() for i in range(len(opened)))


@contextmanager
def attempts(folder: Path) -> Iterator[Attempt]:
    """Read a file with flipped bits; it is noticed, or nothing that was read is another."""
    store, out = store_of_three(folder), folder / "run" / "weights.safetensors"
    trained(store, out)
    (state,) = out.parent.glob("state-*.safetensors")
    sweep, whole = folder / "u.csv.part", [[{"image": f"i{n}", "psnr": n / 7}] for n in range(20)]
    Journal(sweep, "abc").restart(whole)
    files: list[tuple[Path, Callable[[], bytes]]] = [
        *((store / name, lambda: pixels(store)) for name in ("hr.bin", "lr.bin", MANIFEST)),
        (out, lambda: save(load_method(out)[0].state_dict())),
        (state, lambda: save(checkpoint.load(state)[0])),
        (sweep, lambda: rows(sweep, whole)),
    ]
    expected = [read() for _, read in files]

    def attempt(case: Case) -> None:
        which = int(case.random.integers(len(files)))
        file, read = files[which]
        sound = file.read_bytes()
        broken = bytearray(sound)
        for place in case.random.integers(len(sound), size=case.random.integers(1, 4)):
            broken[place] ^= 1 << int(case.random.integers(8))
        file.write_bytes(broken)
        try:
            found = read()
        finally:
            file.write_bytes(sound)
        assert file == sweep or broken == sound
        assert file != sweep or len(found) < len(expected[which]) or broken == sound

    yield attempt


KIND = Kind(count=2000, attempts=attempts)
