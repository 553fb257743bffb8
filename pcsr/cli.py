"""The command line. A command is the function that does it; its docstring is its help.

A command's return value, text or lines of text, is printed.
"""

import ast
import importlib
import importlib.util
import os
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from cyclopts import App, CycloptsError, Group, Parameter

from pcsr import __version__, escape
from pcsr.errors import UserError
from pcsr.storage import files

# Group -> command -> function, imported when its command runs: --help must not wait for torch.
COMMANDS = {
    "Use": {
        "sample": "pcsr.shipped:sample",
        "upscale": "pcsr.evaluation.upscale:upscale",
        "explore": "pcsr.evaluation.explorer.content:explore",
        "demo": "pcsr.evaluation.show:demo",
        "export": "pcsr.evaluation.export:export",
        "calibrate-knob": "pcsr.evaluation.knob_table:calibrate_knob",
        "import-released": "pcsr.weights.convert:import_released",
        "fetch-released": "pcsr.weights.convert:fetch_released",
    },
    "Set up": {
        "where": "pcsr.shipped:where",
        "check": "pcsr.training.check:check",
        "schema": "pcsr.config.load:write_schemas",
    },
    "Train": {
        "prepare": "pcsr.data.prepare:prepare",
        "train": "pcsr.training.train:train",
        "classify-crops": "pcsr.training.crop_classes:classify_crops",
        "tabulate": "pcsr.training.tabulate:tabulate",
        "ship": "pcsr.weights.shipped:ship",
    },
    "Measure": {
        "sweep": "pcsr.evaluation.sweep:sweep",
        "headroom": "pcsr.evaluation.headroom:headroom",
        "bench": "pcsr.benchmarks.latency:bench",
        "training-speed": "pcsr.benchmarks.training.training_speed:training_speed",
    },
    "Report": {
        "collect": "pcsr.report.tidy:write_results",
        "figure": "pcsr.report.figures.psnr_flops:figure",
        "table": "pcsr.report.tables:table",
        "claims": "pcsr.report.claims.page:claims",
        "fairness": "pcsr.report.fairness.page:fairness",
        "leaderboard": "pcsr.report.leaderboard.page:leaderboard",
        "inputs": "pcsr.report.inputs:inputs",
        "summary": "pcsr.report.summary:summary",
        "showcase": "pcsr.evaluation.show:showcase",
        "latency": "pcsr.benchmarks.latency_page:latency",
    },
}
# Old command or option -> what to write instead, for one release.
RENAMED = {
    "calibrate": "classify-crops",
    "pace": "training-speed",
    "--both-ways": "--also lr=float refine=false",
}

# Extra of the package -> what it brings, as it is imported.
EXTRAS = {
    "report": ("bjontegaard", "jinja2", "markdown_it", "matplotlib", "pandas", "scipy", "seaborn"),
    "suite": ("requests", "skimage", "sklearn", "snakemake", "tensorboard", "urllib3"),
    "export": ("onnx", "onnxscript"),
}
DISTRIBUTION = "pcsr-suite"
COMPLETION = "--install-completion"


def app(overview: bool, importable: bool = False) -> App:
    """Build the application from the table of commands.

    Args:
        overview: take each command's summary from its source. Otherwise a command is imported when
            its help is shown, for its whole docstring.
        importable: import all commands, and leave out those whose extra is not installed.
    """
    built = App(
        name="pcsr",
        version=__version__,
        help="Train, measure and use adaptive-compute super-resolution: PCSR, ClassSR, ARM, ENAF.",
        help_format="markdown",
        # Several values after one option (--knob 0 1 2), and no --empty-knob.
        default_parameter=Parameter(
            consume_multiple=True, negative_iterable=(), show_default=_as_typed
        ),
        result_action="return_value",
        suppress_keyboard_interrupt=False,  # cyclopts would exit without a message
    )
    for position, (title, commands) in enumerate(COMMANDS.items()):
        group = Group(title, sort_key=position)
        for name, function in commands.items():
            if importable and not _can_import(function):
                continue
            summary = _summary(function) if overview else None
            built.command(function, name=name, group=group, help=summary)
    built.register_install_completion_command(
        COMPLETION, help="Install completion of commands and options for this shell."
    )
    return built


