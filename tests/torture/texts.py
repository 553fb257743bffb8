"""YAML that lies, and the suite's own files with anything changed in them."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import yaml
from workspace import ROOT

from pcsr.config.load import parse, read_yaml
from pcsr.config.models import (
    Config,
    DatasetsConfig,
    ExperimentConfig,
    ReleasedConfig,
    SuiteConfig,
)
from torture.harness import Attempt, Case, Kind


def laughs(first: str, wrap: str) -> str:
    """Nine times nine times nine: a text of a few hundred bytes that stands for 9^20 values."""
    levels = (f"a{n}: &a{n} {wrap % ', '.join([f'*a{n - 1}'] * 9)}" for n in range(1, 20))
    return "\n".join([f"a0: &a0 {first}", *levels])


TWICE = (
    ("a: 1\na: 2", "'a' is given twice"),
    ("x:\n  b: {c: 1, c: 2}", "x.b: 'c' is given twice"),
    ('a: 1\n"a": 2', "'a' is given twice"),
    ("b: &b {x: 1}\na: {<<: *b, <<: *b}", "a: '<<' is given twice"),
)
AMBIGUOUS = tuple(
    (f"stage: {{iterations: {value}}}", f"stage.iterations: '{value[:40]}' is ambiguous")
    for value in (
        *("yes", "No", "on", "OFF", "010", "-017", "0x1F", "0b1", "1:30", "1:30.5", "2024-01-01"),
        *(".nan", ".inf", "-.inf", "9" * 5000, "2024-99-99"),
    )
)
ENDLESS = (
    ("[" * 100_000, "levels deep"),
    ("a: " + "{a: " * 5000, "levels deep"),
    ("".join(f"{' ' * n}a:\n" for n in range(600)), "levels deep"),
    ("- " * 50_000, "levels deep"),
    (laughs("[x, x, x, x]", "[%s]"), "more than 5000 values"),
    (laughs("{x: 1}", "{<<: [%s]}"), "more than 5000 values"),
    ("a: &a [*a]", "a: *a repeats itself"),
    ("a: &a {b: *a}", "a.b: *a repeats itself"),
    ("\n".join(f"k{n}: v" for n in range(10_000)), "more than 5000 values"),
    ("# " * 2**18, "is larger than 256 KiB"),
)
OTHER = (
    *(
        (f"a: {tag} {{x: 1}}", "a: a tag")
        for tag in ("!!python/object:os.system", "!mine", "!!set")
    ),
    ("a: !!python/object/apply:os.system [touch proof]", "a: a tag"),
    ("a: !!binary aGVsbG8=", "a: a tag"),
    *(
        (f"{key}: x", "a key must be a short text")
        for key in ("1", "true", "2.5", "null", "k" * 300)
    ),
    ("? [a]\n: 1", "a key must be a short text"),
    ("a:\n\tb: 1", "line 2, column 1"),
    ("a: \x00", "not valid YAML"),
    ("a: *nothing", "undefined alias"),
    ("a: [", "not valid YAML"),
    ("a: 1\n---\nb: 2", "another document"),
    ("", "must hold a mapping"),
    ("- a", "must hold a mapping"),
    ("null", "must hold a mapping"),
)
HOSTILE = (
    *(
        "",
        ".",
        "..",
        "../x",
        "/etc/passwd",
        "a/b",
        ".hidden",
        "-x",
        "--out",
        "_x",
        "a b",
        "A",
        "Quick",
    ),
    *("a.b", "$(touch proof)", "`touch proof`", "a;b", "a|b", "a&b", "a>b", "a'b", 'a"b', "a\\b"),
    *(
        "a\nb",
        "a\n",
        "a\tb",
        "a\x00b",
        "a\x1b[31m",
        "é",
        "\uff41",
        "a*",
        "a?",
        "{a}",
        "x" * 65,
        "x" * 5000,
    ),
)
FILES: tuple[tuple[type[Config], str], ...] = (
    (ExperimentConfig, "configs/experiments/*.yaml"),
    (SuiteConfig, "configs/suites/*.yaml"),
    (DatasetsConfig, "configs/datasets.yaml"),
    (ReleasedConfig, "configs/released.yaml"),
)
VALUES = (
    "null",
    "~",
    "[]",
    "{}",
    "-1",
    "0",
    "1e300",
    "1e999",
    "2.5",
    "''",
    "!!python/name:os.system",
)
VALUES += ("&a x", "*a", "[[[[[[[[]]]]]]]]", "|", "> x", "'", '"', "@x", "`x`", "%x", "{a: {b: c}}")


def changed(text: str, random: np.random.Generator) -> str:
    """Change lines of a file: values, keys, order, indentation, characters."""
    lines = text.splitlines()
    for _ in range(random.integers(1, 4)):
        at, how = int(random.integers(len(lines))), int(random.integers(8))
        other = lines[int(random.integers(len(lines)))]
        value = str(random.choice((*VALUES, *HOSTILE)))
        if how < 3:
            start, mark, _ = re.split(r"([:-] |$)", lines[at], maxsplit=1)
            lines[at] = f"{start}{mark}{value}"
        elif how == 3:
            lines[at] = lines[at].replace(lines[at].strip().partition(":")[0], value[:500], 1)
        elif how == 4:
            lines.insert(at, other)
        elif how == 5:
            lines[at] = " " * int(random.integers(9)) + lines[at].strip()
        elif how == 6:
            lines[at] = other
        else:
            place = int(random.integers(len(lines[at]) + 1))
            lines[at] = lines[at][:place] + chr(int(random.integers(0x2100))) + lines[at][place:]
    return "\n".join(lines)


@contextmanager
def attempts(folder: Path) -> Iterator[Attempt]:
    """Read a file as its configuration; what is read has to be what PyYAML reads."""
    texts = [(kind, path.read_text()) for kind, where in FILES for path in sorted(ROOT.glob(where))]
    lies = [text for text, _ in (*TWICE, *AMBIGUOUS, *ENDLESS, *OTHER)]
    path = folder / "mine.yaml"

    def attempt(case: Case) -> None:
        kind, text = texts[case.random.integers(len(texts))]
        text = lies[case.number] if case.number < len(lies) else changed(text, case.random)
        path.write_text(text, encoding="utf-8", newline="")
        values = read_yaml(path)
        assert repr(values) == repr(yaml.safe_load(path.read_text(encoding="utf-8")))
        parse(kind, values, str(path))
        assert case.number >= len(lies)

    yield attempt


KIND = Kind(count=2000, attempts=attempts)
