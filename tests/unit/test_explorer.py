"""Explorer pages: ranks against the routing; a page in a browser against the sweep."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import chromium
import numpy as np
import pandas as pd
import pytest
import torch
from chromium import Page
from models import build

from pcsr.config.models import ProtocolConfig
from pcsr.data.images import write
from pcsr.data.test_images import TestImage
from pcsr.errors import UserError
from pcsr.evaluation.explorer import content, stops
from pcsr.evaluation.explorer.subject import Subject
from pcsr.evaluation.measure import Pair, Row, make_pair, measure
from pcsr.methods.base import Method
from pcsr.metrics import psnr_rgb
from pcsr.report import tidy
from pcsr.report.explorer import head, page
from pcsr.routing import OperatingPoint
from pcsr.weights.load import load_method

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = """</script><img src=x onerror="document.title='hit'">&'"`{{ 7 * 7 }}"""
PAIR = ("original", "pcsr")
PROTOCOL = ProtocolConfig(lr="8bit", crop="none", refine=True)
# Where the slider is moved to, as a share of its way, and whether the image is smoothed.
MOVES = [
    (0.4, True), (0.41, True), (1.0, True), (0.0, True), (0.0, False), (0.7, False), (0.72, True),
    (0.3, True), (0.31, False), (0.9, True), (0.4, True),
]  # fmt: skip
# What composing after these moves differs in from composing anew, and all errors found.
WANDER = """(async (moves) => {
  const source = document.getElementById("worker").textContent;
  const worker = new Function(`${source}; return { opened, routing: () => scene.routing };`)();
  const planes = [...document.querySelectorAll("[id^=plane-]")].map((one) => one.textContent);
  const { method } = state;
  const { images: [image], shave } = content;
  const opened = { image, method, planes, shave, reference: null };
  const anew = () => worker.opened(opened).then(worker.routing);
  const kept = await anew();
  const { track } = knobs[method];
  const wrong = [];
  const errors = new Set();
  for (const [share, refine] of moves) {
    const stop = track[Math.round(share * (track.length - 1))];
    const fresh = await anew();
    const [got, wanted] = [kept, fresh].map((one) => one.compose(stop, refine));
    const same = {
      units: String(got.units) === String(wanted.units),
      error: got.error === wanted.error && got.error === kept.frame.errorOf(kept.image),
      image: kept.image.every((value, i) => value === fresh.image[i]),
      labels: kept.labels.every((value, i) => value === fresh.labels[i]),
    };
    for (const name in same) if (!same[name]) wrong.push([share, refine, name]);
    errors.add(got.error);
  }
  return { wrong, errors: errors.size };
})"""
TEN = {
    "PCSR": (-25.0, -0.137, -0.04, 0.0, 0.111, 0.3, 0.512, 0.9, 1.37, 25.0),
    "ClassSR": (-1000.0, -12.3, -5.0, -1.001, 0.0, 0.777, 2.0, 10.0, 55.5, 1000.0),
    "ARM": (0.0, 0.5, 1.0, 1.501, 2.0, 3.333, 6.0, 10.0, 30.3, 1000.0),
}


def swept(method: Method, pair: Pair, knobs: Any) -> dict[float | None, Row]:
    """What a sweep measures, by knob."""
    points = [OperatingPoint(knob=knob) for knob in knobs]
    rows = measure(method, pair, 4, points, [PROTOCOL], {"psnr_rgb": psnr_rgb})
    return {row["knob"]: row for row in rows}


@pytest.mark.parametrize("rising", [True, False])
@pytest.mark.parametrize("ends", [(-25.0, 25.0), (-1000.0, 1000.0), (0.0, 1000.0), (0.0, 3.0)])
def test_stops_are_knob_values_in_order(ends: tuple[float, float], rising: bool) -> None:
    made = stops.between(*ends, rising=rising)
    some = [*range(0, len(made), 997), len(made) - 1]
    values = [made.knob(stop) for stop in some]
    assert values == sorted(values, reverse=not rising)
    assert [made.number(value) for value in values] == some
    assert {made.knob(0), made.knob(len(made) - 1)} == set(ends)
    assert len(made) <= np.iinfo(np.uint16).max
    assert made.number(0.00005) is None
    with pytest.raises(IndexError):
        made.knob(len(made))


