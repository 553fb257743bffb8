"""Names of any kind in every format: whole where they are read back, and never markup."""

import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from hostile.names import MARKUP_TOKENS, NAMES, READER, Tags, scripts_are_own
from markdown_it.token import Token
from matplotlib.figure import Figure
from PIL import Image
from rich.logging import RichHandler

from pcsr import cli, escape, registry, runtime
from pcsr.config.models import DatasetConfig, FolderSource
from pcsr.config.published import load_claims
from pcsr.data.prepare import make_store
from pcsr.data.test_images import open_images
from pcsr.errors import UserError
from pcsr.report import inputs, pages, tables, tidy
from pcsr.report.claims import page as claims
from pcsr.report.fairness import page as fairness
from pcsr.report.figures import showcase
from pcsr.report.figures.psnr_flops import psnr_flops
from pcsr.report.figures.saving import save
from pcsr.report.leaderboard import page as leaderboard
from pcsr.report.leaderboard import timings

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
WORDS = {"text", "softbreak", "text_special"}  # inline tokens that are no markup


def sweep_rows(image: str, **names: Any) -> dict[str, Any]:
    row = dict.fromkeys((*tidy.RESULT_TYPES, "share_1"), 0.5)
    row |= {"main": True, "complete": True, "released": False, "adaptive": False, "refine": True}
    row |= {"training": pd.NA, "lr": "8bit", "crop": "tiles", "scale": 4.0}
    row |= {"units": 1, "lr_pixels": 64, "lr_height": 8, "lr_width": 8, "knob": np.nan}
    row |= {"suite": "s", "experiment": "e", "test_set": "t", "method": "original", "weights": "w"}
    return {**row, "backbone": "carn", "psnr_rgb": 24.0, "psnr_y": 25.0, "image": image, **names}


def results(names: tuple[str, ...], **columns: str) -> pd.DataFrame:
    """Invent results: an original and a method with two knob values on each image."""
    rows = []
    for name in names:
        rows.append(sweep_rows(name, **columns))
        own = {"method": "pcsr", "experiment": "p", **columns}
        rows += [sweep_rows(name, **{**own, "knob": k, "psnr_rgb": 23.0 + k}) for k in (0.0, 0.5)]
    return pd.DataFrame(rows).astype(tidy.RESULT_TYPES)


def seen(name: str) -> str:
    """Return a name as a page shows it: hidden characters as escapes, blanks as one."""
    return " ".join(escape.printable(name).split(" ")).strip()


def inline(page: str) -> Iterator[Token]:
    yield from (token for token in READER.parse(page) if token.type == "inline")


def shown(token: Token) -> str:
    """Return the text of a line, in which nothing may be markup."""
    parts = token.children or []
    kinds = {part.type for part in parts}
    assert kinds <= WORDS, (kinds, token.content)
    return "".join(part.content for part in parts)


