"""The command line: one verb per rule of the workflow, plus demo and upscale. Parses and calls."""

import os
import sys
import threading
from pathlib import Path
from typing import Annotated, Literal

import typer

from pcsr.errors import UserError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Train, measure and use adaptive-compute super-resolution: PCSR, ClassSR, ARM.",
)

WeightsFiles = Annotated[
    list[Path], typer.Option("--weights", help="weights files: .safetensors, or a released .pth")
]
WeightsFile = Annotated[
    Path, typer.Option("--weights", help="weights file: .safetensors, or a released .pth")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads")]
LR = Annotated[Literal["8bit", "float"], typer.Option("--lr", help="round LR to 8 bit, or not")]
Refine = Annotated[
    bool, typer.Option("--refine/--no-refine", help="smooth cheap pixels beside expensive ones")
]
CropTo = Annotated[
    Literal["tiles", "none"], typer.Option(help="cut LR to whole 32x32 tiles, or keep all of it")
]
K = Annotated[
    float | None,
    typer.Option(
        "--k",
        help="the method's knob; PCSR and ClassSR: k, 0 takes the likeliest branch and more saves "
        "more; ARM: eta over the full cost, less saves more; left out, the method's own choice",
    ),
]
BothWays = Annotated[
    list[str],
    typer.Option(
        help="choices to measure the other way, too: lr, crop, refine; lr,refine for each and both"
    ),
]
Adaptive = Annotated[bool, typer.Option("--adaptive", help="let the method decide (ADM), no k")]
Scale = Annotated[
    float | None, typer.Option(help="HR size / LR size, if not the one the weights were trained at")
]
Precision = Annotated[
    Literal["float32", "float16"],
    typer.Option(help="of the networks; float16 is for GPUs"),
]
Suite = Annotated[Path, typer.Option("--suite", help="suite file, e.g. configs/suites/quick.yaml")]
LogFile = Annotated[Path | None, typer.Option("--log", help="also log to this file")]
SEVERAL_VALUES = {
    "sweep": ("--weights", "--knob", "--both-ways"),
    "demo": ("--weights",),
    "showcase": ("--weights",),
    "collect": ("--sweeps",),
    "calibrate-knob": ("--knob",),
    "bench": ("--weights", "--images", "--knob", "--budget", "--fresh"),
}


@app.command()
def prepare(
    name: Annotated[str, typer.Argument(help="a data set of configs/datasets.yaml")],
    out: Annotated[Path | None, typer.Option(help="folder of the packed store")] = None,
    raw: Annotated[Path, typer.Option(help="where downloads are kept")] = Path("data/raw"),
    log: LogFile = None,
) -> None:
    """Turn raw pictures into a packed store with a manifest.

    Example: `pcsr prepare embedded-train`. Set `PCSR_MIRROR` to take downloads from a local folder.
    """
    from pcsr import files, runtime
    from pcsr.config.load import find_dataset, load_datasets
    from pcsr.data.prepare import prepare as run

    runtime.setup_logging(log)
    dataset = find_dataset(name, load_datasets(), "prepare")
    run(name, dataset, out or Path(files.prepared(name)), raw)


@app.command()
def train(
    experiment: Annotated[str, typer.Argument(help="an experiment of the suite")],
    stage: Annotated[str, typer.Argument(help="one of the experiment's stages")],
    suite: Suite,
    out: Annotated[Path, typer.Option(help="weights file to write")],
    init: Annotated[Path | None, typer.Option(help="weights of the stage before")] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="classes of crops, for a stage with a crop_class")
    ] = None,
    device: Device = "auto",
    processes: Annotated[
        int, typer.Option(min=0, help="that share the training, each on a GPU of its own; 0 as 1")
    ] = 1,
    log: LogFile = None,
) -> None:
    """Train one stage of one experiment; a run that was cut goes on where it was.

    Any number of processes trains the same, step by step, and may go on with what another began.

    Example: `pcsr train fsrcnn-pcsr stage0 --suite configs/suites/train-quick.yaml --out
    w.safetensors`.
    """
    from pcsr import distributed, verbs

    distributed.share_among(processes, device)
    verbs.train(experiment, stage, suite, out, init, calibration, device, log)