@pytest.mark.parametrize("heads", [2, 3])
def test_ranks_are_the_routing_at_every_stop(heads: int) -> None:
    """Also where scores tie, are certain, or tie exactly at a stop."""
    method = load_method(ROOT / "weights" / "fsrcnn-pcsr.safetensors")[0]
    if heads == 3:
        sizes = [{"width": width, "depth": 2} for width in (4, 6, 9)]
        method = build("fsrcnn", "pcsr", width=8, heads=sizes, classifier={"width": 0, "depth": 0})
    torch.manual_seed(0)
    spread = torch.logspace(-2, 1.5, 24)[:, None]
    scores = (torch.randn(1, heads, 24, 30) * spread).softmax(dim=1)
    scores[..., 0, :] = 1 / heads
    scores[0, :, 1, :] = torch.eye(heads)[:, torch.arange(30) % heads]
    made = stops.between(-25.0, 25.0, rising=True)
    found = stops.ranks(method, scores, 4, made)
    for stop in {0, len(made) - 1, *np.unique(found)[:-1:17].tolist(), made.number(0.0)}:
        labels = sum((rank > stop).astype(int) for rank in found)
        expected = method.route(scores, OperatingPoint(knob=made.knob(stop)), 4)[0]
        assert np.array_equal(labels, expected.numpy()), made.knob(stop)


def test_a_knob_that_turns_back_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    method = load_method(ROOT / "weights" / "fsrcnn-pcsr.safetensors")[0]

    def back(self: Any, scores: torch.Tensor, point: OperatingPoint, scale: float) -> torch.Tensor:
        return torch.full_like(scores[:, 0], abs(point.knob or 0) < 1, dtype=torch.long)

    monkeypatch.setattr(type(method), "route", back)
    with pytest.raises(UserError, match="only saves"):
        stops.ranks(method, torch.rand(1, 2, 8, 8), 4, stops.between(-25.0, 25.0, rising=True))


def test_names_stay_text() -> None:
    html = page.render({"title": HOSTILE, "x": float("inf"), "names": [HOSTILE]}, page.Planes())
    assert "<img" not in html
    content = html.partition('id="content">')[2].partition("</script>")[0]
    assert json.loads(content) == {"title": HOSTILE, "x": None, "names": [HOSTILE]}


def test_the_command_opens_with_results_and_keeps_its_size(
    tmp_path: Path,
) -> None:
    from skimage import data

    images = tmp_path / "images"
    images.mkdir()
    for name in ("a", "b", "c"):
        write(images / f"{name}.png", data.astronaut()[:300, :260].copy())
    weights = [ROOT / "weights" / f"fsrcnn-{name}.safetensors" for name in ("original", "pcsr")]
    out = tmp_path / "page.html"
    suite = {"results": ROOT / "reports" / "quick" / "results.csv", "test_set": "embedded-photos"}
    said = content.explore(
        images, weights=weights, out=out, megabytes=1, side=256, threads=1, **suite
    )
    size = f"{out.stat().st_size / 1e6:.1f} MB"
    assert said.endswith(f": {size}, 2 images of 3; the others do not fit"), said
    shown = json.loads(re.search(r'id="content">(.*?)</script>', out.read_text())[1])
    assert [image["width"] for image in shown["images"]] == [240, 240]
    (backbone,) = shown["backbones"]
    assert (backbone["name"], backbone["methods"], backbone["reference"]) == ("FSRCNN", [0, 1], 0)
    opening = backbone["head"]
    assert opening["source"] == "embedded photographs, 8 images"
    assert {curve["label"] for curve in opening["curves"]} == {"PCSR", "ClassSR", "ARM", "Original"}
    verdict = next(curve["verdict"] for curve in opening["curves"] if curve["label"] == "PCSR")
    assert verdict["equal"][1] < verdict["equal"][0] < verdict["equal"][2]
    for options, named in (
        ({"out": tmp_path / "page.png"}, "--out"),
        ({"results": None}, "--test-set"),
        ({"test_set": "elsewhere"}, "elsewhere"),
    ):
        with pytest.raises(UserError, match=named):
            content.explore(images, **{"weights": weights, "out": out, **suite, **options})
    with pytest.raises(UserError, match="at least one"):
        content.explore(weights=weights, out=out)


@pytest.fixture(scope="module")
def results() -> pd.DataFrame:
    return tidy.load(ROOT / "reports" / "quick" / "results.csv")


def static(results: pd.DataFrame, backbone: str) -> list[dict[str, Any]]:
    """The static networks in the head of a backbone."""
    curve = head.of_results(results, "embedded-photos", backbone)["curves"][-1]
    return curve["points"] if curve["label"] == "Static frontier" else []


