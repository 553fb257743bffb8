"""One HTML file of a template, scripts, styles and images; nothing is loaded at view time."""

import base64
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from numpy.typing import NDArray

from pcsr.storage import files

LEVEL = 7  # of compression: a third of the time of 9, and 0.6 % larger
# In the order in which they run. The page holds the worker's scripts as text, to start it with.
PAGE_SCRIPTS = tuple(
    f"{name}.js" for name in ("state", "maps", "chart", "verdict", "stage", "panel", "explorer")
)
WORKER_SCRIPTS = ("png.js", "bicubic.js", "compose.js", "maps.js", "worker.js")


class Planes:
    """Images of a page: 8-bit RGB, or one plane of 16 bits, as PNG in base64."""

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def add(self, plane: NDArray[np.uint8] | NDArray[np.uint16]) -> int:
        """Store (H, W, 3) uint8 or (H, W) uint16, and return its number."""
        data = imagecodecs.png_encode(np.ascontiguousarray(plane), level=LEVEL)
        self.encoded.append(base64.b64encode(data).decode("ascii"))
        return len(self.encoded) - 1

    @property
    def megabytes(self) -> float:
        """Size that the stored images take in the page."""
        return sum(map(len, self.encoded)) / 1e6


def write(content: Mapping[str, Any], planes: Planes, out: Path) -> float:
    """Write a page atomically.

    Args:
        content: what the scripts show, as JSON values; see ``evaluation.explorer.content``.
        planes: its images.
        out: HTML file.

    Returns:
        Its size in megabytes.
    """
    html = render(content, planes)
    files.write_text(out, html)
    return len(html.encode()) / 1e6


def render(content: Mapping[str, Any], planes: Planes) -> str:
    """Return the page; names in ``content`` are shown as text, whatever they hold."""
    # Only the template and the files of web/ are trusted: values are escaped, and JSON has no "<".
    environment = Environment(
        loader=PackageLoader("pcsr.report", "explorer"), autoescape=True, trim_blocks=True
    )
    return environment.get_template("page.html.j2").render(
        source=_source,
        content=_finite(content),
        title=content["title"],
        planes=planes.encoded,
        page_scripts=PAGE_SCRIPTS,
        worker_scripts=WORKER_SCRIPTS,
    )


def _source(name: str) -> Markup:
    """Return a file of ``web`` as it is."""
    return Markup(Path(__file__).with_name("web").joinpath(name).read_text(encoding="utf-8"))


def _finite(value: Any) -> Any:
    """Replace NaN and infinity, which JSON lacks, by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return value