def test_names_come_back_from_csv(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    for column in ("image", "experiment", "test_set", "method", "backbone", "weights", "suite"):
        table = pd.DataFrame([sweep_rows(**{"image": "0801", column: name}) for name in NAMES])
        tidy.write_csv(table.astype(tidy.RESULT_TYPES), path)
        path.read_bytes().decode("utf-8")
        again = tidy.load(path)
        assert again[column].tolist() == [escape.printable(name) for name in NAMES]
        assert again["knob"].isna().all() and again["training"].isna().all()
    distinct = tuple({escape.printable(name): name for name in NAMES}.values())
    tidy.write_csv(results(distinct), path)
    assert set(tidy.summarise(tidy.load(path))["images"]) == {len(distinct)}


def test_names_in_a_markdown_table_are_text() -> None:
    table = pd.DataFrame({"Name": NAMES, "|head|": NAMES[::-1]})
    page = tables.markdown(table, ["|head|"])
    assert len(page.splitlines()) == len(NAMES) + 2
    cells = [shown(token) for token in inline(page)]
    expected = [cell for pair in zip(NAMES, NAMES[::-1], strict=True) for cell in pair]
    assert cells == ["Name", "|head|", *map(seen, expected)]


def test_names_in_sentences_are_text() -> None:
    for name in NAMES:
        for before, after in (("## ", ""), ("Left out of ", ", because: x.")):
            (token,) = inline(f"{before}{escape.markdown(name)}{after}\n") if seen(name) else [None]
            if token is not None:
                assert shown(token) == f"{before}{seen(name)}{after}".removeprefix("## ").strip()


MARKUP = ("![x](http://evil.example/x.png)", "<img src=x onerror=y>", "a|b\n\n# c", "*_`$&lt;$`_*")


@pytest.mark.parametrize("name", MARKUP)
def test_pages_have_no_markup_but_their_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    columns = {key: f"{key} {name}" for key in ("suite", "test_set", "backbone")}
    measured = results((f"1 {name}", "2"), **columns)
    measured["mine " + name] = 0.25
    partly = measured.drop(index=measured[measured["method"] == "pcsr"].index[:2])
    published = load_claims()
    model = published.models[0].model_copy(
        update={
            "model": name,
            "backbone": columns["backbone"],
            "cells": {columns["test_set"]: (24, 1)},
        }
    )
    routed = model.model_copy(update={"method": "pcsr"})
    published = published.model_copy(
        update={"models": (model, routed), "images": {columns["test_set"]: 2}, "source": name}
    )
    points = tables.operating_points(tidy.summarise(measured), tidy.other_metrics(measured))
    models = leaderboard.Models.of(measured)
    standings = leaderboard.standings(models.points, timings.load([]))
    for page in (
        claims.claims_markdown(partly, published),
        fairness.fairness_markdown(partly),
        leaderboard.leaderboard_markdown(standings, name, [name]),
        tables._sections(points, []),
    ):
        kinds = {part.type for token in READER.parse(page) for part in token.children or []}
        kinds |= {token.type for token in READER.parse(page)}
        assert not kinds & MARKUP_TOKENS
        headings = [line for line in page.splitlines() if line.startswith("#")]
        assert any(escape.markdown(columns["test_set"]) in line for line in headings)
    row = inputs._weights(name, inputs.WeightsFacts(released=name))
    cells = [shown(token) for token in inline(tables.markdown(pd.DataFrame([row])))]
    assert cells == ["Experiment", "State", seen(name), seen(name)]


def test_a_page_loads_nothing_even_where_nobody_escaped() -> None:
    for name in NAMES:
        plain = name.encode("utf-8", "replace").decode()
        for page in (f"# {plain}\n\n{plain}\n\n| a |\n| :-- |\n| {plain} |\n", f"{plain}\n===\n"):
            tags = Tags()
            tags.feed(pages.html(page))
            assert not tags.tags & {"img", "iframe", "a", "svg", "b", "link"}, name
            meta, table = {"name", "content", "http-equiv"}, {"class", "role", "tabindex", "scope"}
            own = {"lang", "charset", "style", "start", "aria-label", *meta, *table}
            assert tags.attributes <= own, name
            html = pages.html(page)
            assert html.count("</title>") == 1
            assert scripts_are_own(html), name
            assert len(tags.scripts) == html.count("<table>")


def test_names_in_a_latex_table_are_text() -> None:
    table = pd.DataFrame({"Name": NAMES, "$head$": NAMES[::-1]})
    latex = tables._latex(table, set())
    rows = latex.partition("\\midrule\n")[2].partition("\\bottomrule")[0].splitlines()
    assert len(rows) == len(NAMES)
    back = {value: key for key, value in escape._LATEX.items()}
    pieces = re.compile("|".join(map(re.escape, sorted(back, key=len, reverse=True))))
    for row, name, other in zip(rows, NAMES, NAMES[::-1], strict=True):
        assert row.endswith(" \\\\") and not row.startswith(("[", "*"))
        cells = re.split(r"(?<!\\) & ", row.removesuffix(" \\\\"))
        assert len(cells) == 2
        for cell, text in zip(cells, (name, other), strict=True):
            bare = cell.removeprefix("{}")
            assert not re.search(r"[&%$#_{}~^\\<>|]", pieces.sub("", bare)), cell
            assert pieces.sub(lambda found: back[found[0]], bare) == escape.printable(text)


def test_names_in_figures_are_text(tmp_path: Path) -> None:
    figure = Figure()
    for name in NAMES:
        text = figure.text(0, 0, escape.mathtext(name))
        assert text._preprocess_math(text.get_text()) == (escape.printable(name), False)
    for name in ("$\\frac$ 100% <b>&--\x1b[31m\n a_{b^$c$d", "_x \\$"):
        measured = results(("1",), test_set=name, backbone=name)
        several = measured.assign(experiment=measured["experiment"] + name, method=name)
        image = np.zeros((8, 8, 3), np.uint8)
        drawn = (
            psnr_flops(several, name, name),
            showcase.comparison([(name, image), (name, image + 1)]),
            showcase.routing_figure(image, np.zeros((8, 8), int), 1, np.zeros((8, 8)), name),
        )
        for one in drawn:
            save(one, tmp_path / "figure.svg")
            ElementTree.parse(tmp_path / "figure.svg")


@pytest.mark.parametrize("argument", ["a\0b", "\ud800", "x/\udfff.png"])
def test_what_no_path_can_be_is_refused(
    argument: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["pcsr", "check", argument])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.startswith("error: ") and said.count("\n") == 1
    assert escape.printable(argument) in said and "no path can have" in said


def test_nothing_steers_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("pcsr")
    monkeypatch.setattr(logger, "propagate", False)  # pytest's copy of the log is not escaped
    try:
        runtime.setup_logging(tmp_path / "log.txt")
        for name in NAMES:
            logger.warning("%s: 24.05 dB", name)
        rich = RichHandler()
        rich.setFormatter(logger.handlers[0].formatter)
        record = logging.LogRecord("pcsr", 30, "", 0, "\x1b[2J[red]\n", (), None)
        assert not CONTROL.search(rich.format(record))
    finally:
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()
    written = (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert len(written.splitlines()) == len(NAMES)

    def fail(error: Exception) -> Any:
        def run(*_: Any, **__: Any) -> None:
            raise error

        return lambda overview: run

    monkeypatch.setattr(sys, "argv", ["pcsr"])
    for name in NAMES:
        for error in (UserError(f"{name}: no"), OSError(2, f"no {name}", f"{name}.png")):
            monkeypatch.setattr(cli, "app", fail(error))
            with pytest.raises(SystemExit):
                cli.main()
    monkeypatch.setattr(cli, "app", lambda overview: lambda *_, **__: [f"x{n}" for n in NAMES])
    cli.main()
    out, err = capsys.readouterr()
    assert not CONTROL.search(written + out + err)
    assert len(out.splitlines()) == len(NAMES)
    assert len(err.splitlines()) == 3 * len(NAMES)


def test_image_names_are_escaped_before_measuring(tmp_path: Path) -> None:
    names = [n for n in NAMES if n.strip(".") and not set(n) & set("/\x00") and n != "\ud800"]
    names = [name for name in names if len(name.encode("utf-8", "surrogateescape")) < 250]
    for name in names:
        if not name.startswith("."):
            Image.new("RGB", (2, 2)).save(tmp_path / "one.png")
            (tmp_path / "one.png").rename(tmp_path / f"{name}.png")
    test = open_images(tmp_path)
    assert len(test) > 80
    assert set(test.names) == {escape.printable(n) for n in names if not n.startswith(".")}
    json.dumps(test.names, ensure_ascii=False).encode("utf-8")
    Image.new("RGB", (2, 2)).save(tmp_path / "a\\nb.png")  # as the escaped name of another
    with pytest.raises(UserError, match="two images are called"):
        open_images(tmp_path)


def test_a_packed_store_has_names_that_its_readers_take(tmp_path: Path) -> None:
    names = ("null", "a\nb", "a\udce9b", "\x1b[31m")
    (tmp_path / "HR").mkdir()
    for name in names:
        Image.new("RGB", (2, 2)).save(tmp_path / "one.png")
        (tmp_path / "one.png").rename(tmp_path / "HR" / f"{name}.png")
    source = FolderSource(kind="folder", path=str(tmp_path / "HR"))
    make_store("mine", DatasetConfig(source=source), tmp_path / "store")
    facts = tidy.read_facts(inputs.ManifestFacts, tmp_path / "store" / "manifest.json")
    found = [image.name for image in facts.images]
    assert sorted(found) == sorted(map(escape.printable, names))
    assert open_images(tmp_path / "store").names == found


def test_names_of_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    class Entry:
        value = "mine:Mine"

        def __init__(self, name: str) -> None:
            self.name = name

    good = ("EDSR", "niqe", "my.metric-2", "a_b")
    bad = [n for n in NAMES if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", n, re.ASCII) or len(n) > 64]
    for name in (*good, *bad):
        monkeypatch.setattr(registry.metadata, "entry_points", lambda group, n=name: [Entry(n)])
        for kind in ("backbone", "method", "metric"):
            if name in good:
                assert registry.table(kind)[name] == "mine:Mine"
            else:
                with pytest.raises(UserError, match="another package"):
                    registry.table(kind)