def test_a_head_has_the_static_frontier(results: pd.DataFrame) -> None:
    """Originals of all backbones; those that cost far more than the curves are left out."""
    assert not static(results, "fsrcnn")  # CARN costs twenty times as much
    networks = [(one["name"], one["beaten"]) for one in static(results, "carn")]
    assert networks == [("FSRCNN", False), ("CARN", False)]
    points = tidy.summarise(results).query("method == 'original'").set_index("backbone")
    for network in static(results, "carn"):
        known = points.loc[network["name"].lower()]
        assert network["psnr"] == pytest.approx(known["psnr_rgb"])
        assert network["gflops"] == pytest.approx(known["gflops_engine"])
    worse = results.copy()
    worse.loc[worse["backbone"] == "fsrcnn", "flops_engine"] *= 25
    beaten = [(one["name"], one["beaten"]) for one in static(worse, "carn")]
    assert beaten == [("CARN", False), ("FSRCNN", True)]


@dataclass(frozen=True)
class Made:
    """A page in a browser, and what it was made of."""

    page: Page
    path: Path
    methods: dict[str, Method]
    pairs: list[Pair]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """Three images by the shipped weights, in a browser."""
    from skimage import data

    chromium.require()
    folder = tmp_path_factory.mktemp("explorer")
    photographs = {
        "astronaut": data.astronaut()[20:220, 130:330],
        HOSTILE: data.chelsea()[60:220, 100:300],
        "coffee": data.coffee()[100:260, 200:404],
    }
    pairs = [make_pair(TestImage(n, x.copy(), None), 4, PROTOCOL) for n, x in photographs.items()]
    names = ("Original", "PCSR", "ClassSR", "ARM")
    methods = {
        name: load_method(ROOT / "weights" / f"fsrcnn-{name.lower()}.safetensors")[0]
        for name in names
    }
    subjects = [Subject(method, name, 4, PROTOCOL) for name, method in methods.items()]
    content.write(pairs, subjects, folder / "page.html", title=HOSTILE)
    with chromium.page(folder / "profile") as tab:
        tab.size(1280, 900)
        tab.open(folder / "page.html")
        yield Made(tab, folder / "page.html", methods, pairs)


def shown(tab: Page, image: int, method: int, k: float | None) -> dict[str, Any]:
    """What the page measures, set by its own controls."""
    if tab.run(f"state.image !== {image} || state.method !== {method}"):
        tab.run(f"document.querySelectorAll('#images button')[{image}].click()")
        tab.run(f"document.querySelectorAll('#methods input')[{method}].click()")
    if k is not None:
        tab.run(f"number.value = '{k}'; number.dispatchEvent(new Event('change')); 0")
    wanted = f"explorer.shown.image === {image} && explorer.shown.method === {method}"
    tab.until(f"{wanted} && explorer.shown.k === {json.dumps(k)}")
    answer: dict[str, Any] = tab.run("explorer.shown")
    return answer


def test_the_slider_gives_the_sweep(made: Made) -> None:
    """Ten values of every knob on three images: PSNR within 0.01 dB, FLOPs and units exactly."""
    for number, (name, method) in enumerate(made.methods.items()):
        for image, pair in enumerate(made.pairs if name in TEN else ()):
            for knob, row in swept(method, pair, TEN[name]).items():
                got = shown(made.page, image, number, knob)
                case = (name, pair.name, knob)
                assert got["psnr"] == pytest.approx(row["psnr_rgb"], abs=0.01), case
                assert got["flops"] == row["flops_paper"], case
                assert got["engine"] == row["flops_engine"], case
                shares = [row[f"share_{j}"] for j in range(method.branches)]
                assert [n / row["units"] for n in got["units"]] == shares, case


def test_three_branches_are_laid_over_each_other(made: Made, tmp_path: Path) -> None:
    sizes = [{"width": width, "depth": 2} for width in (4, 6, 9)]
    method = build("fsrcnn", "pcsr", width=8, heads=sizes, classifier={"width": 0, "depth": 0})
    plain = PROTOCOL.model_copy(update={"refine": False})
    pair = Pair("cut", made.pairs[0].lr[..., :30, :24], made.pairs[0].hr[:120, :96])
    content.write([pair], [Subject(method, "PCSR", 4, plain)], tmp_path / "page.html", title="3")
    made.page.open(tmp_path / "page.html")
    step = "Math.round({} * (knobs[0].track.length - 1))"
    value = f"knobs[0].value(knobs[0].stopAt({step}))"
    knobs = [made.page.run(value.format(at)) for at in (0, 0.3, 0.6, 1)]
    points = [OperatingPoint(knob=knob) for knob in knobs]
    rows = list(measure(method, pair, 4, points, [plain], {"psnr_rgb": psnr_rgb}))
    assert all(any(row[f"share_{j}"] for row in rows) for j in range(3))
    for knob, row in zip(knobs, rows, strict=True):
        got = shown(made.page, 0, 0, knob)
        assert got["psnr"] == pytest.approx(row["psnr_rgb"], abs=1e-6)
        assert got["flops"] == row["flops_paper"]
    wander(made.page)


