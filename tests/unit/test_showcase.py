"""The showcase shows what the sweep says most of, and stays where nothing has changed."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from pcsr.baselines.enaf import ENAF
from pcsr.data.images import write
from pcsr.errors import UserError
from pcsr.evaluation import show
from pcsr.evaluation.sweep import sweep
from pcsr.images.decoding import read_header
from pcsr.report.figures import saving, showcase
from pcsr.weights.load import load_method

WEIGHTS = Path(__file__).resolve().parents[2] / "weights"
PAIR = [WEIGHTS / f"fsrcnn-{name}.safetensors" for name in ("original", "pcsr")]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two photographs, and the sweep of PCSR on them."""
    from skimage import data

    folder = tmp_path_factory.mktemp("showcase")
    images = folder / "images"
    images.mkdir()
    write(images / "flat.png", data.coffee()[:128, :128].copy())
    write(images / "busy.png", data.chelsea()[60:188, 100:228].copy())
    path = folder / "results/quick/fsrcnn-pcsr/photos/sweep.csv"
    sweep(weights=[PAIR[1]], images=images, knob=[-25.0, 0.1, 0.4, 25.0], threads=1, out=path)
    return images, path


def outputs(folder: Path) -> dict[str, Path]:
    return {name: folder / f"{name}.png" for name in ("routing", "comparison")}


def test_image_and_knob_are_the_most_divided_of_the_sweep(
    measured: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, path = measured
    titles, names, images_shown = [], [], []
    draw, compare = showcase.routing_figure, showcase.comparison

    def drawn(*given: Any, **more: Any) -> Figure:
        titles.append(given[-1])
        names.append((more["names"], more["unit"]))
        return draw(*given, **more)

    def compared(*given: Any, title: str) -> Figure:
        images_shown.append(title)
        return compare(*given, title=title)

    monkeypatch.setattr(showcase, "routing_figure", drawn)
    monkeypatch.setattr(showcase, "comparison", compared)
    show.showcase(images=images, weights=PAIR, sweep=path, threads=1, **outputs(tmp_path))
    rows = pd.read_csv(path).query("not adaptive")
    share = rows["share_1"]
    best = rows.loc[(share - 0.5).abs().idxmin()]  # of two branches, the nearest to one half
    shown = f"image {best['image']} of photos"
    assert titles[0].startswith(f"FSRCNN-PCSR, k = {best['knob']:g}, {shown}: ")
    assert f"{best['psnr_rgb']:.2f} dB (" in titles[0]
    paper = best["flops_paper"] / 1e9
    assert f", {paper:.2f} paper GFLOPs (" in titles[0]
    assert titles[0].endswith(" % of the original's)")
    assert names == [(("light head", "heavy head"), "pixel")] and images_shown == [shown]
    assert all(path.stat().st_size > 10_000 for path in outputs(tmp_path).values())


def test_without_a_sweep_an_image_has_its_name_alone(
    measured: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = []
    monkeypatch.setattr(show, "draw", lambda *given: places.append(given[3]))
    show.showcase(images=measured[0], weights=PAIR, k=0.0, threads=1, **outputs(tmp_path))
    assert places == ["image busy"]


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("fsrcnn-arm", ("bicubic", "width 16", "width 36", "width 56")),
        ("fsrcnn-classsr", ("simple", "medium", "hard")),
        ("fsrcnn-original", ()),
    ],
)
def test_branches_have_names(model: str, names: tuple[str, ...]) -> None:
    method, _ = load_method(WEIGHTS / f"{model}.safetensors")
    assert method.branch_names == names
    assert ENAF.branch_names == ("bicubic", "exit 1", "exit 2", "full network")


def test_a_sweep_of_other_images_and_two_choices_are_refused(
    measured: tuple[Path, Path], tmp_path: Path
) -> None:
    images, path = measured
    given = {"images": images, "weights": PAIR, "threads": 1, **outputs(tmp_path)}
    for option in ({"image": 1}, {"k": 0.0}):
        with pytest.raises(UserError, match="--sweep chooses"):
            show.showcase(sweep=path, **option, **given)
    with pytest.raises(UserError, match="none of these images"):
        show.showcase(sweep=path, lr="float", **given)


def moved(values: np.ndarray, levels: int, rows: slice = slice(1)) -> np.ndarray:
    """Darken a corner by some levels."""
    changed = values.copy()
    changed[rows, :8, 0] -= levels
    return changed


@pytest.mark.parametrize(
    ("change", "stays"),
    [
        (lambda values: values, True),
        (lambda values: values ^ 1, True),
        (lambda values: moved(values, 12), True),
        (lambda values: moved(values, 13), False),
        (lambda values: moved(values, 2, slice(100)), False),
        (lambda values: values ^ 2, False),
        (lambda values: values[:-1], False),
        (lambda values: values[..., :3], False),
        (lambda values: values[..., 0], False),
        (lambda values: values[..., 0].astype(np.uint16), False),
    ],
)
def test_an_image_in_place_stays_if_it_is_the_same_but_for_the_processor(
    change: Callable[[np.ndarray], np.ndarray], stays: bool, tmp_path: Path
) -> None:
    figure = Figure()
    figure.suptitle("fsrcnn-pcsr, k = 1")
    path = tmp_path / "comparison.png"
    saving.save(figure, path)
    drawn = path.read_bytes()
    with Image.open(path) as image:
        changed = np.ascontiguousarray(change(np.asarray(image)))
    Image.fromarray(changed).save(path)
    before = path.read_bytes()
    os.utime(path, (0, 0))
    saving.save(figure, path)
    assert path.read_bytes() == (before if stays else drawn)
    assert path.stat().st_mtime > 0  # either way it is as new as what it shows


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"not an image"])
def test_what_is_no_image_is_replaced(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "routing.png"
    path.write_bytes(content)
    saving.save(Figure(), path)
    assert read_header(path).size == (960, 720)
