"""YAML that lies, and the suite's own files with anything changed in them."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import yaml
from hostile.texts import AMBIGUOUS, ENDLESS, HOSTILE, OTHER, TWICE
from workspace import ROOT

from pcsr.config.load import parse, read_yaml
from pcsr.config.models import (
    Config,
    DatasetsConfig,
    ExperimentConfig,
    SuiteConfig,
)
from pcsr.config.released import ReleasedConfig
from torture.harness import Attempt, Case, Kind

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
