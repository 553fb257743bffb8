"""A flipped bit is noticed in all that is read again: stores, weights, states, journals."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import build, saved
from torture.flips import store_of_three, trained
from workspace import ROOT

from pcsr.config.models import DatasetConfig
from pcsr.data.prepare import make_store
from pcsr.data.store import MANIFEST, Store
from pcsr.errors import UserError
from pcsr.storage import content, files
from pcsr.storage.journal import Journal
from pcsr.weights import checkpoint
from pcsr.weights.load import load_method

FLIPS = 200  # per file


def flipped(file: Path, number: int = 1, first: int = 0) -> None:
    """Flip a bit in each of so many bytes, spread over a file."""
    data = bytearray(file.read_bytes())
    for place in np.linspace(first, len(data) - 1, number).astype(int):
        data[place] ^= 1 << (place % 8)
    file.write_bytes(data)


def all_are_noticed(file: Path, read: Callable[[], object], flips: int = FLIPS) -> None:
    """Flip one bit at a time, in every region of a file; each has to be a one-line UserError."""
    whole = file.read_bytes()
    places = np.unique(np.linspace(0, len(whole) - 1, flips).astype(int)).tolist()
    for place in places:
        data = bytearray(whole)
        data[place] ^= 1 << (place % 8)
        file.write_bytes(data)
        with pytest.raises(UserError) as error:
            read()
        assert "\n" not in str(error.value) and str(file.parent) in str(error.value), place
    file.write_bytes(whole)
    read()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of three images with ready-made LR images."""
    return store_of_three(tmp_path)


@pytest.mark.parametrize("name", ["hr.bin", "lr.bin", MANIFEST])
def test_of_a_store(store: Path, name: str) -> None:
    all_are_noticed(store / name, lambda: Store.open(store), flips=400)


def test_a_damaged_store_is_prepared_again(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    before, digest = (store / "hr.bin").read_bytes(), Store.open(store).digest
    config = DatasetConfig.model_validate(
        {"source": {"kind": "folder"} | {k: str(store.parent / v) for k, v in PLACES.items()}}
    )
    for name in ("hr.bin", MANIFEST):
        flipped(store / name)
        make_store("set", config, store)
        assert (store / "hr.bin").read_bytes() == before
        assert Store.open(store).digest == digest
    assert sum("run `pcsr prepare set`" in message for message in caplog.messages) == 2


PLACES = {"path": "HR", "lr_path": "LR"}


def test_a_manifest_without_a_checksum_is_read(store: Path) -> None:
    manifest = json.loads((store / MANIFEST).read_text())
    del manifest["made"]["checksum"]
    digest = Store.open(store).digest
    (store / MANIFEST).write_text(json.dumps(manifest))
    assert Store.open(store).digest == digest


def test_of_weights(tmp_path: Path) -> None:
    method = build("fsrcnn", "original", options={"width": 8})
    file = saved(method, tmp_path / "weights.safetensors", iterations=7)
    all_are_noticed(file, lambda: load_method(file), flips=50)
    all_are_noticed(file, lambda: checkpoint.load(file), flips=400)


def test_of_shipped_weights(tmp_path: Path) -> None:
    for name in ("fsrcnn-original.safetensors", content.SUMS):
        shutil.copy(ROOT / "weights" / name, tmp_path)
    file = tmp_path / "fsrcnn-original.safetensors"
    all_are_noticed(file, lambda: checkpoint.load(file))
    listed = (ROOT / "weights" / content.SUMS).read_text()
    for file in (*(ROOT / "weights").glob("*.json"), *(ROOT / "weights").glob("*.safetensors")):
        assert content.sums([file]) in listed


def test_of_an_unfinished_job(tmp_path: Path) -> None:
    values: list[Any] = [[{"image": f"i{n}", "psnr": n / 7}] for n in range(20)]
    file = tmp_path / "u.csv.part"
    Journal(file, "abc").restart(values)
    whole = file.read_bytes()
    for place in range(0, len(whole), 3):
        data = bytearray(whole)
        data[place] ^= 1 << (place % 8)
        file.write_bytes(data)
        read = Journal(file, "abc").read()
        assert len(read) < 20 and read == values[: len(read)]
    lines = whole.decode().splitlines(keepends=True)
    for changed in (lines[:3] + lines[4:], lines[:5] + lines[4:], [*lines[:2], lines[3], lines[2]]):
        file.write_text("".join(changed))
        assert len(Journal(file, "abc").read()) <= 4
    file.write_bytes(whole[:-3])
    resumed = Journal(file, "abc")
    kept = resumed.read()
    assert kept == values[:19]
    resumed.restart(kept)
    resumed.append(values[19])
    assert file.read_bytes() == whole
    assert Journal(file, "other").read() == []


@pytest.mark.parametrize("name", ["state", "previous"])
def test_of_a_saved_state(store: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "run" / "weights.safetensors"
    trained(store, out)
    (state,) = out.parent.glob(f"{name}-*.safetensors")
    all_are_noticed(state, lambda: checkpoint.load(state))


def test_a_damaged_state_is_set_aside(
    store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    out = tmp_path / "run" / "weights.safetensors"
    expected = trained(store, out)
    cases = {"state": "steps 4 to 6", "previous": "steps 6 to 6", "*": "steps 0 to 6"}
    for damaged, resumed in cases.items():
        for state in out.parent.glob(f"{damaged}-*.safetensors"):
            flipped(state, 5, first=len(state.read_bytes()) // 2)
        caplog.clear()
        assert trained(store, out) == expected
        assert any(resumed in message for message in caplog.messages)
        aside = [message for message in caplog.messages if "set aside" in message]
        assert aside and all("damaged" in message and "\n" not in message for message in aside)
        for file in out.parent.glob("*.damaged"):
            file.unlink()
        trained(store, out)


def test_states_that_lie_are_set_aside(store: Path, tmp_path: Path) -> None:
    """With a right checksum, but not of this run."""
    out = tmp_path / "run" / "weights.safetensors"
    expected = trained(store, out)
    (state,) = out.parent.glob("state-*.safetensors")
    tensors, facts = checkpoint.load(state)
    first = next(name for name in tensors if name.startswith("model."))
    lies: list[tuple[dict[str, Any], dict[str, Any]]] = [
        *((tensors, {**facts, "step": step}) for step in (0, -1, 7, "4", None)),
        (tensors, {**facts, "seconds": float("nan")}),
        (tensors, {}),
        ({**tensors, "other": torch.zeros(1)}, facts),
        ({**tensors, "optimiser.x.y": torch.zeros(1)}, facts),
        ({**tensors, first: tensors[first] * float("nan")}, facts),
        ({**tensors, first: torch.zeros(1)}, facts),
    ]
    for lying, about in lies:
        checkpoint.save(state, lying, about)
        assert trained(store, out) == expected
        assert state.with_name(f"{state.name}.damaged").exists()


def test_a_damaged_log_is_cut_where_it_can_be_read(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "run" / "weights.safetensors"
    trained(store, out)
    (journal,) = out.parent.glob("train-*.jsonl")
    journal.write_bytes(b'\xff\xfe\n{"step": "x"}\n[]\n{}\nnull\n' + journal.read_bytes())
    trained(store, out)
    assert [json.loads(line)["step"] for line in journal.read_text().splitlines()] == [*range(1, 7)]
    assert files.sidecar(out).is_file()
