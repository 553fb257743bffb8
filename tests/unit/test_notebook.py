"""The notebook runs from its first cell to its last on a small invented table."""

from pathlib import Path

import nbformat
import pandas as pd
import pytest

REPOSITORY = Path(__file__).parents[2]
NOTEBOOK = REPOSITORY / "notebooks" / "curves.ipynb"


@pytest.fixture
def results(tmp_path):
    common = {
        "suite": "quick",
        "test_set": "set5",
        "backbone": "carn",
        "scale": 4.0,
        "psnr_y": 26.0,
        "ssim": 0.75,
        "flops_algorithmic": 4e10,
        "flops_engine": 3e10,
        "units": 1,
        "lr_pixels": 4096,
        "lr_height": 64,
        "lr_width": 64,
        "weights": "0a1b2c",
        "lr": "8bit",
        "crop": "tiles",
        "refine": True,
        "main": True,
        "complete": True,
        "training": None,
        "released": True,
    }
    rows = []
    for image in ("01", "02"):
        own = {"image": image, "adaptive": False} | common
        original = {"method": "original", "experiment": "carn-original", "share_0": 1.0}
        rows.append(own | original | {"psnr_rgb": 24.0, "flops_paper": 5e10})
        for knob, heavy in ((-2.0, 0.9), (0.0, 0.5), (2.0, 0.1)):
            pcsr = {"method": "pcsr", "experiment": "carn-pcsr", "knob": knob}
            measured = {"psnr_rgb": 23.0 + heavy, "flops_paper": 2e10 + 3e10 * heavy}
            rows.append(own | pcsr | measured | {"share_0": 1 - heavy, "share_1": heavy})
    path = tmp_path / "results.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def test_the_notebook_is_stored_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.language_info.name == "python"
    assert [c.id for c in notebook.cells if "parameters" in c.metadata.get("tags", ())]
    assert all(not cell.get("outputs") for cell in notebook.cells)


def test_the_notebook_runs(results, tmp_path):
    import papermill

    papermill.execute_notebook(
        str(NOTEBOOK),
        str(tmp_path / "curves.ipynb"),
        parameters={"results": str(results)},
        cwd=str(REPOSITORY),
        progress_bar=False,
    )
    done = nbformat.read(tmp_path / "curves.ipynb", as_version=4)
    kinds = [
        kind
        for cell in done.cells
        for out in cell.get("outputs", ())
        for kind in out.get("data", ())
    ]
    assert kinds.count("image/png") == 3
    assert kinds.count("text/html") >= 1
    streams = [out.text for cell in done.cells for out in cell.get("outputs", ()) if "text" in out]
    assert streams == []