@app.command()
def calibrate(
    weights: WeightsFile,
    data: Annotated[Path, typer.Option(help="packed store of training pictures")],
    out: Annotated[Path, typer.Option(help="safetensors file to write; a JSON stands beside it")],
    patch: Annotated[int, typer.Option(min=8, help="side of a crop in LR pixels")] = 32,
    classes: Annotated[int, typer.Option(min=2, max=255, help="classes of equal size")] = 3,
    device: Device = "auto",
    threads: Threads = os.cpu_count() or 1,
    log: LogFile = None,
) -> None:
    """Sort all training crops into classes by the PSNR that a trained model gives them.

    ClassSR trains each of its networks on one class. A run that was cut goes on where it was.

    Example: `pcsr calibrate --weights srresnet.safetensors --data data/prepared/div2k-train --out
    classes.safetensors`.
    """
    from pcsr import verbs

    verbs.calibrate_crops(weights, data, patch, classes, out, device, threads, log)


@app.command()
def tabulate(
    weights: WeightsFile,
    images: Annotated[Path, typer.Option("--images", help="validation pictures (HR)")],
    out: Annotated[Path, typer.Option(help="weights file to write")],
    device: Device = "auto",
    threads: Threads = os.cpu_count() or 1,
    log: LogFile = None,
) -> None:
    """Fill the table that ARM decides by: PSNR of every width by the edges of a tile.

    Example: `pcsr tabulate --weights trained.safetensors --images data/prepared/div2k-valid --out
    arm.safetensors`.
    """
    from pcsr import verbs

    verbs.tabulate(weights, images, out, device, threads, log)


@app.command()
def sweep(
    weights: WeightsFiles,
    images: Annotated[
        Path, typer.Option("--images", help="folder of HR pictures, a picture, or a packed store")
    ],
    out: Annotated[Path, typer.Option(help="CSV to write, one row per picture and knob value")],
    lr_images: Annotated[Path | None, typer.Option(help="folder of ready LR pictures")] = None,
    knob: Annotated[
        list[float], typer.Option(help="values of the knob; left out, each method's own choice")
    ] = [],  # noqa: B006
    adaptive: Adaptive = False,
    lr: LR = "8bit",
    crop: CropTo = "tiles",
    refine: Refine = True,
    both_ways: BothWays = [],  # noqa: B006
    scale: Scale = None,
    device: Device = "auto",
    threads: Threads = os.cpu_count() or 1,
    log: LogFile = None,
) -> None:
    """Measure weights on pictures over values of the knob; one dense pass gives the whole curve.

    Example: `pcsr sweep --weights carn.safetensors --images Urban100/HR --knob 0 1 2 --out u.csv`.
    """
    from pcsr import verbs
    from pcsr.config.models import ProtocolConfig
    from pcsr.evaluation.sweep import SweepOptions

    protocol = ProtocolConfig(lr=lr, crop=crop, refine=refine)
    options = SweepOptions(tuple(knob), adaptive, protocol, tuple(both_ways), scale)
    verbs.sweep(weights, images, lr_images, options, out, device, threads, log)


@app.command()
def demo(
    image: Annotated[Path, typer.Argument(help="HR picture")],
    weights: WeightsFiles,
    out: Annotated[Path, typer.Option(help="folder for the pictures")],
    k: K = None,
    adaptive: Adaptive = False,
    refine: Refine = False,
    lr: LR = "float",
    crop: CropTo = "none",
    scale: Scale = None,
    device: Device = "auto",
    threads: Threads = os.cpu_count() or 1,
) -> None:
    """Write HR, LR, SR and coloured routing pictures of one photograph, with dB, GFLOPs, percent.

    Float LR, no crop and no refinement are the published demo's way.

    Example: `pcsr demo 1232.png --weights carn-x4.safetensors carn-pcsr.safetensors --adaptive
    --out demo`.
    """
    from pcsr import verbs
    from pcsr.config.models import ProtocolConfig
    from pcsr.methods.base import Knob

    protocol = ProtocolConfig(lr=lr, crop=crop, refine=refine)
    knob: Knob = "adaptive" if adaptive else k
    for line in verbs.demo(image, weights, out, knob, protocol, scale, device, threads):
        print(line)


