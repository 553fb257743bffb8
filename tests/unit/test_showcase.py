"""The showcase shows the image and the knob that the sweep says most of."""

from pathlib import Path

import pandas as pd
import pytest

from pcsr.data.images import write
from pcsr.errors import UserError
from pcsr.evaluation import show
from pcsr.evaluation.sweep import sweep
from pcsr.report.figures import showcase

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
    titles = []
    draw = showcase.routing_figure
    monkeypatch.setattr(
        showcase, "routing_figure", lambda *given: titles.append(given[-1]) or draw(*given)
    )
    show.showcase(images=images, weights=PAIR, sweep=path, threads=1, **outputs(tmp_path))
    rows = pd.read_csv(path).query("not adaptive")
    share = rows["share_1"]
    best = rows.loc[(share - 0.5).abs().idxmin()]  # of two branches, the nearest to one half
    assert titles[0].startswith(f"FSRCNN-PCSR, k = {best['knob']:g}, on {best['image']}: ")
    assert f"{best['psnr_rgb']:.2f} dB (" in titles[0]
    assert titles[0].endswith(" % of the original's)")
    assert all(path.stat().st_size > 10_000 for path in outputs(tmp_path).values())


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
