"""The command line: examples, and every number, also from Python and in a suite's file."""

import json
import math
import re
import shlex
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from cyclopts import App, Argument, CycloptsError
from cyclopts.validators import Number
from models import build, photograph_like

from pcsr import cli, runtime
from pcsr.config import models, options
from pcsr.config.load import parse, schemas
from pcsr.config.published import Claims
from pcsr.errors import UserError
from pcsr.evaluation.model import Model
from pcsr.routing import OperatingPoint

NONSENSE = ("nan", "inf", "-inf", "1e300", "-1e300", "1e999", "", "some", "0,5", "9" * 5000)
NOT_WHOLE = ("2.5", "1e1", "0.0")
COMMANDS = [name for group in cli.COMMANDS.values() for name in group]


def kind_of(hint: Any) -> type | None:
    """``int`` or ``float`` where a type holds numbers."""
    if hint in (int, float):
        return hint
    return next(filter(None, map(kind_of, typing.get_args(hint))), None)


def filler(argument: Argument) -> list[str]:
    """A value for a required argument, which must not be a number."""
    positional = argument.index is not None
    return ["some"] if positional else [argument.name, "some"]


def numbers(command: App) -> Iterator[tuple[Argument, type, list[str]]]:
    """Yield the numeric arguments of a command, and what else must be given."""
    arguments = list(command.assemble_argument_collection())
    needed = [filler(argument) for argument in arguments if argument.required]
    words = [word for given in sorted(needed, key=len) for word in given]
    for argument in arguments:
        if kind := kind_of(argument.hint):
            yield argument, kind, words


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_that_is_a_number_has_bounds(name: str) -> None:
    """A new numeric option without bounds fails here."""
    app = cli.app(overview=False)
    for argument, kind, needed in numbers(app[name]):
        option = argument.name
        bounds = [v for v in argument.parameter.validator if isinstance(v, Number)]
        assert bounds, f"{name} {option}: give it a kind of number from pcsr.config.options"
        low = bounds[0].gt if bounds[0].gte is None else bounds[0].gte
        high = bounds[0].lt if bounds[0].lte is None else bounds[0].lte
        assert low is not None and high is not None, f"{name} {option}: bounds on both sides"
        outside = [str(kind(low - 1)), str(kind(high + 1))]
        outside += [str(kind(low))] * (bounds[0].gt is not None)

        def parse(value: str, option: str = option, needed: Sequence[str] = needed) -> None:
            app.parse_args([name, *needed, option, value], exit_on_error=False, print_error=False)

        for value in (*NONSENSE, *outside, *(NOT_WHOLE if kind is int else ())):
            with pytest.raises(CycloptsError, match=rf"(?s)Invalid value.*{option}"):
                parse(value)
        parse(str(high))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_that_it_accepts(name: str) -> None:
    app = cli.app(overview=False)
    help_text = app[name].help
    examples = re.findall(r"`pcsr ([^`]+)`", help_text[help_text.index("Example") :])
    for example in examples:
        app.parse_args(shlex.split(example), exit_on_error=False, print_error=False)
    assert f"pcsr {name}" in help_text[help_text.index("Example") :]


def test_a_wrong_number_is_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for option, value in (("--k", "nan"), ("--budget", "0"), ("--scale", "1"), ("--threads", "0")):
        words = ["pcsr", "upscale", "a.png", "b.png", "--weights", "w.pth", option, value]
        monkeypatch.setattr("sys.argv", words)
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        (line,) = capsys.readouterr().err.splitlines()
        assert stopped.value.code == 2 and line.startswith("error: ") and option in line


@pytest.fixture(scope="module")
def run() -> Callable[..., Any]:
    """Upscale an image by a method from Python."""
    made: dict[str, Model] = {}

    def upscale(method: str, **options: Any) -> Any:
        if method not in made:
            made[method] = Model(build("fsrcnn", method), torch.float32)
        return made[method].upscale(photograph_like(32, 40), **options)

    return upscale


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("k", (math.nan, math.inf, -math.inf, 1e300, -1001)),
        ("budget", (math.nan, math.inf, -math.inf, 1e300, 0, -0.5, 11)),
        ("scale", (math.nan, math.inf, -math.inf, 1e300, 0, 1, -4)),
        ("max_memory", ("0", "-1GiB", "nan", "inf", "1e300GiB", "0.1B", "")),
    ],
)
def test_the_python_interface_refuses_the_same_numbers(
    run: Callable[..., Any], option: str, values: Sequence[Any]
) -> None:
    for value in values:
        with pytest.raises(UserError, match=f"--{option.replace('_', '-')}"):
            run("pcsr", **{option: value})