@app.command()
def upscale(
    source: Annotated[Path, typer.Argument(metavar="IN", help="picture, or folder of pictures")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="PNG file, or folder")],
    weights: WeightsFile,
    k: K = None,
    adaptive: Adaptive = False,
    budget: Annotated[
        float | None,
        typer.Option(help="share of the original's FLOPs to spend on each picture, e.g. 0.5"),
    ] = None,
    psnr_drop: Annotated[
        float | None,
        typer.Option(
            help="dB to lose at most, on average, against the full computation, e.g. 0.02; needs "
            "weights from `pcsr calibrate-knob`"
        ),
    ] = None,
    refine: Refine = True,
    scale: Scale = None,
    max_memory: Annotated[
        str | None,
        typer.Option(
            help="what the process may take, e.g. 2GiB (on a GPU: of its memory); larger pictures "
            "are computed in parts, with the same result"
        ),
    ] = None,
    precision: Precision = "float32",
    device: Device = "auto",
    threads: Threads = os.cpu_count() or 1,
) -> None:
    """Super-resolve a picture, or a folder of pictures, that has no HR.

    Example: `pcsr upscale photo.png photo_x4.png --weights carn-pcsr.safetensors --budget 0.5`.
    """
    from pcsr import verbs

    wanted = verbs.Wanted("adaptive" if adaptive else k, budget, psnr_drop)
    verbs.upscale(
        *(source, target, weights, wanted, refine, scale, max_memory, precision, device, threads)
    )


@app.command("calibrate-knob")
def calibrate_knob(
    weights: WeightsFile,
    images: Annotated[
        Path, typer.Option("--images", help="folder of HR pictures, a picture, or a packed store")
    ],
    out: Annotated[Path, typer.Option(help="weights file to write, with the table in it")],
    knob: Annotated[
        list[float], typer.Option(help="values of the knob; left out, a range that fits most")
    ] = [],  # noqa: B006
    device: Device = "auto",
    threads: Threads = os.cpu_count() or 1,
    log: LogFile = None,
) -> None:
    """Measure what the knob costs in PSNR, for `upscale --psnr-drop`.

    Example: `pcsr calibrate-knob --weights carn-pcsr.safetensors --images data/prepared/div2k-valid
    --out carn-pcsr-calibrated.safetensors`.
    """
    from pcsr import verbs

    for line in verbs.calibrate_knob(weights, images, knob, out, device, threads, log):
        print(line)


@app.command()
def bench(
    weights: WeightsFiles,
    images: Annotated[
        list[Path], typer.Option("--images", help="HR pictures; the last is the one that grows")
    ],
    out: Annotated[Path, typer.Option(help="JSON to write")],
    fresh: Annotated[
        list[str],
        typer.Option(help="backbones without weights: time an original and a pcsr of fresh ones"),
    ] = [],  # noqa: B006
    knob: Annotated[list[float], typer.Option(help="values of PCSR's knob to run at")] = [0],  # noqa: B006
    budget: Annotated[
        list[float], typer.Option(help="operating points: shares of the original's FLOPs")
    ] = [],  # noqa: B006
    steps: Annotated[
        int, typer.Option(help="sizes from 960x540 on, each twice the last in both directions")
    ] = 0,
    rounds: Annotated[
        int, typer.Option(min=0, help="times that everything is run; 0: growing pictures alone")
    ] = 3,
    max_memory: Annotated[
        str | None, typer.Option(help="for the growing pictures, as in `pcsr upscale`")
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="also measure which operations take the time")
    ] = False,
    precision: Precision = "float32",
    device: Device = "auto",
    threads: Threads = os.cpu_count() or 1,
) -> None:
    """Time originals, PCSR as published and by the engine, and tile methods, in one run.

    PCSR runs at the operating points asked for, tile methods at their default. Nothing else should
    run on the machine. Times of all cases are taken in turns; their ratios are what counts.

    Example: `pcsr bench --weights carn.safetensors carn-pcsr.safetensors --images 1232.png --knob 0
    --out bench.json`.
    """
    from benchmarks.latency import Plan
    from pcsr import verbs

    plan = Plan(knob, budget, rounds, profiled=profile, steps=steps)
    verbs.bench(weights, fresh, images, plan, precision, max_memory, out, device, threads)


@app.command()
def ship(
    suite: Suite,
    licence: Annotated[str, typer.Option(help="under which the weights may be used, in a line")],
    out: Annotated[Path, typer.Option(help="folder to put <experiment>.safetensors into")],
) -> None:
    """Collect the weights that a suite trained, with their licence and validation curves.

    Example: `pcsr ship --suite configs/suites/weights.yaml --licence "MIT" --out weights`.
    """
    from pcsr import runtime
    from pcsr.weights.shipped import ship as collect

    runtime.setup_logging()
    from pcsr.config.load import load_study

    collect(load_study(suite), licence, out)


