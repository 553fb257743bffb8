"""Notebooks hold what they print; one runs from its first cell to its last on invented results."""

import re
from pathlib import Path

import nbformat
import pandas as pd
import pytest

REPOSITORY = Path(__file__).parents[2]
NOTEBOOK = REPOSITORY / "notebooks" / "curves.ipynb"
NOTEBOOKS = sorted(NOTEBOOK.parent.glob("*.ipynb"))
MOST_BYTES = 1_000_000  # of a notebook: git keeps every version


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


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stored_as_they_ran(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.language_info.name == "python"
    assert [c.id for c in notebook.cells if "parameters" in c.metadata.get("tags", ())]
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {kind for cell in cells for out in cell.outputs for kind in out.get("data", ())}
    assert "image/png" in kinds
    assert not [out for cell in cells for out in cell.outputs if out.output_type == "error"]
    text = path.read_text(encoding="utf-8")
    assert len(text) < MOST_BYTES
    assert not re.search(r"/(home|root|tmp|Users|usr)/", text), "a path of some machine"


def test_the_notebook_holds_the_numbers_of_the_report():
    """It shows the results that are committed beside it."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (shown,) = next(cell for cell in notebook.cells if cell.id == "summary").outputs
    stored = pd.read_csv(REPOSITORY / "reports" / "quick" / "operating_points.csv")
    for name in ("PSNR-RGB (dB)", "GFLOPs (paper)", "GFLOPs (executed)"):
        place = stored.columns.get_loc(name)
        cells = re.findall(rf'class="data row\d+ col{place}" *>([^<]*)<', shown.data["text/html"])
        assert [float(cell) for cell in cells] == pytest.approx(stored[name].tolist(), abs=0.0051)


def test_the_notebook_runs(results, tmp_path):
    import papermill
    from nbclient.exceptions import CellTimeoutError

    def run(seconds):
        papermill.execute_notebook(
            str(NOTEBOOK),
            str(tmp_path / "curves.ipynb"),
            parameters={"results": str(results), "weights": "weights"},
            cwd=str(REPOSITORY),
            progress_bar=False,
            execution_timeout=seconds,
        )

    try:
        run(90)
    except CellTimeoutError:  # on a busy machine the kernel's last message may never come
        run(600)
    done = nbformat.read(tmp_path / "curves.ipynb", as_version=4)
    kinds = [
        kind
        for cell in done.cells
        for out in cell.get("outputs", ())
        for kind in out.get("data", ())
    ]
    assert kinds.count("image/png") == 4
    assert kinds.count("text/html") >= 2
    assert kinds.count("application/vnd.jupyter.widget-view+json") == 1
    streams = [out.text for cell in done.cells for out in cell.get("outputs", ()) if "text" in out]
    assert streams == []