def _as_typed(default: object) -> str | None:
    """Return a default as one would type it; switches and empty values show none."""
    if isinstance(default, tuple | list):
        return " ".join(map(str, default)) or None
    return None if default is None or default is False or default == "" else str(default)


def _can_import(function: str) -> bool:
    try:
        importlib.import_module(function.partition(":")[0])
    except ImportError:
        return False
    return True


def _summary(function: str) -> str:
    """Return the first line of a command's docstring, without importing its module."""
    module, _, name = function.partition(":")
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        return ""
    tree = ast.parse(Path(found.origin).read_text(encoding="utf-8"))
    docstrings = {f.name: ast.get_docstring(f) for f in tree.body if isinstance(f, ast.FunctionDef)}
    return (docstrings.get(name) or "").partition("\n")[0]


def _failed_thread(arguments: threading.ExceptHookArgs) -> None:
    """Ignore a thread that cannot write: the main thread fails for the same reason and reports."""
    if not isinstance(arguments.exc_value, OSError):
        threading.__excepthook__(arguments)


def _hint() -> str:
    """Say where the project is, if the command was started in one of its folders."""
    project = files.project_above()
    return f" Paths are relative to this folder; the project is in {project}." if project else ""


def _extra(error: ImportError) -> str:
    """Say which extra provides the package that an import lacks; empty if none does."""
    cause = error if error.name else error.__cause__
    package = (getattr(cause, "name", None) or "").partition(".")[0]
    extra = next((extra for extra, names in EXTRAS.items() if package in names), None)
    if extra is None:
        return ""
    return f"needs the package {package}; install it with: pip install '{DISTRIBUTION}[{extra}]'"


def _require_paths(arguments: list[str]) -> None:
    """Refuse arguments that no path can contain: using them would raise a ValueError."""
    for argument in arguments:
        with suppress(UnicodeEncodeError):
            if b"\0" not in os.fsencode(argument):
                continue
        raise UserError(f"'{argument}': has a character that no path can have; give another.")


def main() -> None:
    """Run a command.

    A mistake that the user can fix becomes one line and exit status 2; an error of the system, such
    as a full disk, one line and status 1; an interruption status 130.
    """
    threading.excepthook = _failed_thread
    arguments = sys.argv[1:]
    try:
        _require_paths(arguments)
        for argument in arguments:
            name = argument.partition("=")[0] if argument.startswith("--") else argument
            if name in RENAMED and (name.startswith("--") or argument is arguments[0]):
                raise UserError(f"`{name}` is now `{RENAMED[name]}`.")
        overview = not arguments or arguments[0].startswith("-")
        built = app(overview, importable=COMPLETION in arguments[:1])
        returned = built(arguments, exit_on_error=False, print_error=False)
        if returned is not None:
            lines = [returned] if isinstance(returned, str) else returned
            print("\n".join(map(escape.printable, lines)))
    except (UserError, CycloptsError) as error:
        _fail(f"{error}{_hint()}", 2)
    except ImportError as error:
        needed = _extra(error)
        if not needed:
            raise
        _fail(f"pcsr {arguments[0]}: {needed}", 2)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        fix = "check the disk's free space and the permissions there, then run again."
        _fail(f"{where}{error.strerror or error}; {fix}{_hint()}", 1)
    except KeyboardInterrupt as stop:
        what = f"interrupted: {stop}" if stop.args else "interrupted"
        print(f"{escape.printable(what)}; run the same command to resume", file=sys.stderr)
        sys.exit(130)


def _fail(message: str, status: int) -> NoReturn:
    """Print one line, without characters that break it or control the terminal, and exit."""
    print(f"error: {escape.printable(' '.join(message.split()))}", file=sys.stderr)
    sys.exit(status)