@app.command()
def pace(
    suite: Suite,
    out: Annotated[Path, typer.Option(help="JSON to write, or to go on with; .md beside it")],
    experiments: Annotated[
        list[str] | None, typer.Argument(help="experiments of the suite; all where none is given")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="packed store to train on; the suite's own if left out")
    ] = None,
    way: Annotated[
        list[str], typer.Option(help="loops: textbook, suite; 'suite, tf32', 'suite, bf16'")
    ] = ["textbook", "suite"],  # noqa: B006
    seconds: Annotated[float, typer.Option(help="that a loop runs at least in each round")] = 3,
    rounds: Annotated[int, typer.Option(min=1, help="times that the loops take turns")] = 3,
    workers: Annotated[
        int, typer.Option(min=0, help="processes that make the textbook loop's batches")
    ] = min(os.cpu_count() or 1, 8),
    device: Device = "auto",
    threads: Threads = os.cpu_count() or 1,
) -> None:
    """Measure how fast training runs, beside a textbook loop, and project the suite's recipes.

    Both loops train the same batches from the same weights, in turns. Nothing else should run on
    the machine. Stages that the JSON holds are not measured again.

    Example: `pcsr pace fsrcnn-pcsr --suite configs/suites/paper.yaml --data
    data/prepared/embedded-train --out pace.json`.
    """
    from benchmarks.training_speed import Plan
    from pcsr import verbs

    plan = Plan(way, seconds, rounds, workers)
    verbs.measure_pace(experiments or [], suite, data, plan, out, device, threads)


@app.command()
def latency(
    measured: Annotated[list[Path], typer.Argument(help="files made by `bench`")],
    out: Annotated[Path, typer.Option(help="Markdown to write; .html, .png, .svg beside it")],
) -> None:
    """Draw and tabulate time ratios over FLOP ratios, of what `bench` measured."""
    from benchmarks import latency_page as report
    from pcsr.report import figures, pages

    results = [report.read(path) for path in measured]
    drawn = report.figure(results)
    for suffix in (".svg", ".png"):
        figures.save(drawn, out.with_suffix(suffix))
    pages.write(report.markdown(results), out)


@app.command("import-released")
def import_released(
    file: Annotated[Path, typer.Argument(help="a published checkpoint, e.g. iter_last.pth")],
    out: Annotated[Path, typer.Option(help="safetensors file to write")],
) -> None:
    """Convert published weights to safetensors; nothing in the file is executed.

    Example: `pcsr import-released save/carn-x4/iter_last.pth --out carn-x4.safetensors`.
    """
    from pcsr import verbs

    print(verbs.import_released(file, out))


@app.command("fetch-released")
def fetch_released(
    experiment: Annotated[str, typer.Argument(help="an experiment of configs/released.yaml")],
    out: Annotated[Path, typer.Option(help="safetensors file to write")],
    raw: Annotated[Path, typer.Option(help="where downloads are kept")] = Path("data/raw"),
    log: LogFile = None,
) -> None:
    """Download the weights that a paper's authors published, check them, and convert them.

    With `PCSR_MIRROR` set they are taken from there, and nothing is downloaded; files without a
    download belong into `data/raw/released`. Run it in a checkout of the suite.

    Example: `pcsr fetch-released carn-pcsr --out carn-pcsr.safetensors`.
    """
    from pcsr import verbs

    print(verbs.fetch_released(experiment, out, raw, log))


@app.command()
def collect(
    sweeps: Annotated[list[Path], typer.Option("--sweeps", help="sweep.csv files")],
    out: Annotated[Path, typer.Option(help="CSV to write")],
) -> None:
    """Join sweeps to one tidy table: one row per experiment, test set, picture and knob value."""
    from pcsr import files
    from pcsr.report import tidy

    tidy.write_csv(tidy.collect(sweeps), out)
    facts = files.provenance(sweeps=[str(path) for path in sweeps])
    files.write_json(files.sidecar(out), facts)


@app.command()
def figure(
    results: Annotated[Path, typer.Argument(help="table made by `collect`")],
    test_set: Annotated[str, typer.Option(help="data set")],
    backbone: Annotated[str, typer.Option(help="backbone")],
    out: Annotated[Path, typer.Option(help="PNG to write; an SVG is written beside it")],
) -> None:
    """Draw PSNR over GFLOPs in both conventions: one curve per method."""
    from pcsr.report import figures, tidy

    drawn = figures.psnr_flops(tidy.summarise(tidy.load(results)), test_set, backbone)
    for suffix in (".svg", ".png"):
        figures.save(drawn, out.with_suffix(suffix))


