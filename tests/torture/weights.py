"""Weights files that lie about what they hold, or are damaged."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hostile.weights import MODELS, OTHERS, headers, released_names
from models import build
from safetensors.torch import save_file

from pcsr.weights import checkpoint
from pcsr.weights.load import load_method
from torture.harness import Attempt, Case, Kind


def damaged(data: bytes, random: np.random.Generator) -> bytes:
    """Flip bits, cut the end, or overwrite a block."""
    broken, how = bytearray(data), int(random.integers(4))
    at = int(random.integers(len(data) if random.random() < 0.5 else 1000))
    if how == 0:
        del broken[at:]
    elif how == 1:
        broken[at : at + 64] = random.bytes(64)
    else:
        for place in (at, *random.integers(len(data), size=random.integers(4))):
            broken[place] ^= 1 << int(random.integers(8))
    return bytes(broken)


def descriptions(facts: dict[str, Any], random: np.random.Generator) -> str:
    """Return the description of weights with something absurd in it."""
    models = list(MODELS.values())
    chosen = models[random.integers(len(models))] | models[random.integers(len(models))]
    return json.dumps({**facts, "model": {**facts["model"], **chosen}})


@contextmanager
def attempts(folder: Path) -> Iterator[Attempt]:
    """Load weights that are damaged or lie; what is loaded has to be the weights, whole."""
    method = build("fsrcnn", "original", options={"width": 8})
    facts = {"model": method.config.model_dump(mode="json"), "iterations": 7}
    checkpoint.save_weights(folder / "own.safetensors", method, facts)
    torch.save(released_names(method), folder / "zip.pth")
    sound = [folder / "own.safetensors", folder / "zip.pth"]
    whole = [path.read_bytes() for path in sound]
    expected = [load_method(path)[0].state_dict() for path in sound]
    starts, others = list(headers()), list(OTHERS.values())

    def attempt(case: Case) -> None:
        random, how = case.random, case.number % 8
        which = int(how in (0, 1))
        file = folder / f"weights{sound[which].suffix}"
        if how < 4:
            file.write_bytes(damaged(whole[which], random))
        elif how in (4, 5):
            about = {"pcsr": descriptions({**facts, "format": checkpoint.OLDER}, random)}
            save_file(method.state_dict(), file, metadata=about)
        else:
            made = starts if how == 6 else others
            file.write_bytes(damaged(made[random.integers(len(made))] + bytes(999), random))
        loaded = load_method(file)[0].state_dict()
        assert how < 4, "what was loaded is no weights"
        assert loaded.keys() == expected[which].keys(), "other tensors"
        for name, tensor in expected[which].items():
            assert torch.equal(loaded[name], tensor), f"{name} is another"

    yield attempt


KIND = Kind(count=1000, attempts=attempts)
