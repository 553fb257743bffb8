"""A suite file may be called anything, and none of it is run by the rules' shell."""

import ast
import re
import string
from pathlib import Path

from PIL import Image
from workspace import ROOT, Workspace

from pcsr import escape
from pcsr.report import tidy

# Placeholder -> why it need not be quoted. None is.
UNQUOTED: dict[str, str] = {}


def shell_lines() -> dict[str, str]:
    """Return the shell line of every rule: rule -> text with placeholders."""
    lines = {}
    for path in [ROOT / "Snakefile", *(ROOT / "workflow" / "rules").glob("*.smk")]:
        rule = ""
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"^ +(run|script|notebook|wrapper|cwl):", text, re.MULTILINE)
        parts = re.split(r"^rule (\w+):\n", text, flags=re.MULTILINE)
        for rule, body in zip(parts[1::2], parts[2::2], strict=True):
            found = re.search(r"^    shell:\n((?: {8}.*\n)+)", body, re.MULTILINE)
            assert body.count("shell:") == (1 if found else 0)
            if found:
                lines[rule] = ast.literal_eval(f"({found[1]})")
    return lines


def test_every_placeholder_of_every_shell_line_is_quoted() -> None:
    lines = shell_lines()
    assert len(lines) == 17
    for rule, line in lines.items():
        placeholders = list(string.Formatter().parse(line))
        assert sum(name is not None for _, name, _, _ in placeholders) >= 2
        for _, name, form, _ in placeholders:
            assert name is None or form == "q" or name in UNQUOTED, f"{rule}: {{{name}}}"


# A leading dash, a blank, quotes, and four ways to have a shell run something.
HOSTILE = "-a b'\"$(touch proof1)`touch proof2`;touch proof3;& touch proof4 |{x}*é.yaml"


def test_a_hostile_suite_path_is_a_path_and_no_command(workspace: Workspace) -> None:
    folder = workspace.folder
    made = workspace.suite(
        "hostile-path",
        weights="shipped",
        train_set=None,
        valid_set=None,
        overrides={},
    )
    made.rename(folder / HOSTILE)
    page = Path("reports/hostile-path/inputs.md")
    options = ("--cores", "1", "--configfile", f"./{HOSTILE}", "-p")
    done = workspace.snakemake(*options, "--", page)
    assert done.returncode == 0, done.stdout
    assert "Inputs of suite hostile-path" in (folder / page).read_text(encoding="utf-8")
    assert "Shell command: pcsr inputs --suite='-a b" in done.stdout
    assert not list(folder.glob("**/proof*"))


def test_a_sweep_of_hostile_names_is_whole(workspace: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "$(touch proof)"
    folder.mkdir()
    names = ["null", "NA", "1e5", "007", "a\nb", "a\udce9b", "a|b", "$x$", "\x1b[31m", "=1+1"]
    for name in names:
        image = Image.new("RGB", (64, 64), (len(name), 9, 200))
        image.save(tmp_path / "one.png")
        (tmp_path / "one.png").rename(folder / f"{name}.png")
    out = tmp_path / "results" / "s$x$" / "<b>" / "![x](y)" / "sweep.csv"
    weights = ROOT / "weights" / "fsrcnn-original.safetensors"
    options = ("--crop", "none", "--device", "cpu", "--threads", "1", "--out", out)
    said = workspace.succeed("sweep", "--weights", weights, "--images", folder, *options)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", said)
    results = tidy.collect([out])
    assert sorted(results["image"]) == sorted(map(escape.printable, names))
    assert tidy.summarise(results)["images"].tolist() == [len(names)]
    assert set(results["test_set"]) == {"![x](y)"}