@pytest.mark.parametrize(
    ("method", "ignored", "message"),
    [
        ("original", {"k": 1.0}, "nothing to decide"),
        ("original", {"adaptive": True}, "nothing to decide"),
        ("original", {"budget": 0.5}, "nothing to decide"),
        ("original", {"refine": True}, "nothing to refine"),
        ("classsr", {"refine": True}, "nothing to refine"),
        ("classsr", {"adaptive": True}, "decides by its knob alone"),
        ("classsr", {"budget": 0.5}, "does not support a budget"),
        ("arm", {"refine": True}, "nothing to refine"),
        ("arm", {"budget": 0.5}, "does not support a budget"),
        ("arm", {"k": -0.5}, "is below 0"),  # it would prefer the lower PSNR
        ("pcsr", {"k": 0.0, "adaptive": True}, "not several"),
        ("pcsr", {"k": 0.0, "budget": 0.5}, "not several"),
        ("pcsr", {"adaptive": True, "budget": 0.5}, "not several"),
    ],
)
def test_what_would_be_ignored_is_refused(
    run: Callable[..., Any], method: str, ignored: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run(method, **ignored)
    run(method, refine=False)


def test_a_batch_of_methods_needs_one_that_heeds_the_knob() -> None:
    from pcsr.evaluation.points import points_for_all

    original, pcsr = build("fsrcnn", "original"), build("fsrcnn", "pcsr")
    at = OperatingPoint(knob=1.0, refine=True)
    assert points_for_all([original, pcsr], at) == [OperatingPoint(refine=True), at]
    for ignored in (at, OperatingPoint(adaptive=True)):
        with pytest.raises(UserError, match="nothing to decide"):
            points_for_all([original, original], ignored)
    assert points_for_all([original], OperatingPoint()) == [OperatingPoint()]


def test_a_limit_of_memory_is_a_size() -> None:
    limit = runtime.read_bytes("2GiB")
    assert limit is not None and 0.9 * 2**31 < limit < 2**31
    for text in ("0", "-1", "nan", "1e300GiB", "9999999999GiB", "0.1B"):
        with pytest.raises(UserError, match="give a size such as 2GiB"):
            runtime.read_bytes(text)


#: Without an upper limit: what exists. The sizes of networks are no part of the schemas.
UNLIMITED = {"bytes", "expected", "cells"}


def numbers_in(node: Any, key: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the numbers of a JSON schema with the key that holds them."""
    if isinstance(node, list):
        for part in node:
            yield from numbers_in(part, key)
    elif isinstance(node, dict):
        if node.get("type") in ("integer", "number"):
            yield key, node
        for name, part in node.items():
            structure = name in ("items", "prefixItems", "anyOf", "additionalProperties")
            yield from numbers_in(part, key if structure else name)


def test_every_number_of_the_configuration_has_bounds() -> None:
    whole = [json.loads(text) for text in schemas().values()]
    found = dict(numbers_in([*whole, Claims.model_json_schema()]))
    assert {"iterations", "learning_rate", "betas", "scale", "knobs", "psnr_db"} <= set(found)
    for key, number in found.items():
        low = {"minimum", "exclusiveMinimum"} & set(number)
        high = {"maximum", "exclusiveMaximum"} & set(number)
        assert low and (high or key in UNLIMITED), (key, number)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 1e300, -1e300])
def test_numbers_of_a_suite_that_are_none(number: float) -> None:
    stage = {"iterations": 1, "learning_rate": 1e-3}
    for key in ("learning_rate", "learning_rate_end", "iterations", "batch", "patch", "save_every"):
        with pytest.raises(UserError, match=f"here: {key}: "):
            parse(models.StageConfig, stage | {key: number}, "here")
    with pytest.raises(UserError, match=r"betas\.1"):
        parse(models.StageConfig, stage | {"betas": [0.9, number]}, "here")
    with pytest.raises(UserError, match="scale"):
        parse(models.ModelConfig, {"backbone": "b", "method": "m", "scale": number}, "here")
    suite = {"suite": "s", "description": "", "experiments": ["e"], "test_sets": ["t"]}
    suite |= {"weights": "shipped"}
    parse(models.SuiteConfig, suite | {"knobs": {"arm": [0.5, 2]}}, "here")
    with pytest.raises(UserError, match=r"knobs\.arm\.1"):
        parse(models.SuiteConfig, suite | {"knobs": {"arm": [0.5, number]}}, "here")


def test_threads_are_as_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenMP's variable may be a list, one number for each level of nesting."""
    for said, expected in {"3": 3, "3,2": 3, "1024": 1024}.items():
        monkeypatch.setenv("OMP_NUM_THREADS", said)
        assert options.default_threads() == expected
    for said in ("", "0", "-1", "1025", "some", "9" * 5000):
        monkeypatch.setenv("OMP_NUM_THREADS", said)
        assert options.default_threads() == options.CORES