@app.command()
def table(
    results: Annotated[Path, typer.Argument(help="table made by `collect`")],
    out: Annotated[
        Path, typer.Option(help="Markdown to write; .html, .tex and .csv stand beside it")
    ],
) -> None:
    """Write the operating points: what each method and knob value gives and costs."""
    from pcsr.report import tables, tidy

    points = tables.operating_points(tidy.summarise(tidy.load(results)))
    for suffix in (".csv", ".tex", ".md", ".html"):
        tables.write(points, out.with_suffix(suffix))


@app.command()
def claims(
    results: Annotated[Path, typer.Argument(help="table made by `collect`")],
    out: Annotated[Path, typer.Option(help="Markdown to write; .html stands beside it")],
    published: Annotated[Path, typer.Option(help="published cells")] = Path("configs/claims.yaml"),
) -> None:
    """Set every published cell beside ours, with the difference and a verdict."""
    from pcsr.report import claims as report
    from pcsr.report import pages, tidy
    from pcsr.report.published import load_claims

    text = report.claims_markdown(tidy.load(results), load_claims(published))
    pages.write(text, out)


@app.command()
def inputs(
    suite: Suite,
    out: Annotated[Path, typer.Option(help="Markdown to write; .html stands beside it")],
) -> None:
    """List the weights and pictures that a suite was measured with, and what could not be had."""
    from pcsr.config.load import load_study
    from pcsr.report import inputs as report
    from pcsr.report import pages
    from pcsr.weights import available

    study = load_study(suite)
    text = report.inputs_markdown(study, available.present(study))
    pages.write(text, out)


@app.command()
def fairness(
    results: Annotated[Path, typer.Argument(help="table made by `collect`")],
    out: Annotated[Path, typer.Option(help="Markdown to write; .html stands beside it")],
) -> None:
    """Compare methods fairly: overlap, both FLOP conventions, protocol, equal PSNR, equal FLOPs."""
    from pcsr.report import fairness as report
    from pcsr.report import pages, tidy

    text = report.fairness_markdown(tidy.load(results))
    pages.write(text, out)


@app.command()
def showcase(
    images: Annotated[Path, typer.Option("--images", help="packed store or folder of HR pictures")],
    weights: WeightsFiles,
    routing: Annotated[Path, typer.Option(help="routing-map PNG to write")],
    comparison: Annotated[Path, typer.Option(help="comparison PNG to write")],
    picture: Annotated[int, typer.Option(help="number of the picture in the set")] = 0,
    k: K = None,
    lr: LR = "8bit",
    crop: CropTo = "tiles",
    refine: Refine = True,
    threads: Threads = os.cpu_count() or 1,
) -> None:
    """Draw which pixel went where, and crops of HR, LR, bicubic, original and method.

    `--weights` takes the original's file first, then the method's.
    """
    from pcsr import verbs
    from pcsr.config.models import ProtocolConfig

    protocol = ProtocolConfig(lr=lr, crop=crop, refine=refine)
    verbs.showcase(images, picture, weights, k, protocol, routing, comparison, threads)


@app.command()
def schema(
    out: Annotated[Path, typer.Option(help="folder to write")] = Path("configs/schema"),
) -> None:
    """Write the JSON schemas of the configuration files from their typed models."""
    from pcsr import files
    from pcsr.config.load import schemas

    for name, text in schemas().items():
        files.write_text(out / name, text)


def spread(arguments: list[str]) -> list[str]:
    """Repeat an option before each of its values: ``--knob 0 1`` -> ``--knob 0 --knob 1``.

    Click takes one value per option; several after one are what people type. The verb says which
    of its options take several.
    """
    several = SEVERAL_VALUES.get(arguments[0], ()) if arguments else ()
    result: list[str] = []
    option = None
    for argument in arguments:
        if argument.startswith("-") and not _is_number(argument):
            option = argument if argument in several else None
            result.append(argument)
        elif option and result[-1] != option:
            result += [option, argument]
        else:
            result.append(argument)
    return result


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _failed_thread(arguments: threading.ExceptHookArgs) -> None:
    """Say nothing of a thread that cannot write: the main thread fails of it, too, and reports."""
    if not isinstance(arguments.exc_value, OSError):
        threading.__excepthook__(arguments)


def main() -> None:
    """Run the command line; a mistake the user can mend becomes one line and exit status 2."""
    threading.excepthook = _failed_thread
    try:
        app(args=spread(sys.argv[1:]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(
            f"error: {where}{error.strerror or error}; check the disk's free space and the "
            "permissions there, then run again.",
            file=sys.stderr,
        )
        sys.exit(1)