def wander(tab: Page) -> None:
    """Check that what is composed does not depend on what was composed before."""
    found = tab.run(f"{WANDER}({json.dumps(MOVES)})")
    assert found["wrong"] == []
    assert found["errors"] >= 4  # the moves matter: there are as many tiles


@pytest.mark.parametrize("method", ["PCSR", "ARM"])
def test_every_order_of_moves_gives_the_same(made: Made, method: str) -> None:
    made.page.open(made.path, f"#image=astronaut&method={method}")
    wander(made.page)


def test_what_decides_nothing_is_shown_as_it_is(made: Made) -> None:
    made.page.open(made.path)
    for image, pair in enumerate(made.pairs):
        row = swept(made.methods["Original"], pair, [None])[None]
        got = shown(made.page, image, 0, None)
        assert got["psnr"] == pytest.approx(row["psnr_rgb"], abs=1e-9)
        assert got["flops"] == row["flops_paper"]


def box(tab: Page, name: str) -> dict[str, float]:
    """Where an element is, in sight."""
    tab.run(f"document.querySelector('{name}').scrollIntoView({{block: 'center'}})")
    found: dict[str, float] = tab.run(
        f"document.querySelector('{name}').getBoundingClientRect().toJSON()"
    )
    return found


def test_wipe_and_zoom_follow_the_pointer_and_the_keys(made: Made) -> None:
    tab = made.page
    tab.open(made.path)
    stage = box(tab, "#stage")
    wipe = tab.run("document.querySelector('#wipe span').getBoundingClientRect().toJSON()")
    x, y = wipe["x"] + wipe["width"] / 2, wipe["y"] + wipe["height"] / 2
    tab.mouse("mouseMoved", x, y)
    tab.mouse("mousePressed", x, y)
    to = stage["x"] + 0.25 * stage["width"]
    tab.mouse("mouseMoved", to, y)
    tab.mouse("mouseReleased", to, y)
    tab.until("Math.abs(state.wipe - 0.25) < 0.01 && left.style.clipPath.includes('75')")
    tab.mouse("mouseMoved", stage["x"] + 0.8 * stage["width"], stage["y"] + 0.3 * stage["height"])
    tab.until("Math.abs(state.x - 0.8) < 0.01 && Math.abs(state.y - 0.3) < 0.01")
    crops = "[...document.querySelectorAll('#zooms canvas')].map((crop) => crop.toDataURL())"
    before = tab.run(crops)
    assert len(set(before)) == 4
    tab.run("stage.focus()")
    tab.key("ArrowLeft")
    tab.until("state.x < 0.79")
    tab.until(f"{crops}[3] !== {json.dumps(before[3])}")
    tab.run("wipe.focus()")
    tab.key("ArrowRight")
    tab.until("state.wipe > 0.26 && wipe.getAttribute('aria-valuenow') === '27'")


def test_the_slider_has_keys_and_speaks(made: Made) -> None:
    tab = made.page
    tab.open(made.path, "#method=PCSR&k=0.5")
    tab.run("slider.focus()")
    tab.key("End")
    tab.until("explorer.shown.k < 0 && !explorer.busy")
    everything = tab.run("explorer.shown.units")
    tab.key("PageUp")
    tab.key("Home")
    tab.until("explorer.shown.units[1] === 0 && !explorer.busy")
    assert everything[0] == 0
    said = f"k = {tab.run('explorer.shown.k')}, "
    assert tab.run("slider.getAttribute('aria-valuetext')").startswith(said)
    tab.until(f"spoken.textContent.startsWith('{said}')")


