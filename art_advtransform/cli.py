"""L8: art-advtransform train | evaluate | report | show."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    import torch

    from art_advtransform.records import Evaluation

app = typer.Typer(
    help="Adversarial transformation (Xiao & Zheng 2020): train nets, attack them, look at g(x).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # brackets are mathematics here
)
console = Console()

Dataset = Annotated[str, typer.Option(help="digits, cifar10, tiny_imagenet or fashion_mnist.")]
DataRoot = Annotated[
    Path | None, typer.Option(help="Folder with the data; default: $ART_ADVTRANSFORM_DATA, else ./data.")
]
Download = Annotated[bool, typer.Option(help="Let torchvision fetch missing data (CIFAR-10, Fashion-MNIST).")]
Seed = Annotated[int, typer.Option(help="Of every draw.", min=0)]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, ...; default: a GPU if there is one.")]
FB = Annotated[
    str | None, typer.Option("--f-b", help="f_b: a bundled name, a folder, or reference:<the authors' checkpoint>.")
]


@app.command()
def train(
    dataset: Dataset = "digits",
    preset: Annotated[
        str, typer.Option(help="cpu (two cores, the bundled nets), paper (its section 5, for a GPU) or smoke.")
    ] = "cpu",
    net: Annotated[list[str] | None, typer.Option(help="Only this net (may be repeated); default: all.")] = None,
    redraw_every: Annotated[
        int | None,
        typer.Option(help="Epochs that share a draw of g(x); 0: fresh for every batch; default: the recipe's.", min=0),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--restart", help="Go on after the last checkpoint, or anew.")
    ] = True,
    mixed_precision: Annotated[str, typer.Option(help="no, bf16 or fp16 (GPU).")] = "no",
    tensorboard: Annotated[Path | None, typer.Option(help="Folder for TensorBoard's logs.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the nets; default: runs/train-<dataset>.")] = None,
    data_root: DataRoot = None,
    download: Download = False,
) -> None:
    """Train f_b, f_a (defended and undefended), baselines and surrogates; goes on where it was interrupted.

    On several GPUs or processes: torchrun --nproc-per-node 2 -m art_advtransform train ...
    """
    from art_advtransform.datasets import load_dataset
    from art_advtransform.pretrained import read_card
    from art_advtransform.recipes import SMOKE_IMAGES, preset_nets
    from art_advtransform.train_nets import Options, train_nets

    preset_nets(dataset, preset)  # refuses unknown names before anything is loaded
    out = Path(f"runs/train-{dataset}") if out is None else out
    images = [load_dataset(dataset, split, data_root, download=download) for split in ("train", "test")]
    if preset == "smoke":
        images = [split.sample(SMOKE_IMAGES) for split in images]
    with _bars() as bars:
        options = Options(preset, redraw_every, resume, mixed_precision, tensorboard, partial(_bar, bars))  # type: ignore[arg-type]
        folders = train_nets(dataset, images[0], images[1], out, net, options)
    for name, folder in folders.items():
        card = read_card(folder)
        attacked = f", under PGD-20 {100 * card['pgd20_accuracy']:.1f} %" if "pgd20_accuracy" in card else ""
        console.print(
            f"{name}: test accuracy {100 * card['test_accuracy']:.1f} %{attacked}, {card['draws']} draws, {folder}",
            soft_wrap=True,
        )


@app.command()
def evaluate(
    dataset: Dataset = "digits",
    preset: Annotated[str, typer.Option(help="Which attacks: smoke or quick.")] = "quick",
    images: Annotated[int, typer.Option(help="Test images.", min=1)] = 100,
    draws: Annotated[int, typer.Option(help="Draws of D that score each attacked image.", min=1)] = 100,
    eps: Annotated[float | None, typer.Option(help="L-inf budget; default: 8/255, for digits 2/16.")] = None,
    seed: Seed = 0,
    nets: Annotated[
        Path | None, typer.Option(help="Folder of nets that `train` wrote; default: the bundled ones.")
    ] = None,
    f_b: FB = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results; default: runs/evaluate-<dataset>.")] = None,
    data_root: DataRoot = None,
    download: Download = False,
    device: Device = None,
) -> None:
    """Attack a defended net beside an undefended one; goes on where it was interrupted."""
    from art_advtransform.attacks.presets import preset_attacks
    from art_advtransform.config import ThreatModel
    from art_advtransform.datasets import check_dataset, load_dataset
    from art_advtransform.defended import DefendedModel
    from art_advtransform.evaluation import evaluate as run
    from art_advtransform.layer import LLPGDTransform
    from art_advtransform.pretrained import load_network
    from art_advtransform.recipes import THREATS

    # what is cheap to refuse comes before data sets that take a minute to decode
    check_dataset(dataset)
    preset_attacks(preset)
    threat = THREATS.get(dataset, ThreatModel()) if eps is None else ThreatModel(eps)
    home, place = dataset if nets is None else str(nets), _device(device)
    names = {"f_b": f_b or f"{home}/f_b-adversarial"} | {
        name: f"{home}/{name}" for name in ("undefended", "f_a-defended", "surrogate")
    }
    if not _exists(names["surrogate"]):
        del names["surrogate"]  # the attacks that need it say so
    loaded = {role: load_network(name, place) for role, name in names.items()}
    test = load_dataset(dataset, "test", data_root, download=download).sample(images)
    models = {
        "undefended": DefendedModel(loaded["undefended"], None),
        "defended": DefendedModel(loaded["f_a-defended"], LLPGDTransform(loaded["f_b"])),
    }
    surrogates = {"surrogate": loaded["surrogate"]} if "surrogate" in loaded else {}
    for model in models.values():
        model(test.x[:1].to(place))  # of another data set: refused before either is attacked
    out = Path(f"runs/evaluate-{dataset}") if out is None else out
    evaluations: dict[str, Evaluation] = {}
    with _bars() as bars:
        for name, model in models.items():
            evaluations[name] = run(
                model,
                test.x.to(place),
                test.y.to(place),
                preset,
                threat,
                out=out / name,
                seed=seed,
                nb_draws=draws,
                surrogates=surrogates,
                progress=_bar(bars, name),
                about={"dataset": dataset, "nets": names},
            )
    _report(evaluations, f"{dataset}, preset {preset}", out)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Folder that `evaluate` wrote.")],
) -> None:
    """Print the table of an earlier evaluation, and write its tables and figure again."""
    from art_advtransform.records import Evaluation

    paths = sorted(folder.glob("*/evaluation.json"), reverse=True)
    if not paths:
        raise FileNotFoundError(f"no records: looked for */evaluation.json in {folder}")
    _report({path.parent.name: Evaluation.load(path) for path in paths}, str(folder), folder)


@app.command()
def show(
    dataset: Dataset = "digits",
    f_b: FB = None,
    images: Annotated[int, typer.Option(help="Test images that the distances are taken over.", min=1)] = 100,
    draws: Annotated[int, typer.Option(help="Draws that E[g(x)] is taken over.", min=1)] = 64,
    rows: Annotated[int, typer.Option(help="Images in the figure.", min=1)] = 5,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="The figure; default: runs/show-<dataset>.png.")] = None,
    data_root: DataRoot = None,
    download: Download = False,
    device: Device = None,
) -> None:
    """Show x, g(x), E[g(x)] and the normalised difference; print the distance of E[g(x)] to x."""
    from art_advtransform.datasets import load_dataset
    from art_advtransform.expectation import distance, draws_of_g, expected_g
    from art_advtransform.figures import check_picture, transform_figure
    from art_advtransform.layer import LLPGDTransform
    from art_advtransform.pretrained import load_network

    out = check_picture(Path(f"runs/show-{dataset}.png") if out is None else out)
    place = _device(device)
    transform = LLPGDTransform(load_network(f_b or f"{dataset}/f_b-adversarial", place))
    x = load_dataset(dataset, "test", data_root, download=download).sample(images).x.to(place)
    with _bars("interrupted: nothing is kept") as bars:
        bar = bars.add_task("draws of g(x)", total=draws)
        expected = expected_g(transform, x, draws, seed, lambda done, _: bars.update(bar, completed=done))
    d = distance(expected, x, draws)
    console.print(
        f"distance of E[g(x)] to x over {d.nb_images} images, {d.nb_draws} draws, seed {seed}: "
        f"mean {d.mean:.4f}, RMS {d.rms:.4f}, maximum {d.max:.4f}",
        markup=False,
        soft_wrap=True,
    )
    rows = min(rows, images)
    path = transform_figure(x[:rows], draws_of_g(transform, x[:rows], 3, seed), expected[:rows], out)
    console.print(f"figure: {path}", soft_wrap=True)


def _device(name: str | None) -> torch.device:
    import torch

    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def _exists(net: str) -> bool:
    from art_advtransform.pretrained import read_card

    try:
        read_card(net)
    except FileNotFoundError:
        return False
    return True


@contextmanager
def _bars(interrupted: str = "interrupted: the same command goes on where it was") -> Iterator[Progress]:
    """Bars with elapsed and remaining time; an interrupt says how to go on."""
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn())
    try:
        with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bars:
            yield bars
    except KeyboardInterrupt:
        console.print(interrupted)
        raise


def _bar(bars: Progress, name: str) -> Callable[[str, int, int], None]:
    """A bar of ``name`` as the callback (what, done, total)."""
    bar = bars.add_task(name, total=None)
    return lambda what, done, total: bars.update(bar, completed=done, total=total, description=f"{name}: {what}")


def _report(evaluations: dict[str, Evaluation], title: str, out: Path) -> None:
    """Print the table, write tables and figure, and say where everything is."""
    from art_advtransform.figures import accuracy_figure
    from art_advtransform.report import problems, save_tables, terminal_table

    console.print(terminal_table(evaluations, title))
    for line in problems(evaluations):
        console.print(line, style="dim", highlight=False, markup=False)
    # paths are not broken where the output is narrow: they are copied, and read by other programs
    console.print("records:", *(str(e.path) for e in evaluations.values()), soft_wrap=True)
    console.print("tables:", *(str(path) for path in save_tables(evaluations, out)), soft_wrap=True)
    try:
        console.print("figure:", str(accuracy_figure(evaluations, out / "accuracy.png")), soft_wrap=True)
    except ModuleNotFoundError:
        console.print('figure: not drawn: needs matplotlib: pip install "art-advtransform[report]"')


def main() -> None:
    """The entry point: errors of the user are a line, not a traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    from safetensors import SafetensorError

    try:
        app()
    except (ValueError, TypeError, OSError, ModuleNotFoundError, FloatingPointError, SafetensorError) as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