def test_links_carry_what_is_shown(made: Made) -> None:
    tab = made.page
    wanted = "method=PCSR&k=0.3&left=hr&right=gain&wipe=0.3&x=0.7&y=0.2&zoom=4&refine=0"
    tab.open(made.path, f"#image=coffee&{wanted}")
    tab.until("explorer.shown.image === 2 && explorer.shown.k === 0.3 && !explorer.busy")
    (refined,) = tab.run("[explorer.shown.refine]")
    assert refined is False
    tab.run("refine.click()")
    tab.until("explorer.shown.refine === true && location.hash.includes('refine=1')")
    link = tab.run("location.hash")
    before = tab.run("explorer.shown")
    tab.run("location.hash = '#image=astronaut&k=1'")
    tab.until("explorer.shown.image === 0 && explorer.shown.k === 1")
    tab.run(f"location.hash = {json.dumps(link)}")
    tab.until("explorer.shown.image === 2 && explorer.shown.k === 0.3")
    assert tab.run("explorer.shown") == before
    assert tab.run("[state.left, state.right, state.zoom]") == ["hr", "gain", 4]


def test_maps_show_something(made: Made) -> None:
    tab = made.page
    tab.open(made.path, "#image=astronaut&method=PCSR&k=0.2")
    seen = set()
    for layer in ("sr", "hr", "bicubic", "original", "routing", "error", "gain"):
        side = "document.getElementById('right-layer')"
        tab.run(f"{side}.value = '{layer}'; {side}.dispatchEvent(new Event('change')); 0")
        tab.until(f"state.right === '{layer}' && !explorer.busy && explorer.stage.layers.{layer}")
        seen.add(tab.run("right.toDataURL()"))
    assert len(seen) == 7


def test_a_page_of_two_backbones_has_a_chooser(made: Made, tmp_path: Path) -> None:
    """Each backbone is compared with its own original, in the head, the readout and the maps."""
    pair = Pair("cut", made.pairs[2].lr[..., :32, :32], made.pairs[2].hr[:128, :128])
    names = [f"{backbone}-{method}" for backbone in ("carn", "fsrcnn") for method in PAIR]
    methods = [load_method(ROOT / "weights" / f"{name}.safetensors")[0] for name in names]
    subjects = [Subject(method, type(method).__name__, 4, PROTOCOL) for method in methods]
    content.write([pair], subjects, tmp_path / "page.html", title="two")
    tab = made.page
    for backbone, first in (("CARN", 0), ("FSRCNN", 2)):
        tab.open(tmp_path / "page.html", f"#backbone={backbone}&method=PCSR&k=0.3")
        tab.until("!explorer.busy")
        row = swept(methods[first + 1], pair, [0.3])[0.3]
        whole = swept(methods[first], pair, [None])[None]
        got = shown(tab, 0, first + 1, 0.3)
        assert got["flops"] == row["flops_paper"]
        assert got["psnr"] == pytest.approx(row["psnr_rgb"], abs=0.01)
        said = tab.run("readout.querySelector('small').textContent").split()[0]
        gain = float(said.replace("\N{MINUS SIGN}", "-").replace("±", ""))
        assert gain == pytest.approx(row["psnr_rgb"] - whole["psnr_rgb"], abs=0.011)
        assert tab.run("subject.textContent").startswith(f"{backbone} ")
        visible = "[...document.querySelectorAll('#methods label')].map((one) => !one.hidden)"
        assert tab.run(visible) == [first == 0, first == 0, first == 2, first == 2]
    # The chooser keeps method and knob, and the link carries the backbone.
    tab.run("document.querySelectorAll('#backbones input')[0].click()")
    tab.until("explorer.shown.method === 1 && explorer.shown.k === 0.3 && !explorer.busy")
    tab.until("location.hash.includes('backbone=CARN')")
    assert tab.run("subject.textContent").startswith("CARN ")


def test_the_page_is_dark_where_the_reader_is(made: Made) -> None:
    made.page.open(made.path)
    light = {}
    for dark in (False, True):
        made.page.size(1280, 900, dark=dark)
        colour = made.page.run("getComputedStyle(document.body).backgroundColor")
        light[dark] = sum(map(int, re.findall(r"\d+", colour)[:3]))
    made.page.size(1280, 900)
    assert light[False] > 600
    assert light[True] < 150


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_needs_no_sideways_scroll(made: Made, width: int) -> None:
    made.page.size(width, 800, touch=True)
    made.page.open(made.path)
    assert made.page.run("document.documentElement.scrollWidth") <= width
    made.page.size(1280, 900)


def test_nothing_is_logged_and_nothing_is_loaded(made: Made) -> None:
    """Runs last: covers everything that the tests above did."""
    assert made.page.run("document.title") == HOSTILE
    assert made.page.complaints() == []
    assert made.page.requests() <= {"file", "blob", "data"}
    assert made.page.requests() >= {"file"}
