"""L8: art-advtransform train | evaluate | diagnose | report | show."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from art_advtransform.options import (
    FB,
    HELP,
    DataRoot,
    Dataset,
    Device,
    Download,
    Eps,
    NetsFolder,
    Pool,
    Seed,
    Skip,
    counted_by,
    device_of,
    threat_of,
)

app = typer.Typer(
    help=HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # brackets are mathematics here
)


@app.command()
def train(
    dataset: Dataset = "digits",
    preset: Annotated[
        str, typer.Option(help="cpu (two cores, the bundled nets), paper (its own, for a GPU) or smoke.")
    ] = "cpu",
    net: Annotated[list[str] | None, typer.Option(help="Only this net (may be repeated); default: all.")] = None,
    redraw_every: Annotated[
        int | None,
        typer.Option(help="Epochs that share a draw of g(x); 0: fresh for every batch; default: the recipe's.", min=0),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--restart", help="Go on after the last checkpoint, or anew.")
    ] = True,
    test_images: Annotated[
        int | None, typer.Option(help="Test images that the cards' accuracies are measured on; default: all.", min=1)
    ] = None,
    mixed_precision: Annotated[str, typer.Option(help="no, bf16 or fp16 (GPU).")] = "no",
    tensorboard: Annotated[Path | None, typer.Option(help="Folder for TensorBoard's logs.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the nets; default: runs/train-<dataset>.")] = None,
    data_root: DataRoot = None,
    download: Download = False,
) -> None:
    """Train f_b, f_a (defended and undefended), baselines and surrogates; goes on where it was interrupted.

    In several processes: torchrun --nproc-per-node 2 -m art_advtransform train ...
    """
    from art_advtransform.datasets import load_dataset
    from art_advtransform.pretrained import read_card
    from art_advtransform.recipes import SMOKE_IMAGES
    from art_advtransform.shards import Shards
    from art_advtransform.terminal import AGAIN, AGAIN_WITHOUT, bar, bars, console
    from art_advtransform.train_nets import Options, planned_nets, train_nets

    out = Path(f"runs/train-{dataset}") if out is None else out
    options = Options(
        preset,
        redraw_every=redraw_every,
        resume=resume,
        replace=not resume,  # hours of training are not overwritten by a word less in the command
        mixed_precision=mixed_precision,  # type: ignore[arg-type]
        log_dir=tensorboard,
        test_images=test_images,
    )
    planned_nets(dataset, out, net, options)  # refuses what it can before anything is loaded
    images = [load_dataset(dataset, split, data_root, download=download) for split in ("train", "test")]
    if preset == "smoke":
        images = [split.sample(SMOKE_IMAGES) for split in images]
    with bars(AGAIN if resume else AGAIN_WITHOUT) as shown:
        options = replace(options, progress=partial(bar, shown))
        folders = train_nets(dataset, images[0], images[1], out, net, options)
    if not Shards().is_main:
        return
    for name, folder in folders.items():
        card = read_card(folder)
        attacked = f", under PGD-20 {100 * card['pgd20_accuracy']:.1f} %" if "pgd20_accuracy" in card else ""
        if "test_error" in card:
            found = f"distance to g {card['test_error']:.4f} (training images: {card['train_error']:.4f})"
        else:
            found = f"test accuracy {100 * card['test_accuracy']:.1f} %{attacked}, {card['test_images']} test images"
        if card["test_images"] != (test_images or len(images[1])):
            found += " (it was finished before: --restart would train and measure it anew)"
        console.print(f"{name}: {found}, {card['draws']} draws, {folder}", soft_wrap=True)


@app.command()
def evaluate(
    dataset: Dataset = "digits",
    preset: Annotated[str, typer.Option(help="Which attacks: smoke, quick, paper or strong; see --list.")] = "quick",
    images: Annotated[int, typer.Option(help="Test images.", min=1)] = 100,
    skip: Skip = 0,
    draws: Annotated[
        int | None, typer.Option(help="Draws of D that score the worst attacked images; default: the preset's.", min=1)
    ] = None,
    attack_draws: Annotated[
        int | None, typer.Option(help="Draws that score each attack; default: the preset's.", min=1)
    ] = None,
    selection_draws: Annotated[
        int | None, typer.Option(help="Others, that choose the worst attack; default: the preset's.", min=1)
    ] = None,
    budget: Annotated[float, typer.Option(help="Multiplies the steps of the preset strong.")] = 1.0,
    chunk_size: Annotated[
        int, typer.Option(help="Images attacked at a time, and lost where a run is killed; more are faster.", min=1)
    ] = 50,
    model: Annotated[
        list[str] | None,
        typer.Option(help="Only this (may be repeated): undefended, adversarial, 'f_a without g', defended, ..."),
    ] = None,
    eps: Eps = None,
    seed: Seed = 0,
    nets: NetsFolder = None,
    f_b: FB = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results; default: runs/evaluate-<dataset>.")] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Throw away what the folder holds, and begin anew.")
    ] = False,
    list_attacks: Annotated[bool, typer.Option("--list", help="Only show the attacks of the preset.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON instead of a table.")] = False,
    data_root: DataRoot = None,
    download: Download = False,
    device: Device = None,
) -> None:
    """Attack a defended net beside an undefended one; goes on where it was interrupted. Ends with 1 where an attack
    failed, or what it needs is not there.

    In several processes: torchrun --nproc-per-node 2 -m art_advtransform evaluate ...
    """
    from art_advtransform.attacks.presets import preset_attacks
    from art_advtransform.datasets import check_dataset, load_dataset
    from art_advtransform.evaluate_nets import Nets, evaluate_nets
    from art_advtransform.terminal import AGAIN, AGAIN_WITHOUT, bar, bars, command_line, show_attacks, show_evaluations

    # what is cheap to refuse comes before data sets that take a minute to decode
    check_dataset(dataset)
    attacks = preset_attacks(preset, budget)
    if list_attacks:
        show_attacks(attacks, preset, as_json=json_output)
        return
    threat, place = threat_of(dataset, eps), device_of(device)
    loaded = Nets.load(dataset if nets is None else str(nets), f_b, place)
    test = load_dataset(dataset, "test", data_root, download=download).sample(images, skip)
    out = Path(f"runs/evaluate-{dataset}") if out is None else out
    with bars(AGAIN_WITHOUT if restart else AGAIN, aside=json_output) as shown:
        evaluations = evaluate_nets(
            loaded,
            test,
            threat,
            out,
            preset=preset,
            models=model,
            progress=partial(bar, shown),
            about={"dataset": dataset, "skip": skip, "command": command_line()},
            device=place,
            seed=seed,
            **counted_by(preset, draws, attack_draws, selection_draws),
            budget=budget,
            chunk_size=chunk_size,
            restart=restart,
        )
    show_evaluations(evaluations, out, as_json=json_output)
    if any(e.missing for e in evaluations.values()):
        raise typer.Exit(1)


@app.command()
def diagnose(
    dataset: Dataset = "digits",
    images: Annotated[int, typer.Option(help="Test images.", min=1)] = 40,
    skip: Skip = 0,
    draws: Annotated[int, typer.Option(help="Draws of D that an accuracy is the mean of.", min=1)] = 20,
    attack: Annotated[
        str, typer.Option(help="What is checked: pgd, or margin, PGD on the mean margin with momentum as in `strong`.")
    ] = "pgd",
    max_iter: Annotated[int, typer.Option(help="Its steps.", min=1)] = 40,
    eot_samples: Annotated[int, typer.Option(help="Its draws a step.", min=1)] = 10,
    corners: Annotated[int, typer.Option(help="Random corners of the budget, over all images.", min=1)] = 10_000,
    queries: Annotated[int, typer.Option(help="Evaluations of the Square attack, on an image.", min=1)] = 1000,
    check: Annotated[list[int] | None, typer.Option(help="Only this check (may be repeated).")] = None,
    eps: Eps = None,
    seed: Seed = 0,
    nets: NetsFolder = None,
    f_b: FB = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder; default: that of `evaluate`, which is checked and gets the verdicts.")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the verdicts as JSON instead of a table.")] = False,
    data_root: DataRoot = None,
    download: Download = False,
    device: Device = None,
) -> None:
    """Nineteen checks of the defended net and of the attack on it; ends with 1 where one fails.

    A failed check says that a robust accuracy is not to be believed in this respect, or that the defence is odd. Where the folder
    holds an evaluation of these images, checks 2, 13, 14, 15 and 18 are of its worst attacked images; the others need an attack's
    path, or another budget or model, and are of --attack, along BPDA-I gradients. Verdicts are kept as they come: after an
    interrupt the same command does the rest.
    """
    from art_advtransform.datasets import check_dataset, load_dataset
    from art_advtransform.diagnosis import run_checks
    from art_advtransform.diagnostics import Case
    from art_advtransform.diagnostics.paths import path_attack
    from art_advtransform.evaluate_nets import DEFENDED, Nets, worst_images
    from art_advtransform.terminal import bar, bars, command_line, show_verdicts

    check_dataset(dataset)
    asked = path_attack(attack)
    threat, place = threat_of(dataset, eps), device_of(device)
    loaded = Nets.load(dataset if nets is None else str(nets), f_b, place)
    test = load_dataset(dataset, "test", data_root, download=download).sample(images, skip)
    out = Path(f"runs/evaluate-{dataset}") if out is None else out
    x, defended = test.x.to(place), loaded.models()[DEFENDED]
    about = {"dataset": dataset, "skip": skip, "nets": loaded.names, "command": command_line()}
    worst = worst_images(out, defended, x, threat)
    found: dict[str, Any] = {}
    if worst is not None:
        found = {"found": worst[0], "found_by": f"the {worst[1].named_worst}"}
        about["evaluation"] = worst[1].identity
    case = Case(
        defended,
        x,
        test.y.to(place),
        threat,
        seed,
        loaded.undefended,
        asked,
        max_iter,
        eot_samples,
        nb_draws=draws,
        nb_corners=corners,
        nb_queries=queries,
        **found,
    )
    with bars(aside=json_output) as shown:
        verdicts, settings, path = run_checks(case, about, out, check, bar(shown, "diagnose"))
    show_verdicts(verdicts, settings, path, as_json=json_output)
    if any(verdict.status == "fail" for verdict in verdicts.values()):
        raise typer.Exit(1)


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN", help="Folders that `evaluate` wrote.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the report; default: that of the run, runs/report of several.")
    ] = None,
    pool: Pool = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON instead of a table.")] = False,
) -> None:
    """Print the table of earlier evaluations, and write its page, tables and figures again.

    Several runs are put side by side where images, budget, draws, seed and preset are the same; with --pool, where all but the
    images is the same, they become one of all their images, whose records are written, too.
    """
    from art_advtransform.evaluate_nets import load_evaluations, pool_evaluations
    from art_advtransform.terminal import show_evaluations

    out = (folders[0] if len(folders) == 1 else Path("runs/report")) if out is None else out
    evaluations = pool_evaluations(*folders, out=out) if pool else load_evaluations(*folders)
    show_evaluations(evaluations, out, as_json=json_output)


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
    from art_advtransform.terminal import bars, console

    out = check_picture(Path(f"runs/show-{dataset}.png") if out is None else out)
    place = device_of(device)
    transform = LLPGDTransform(load_network(f_b or f"{dataset}/f_b-adversarial", place))
    x = load_dataset(dataset, "test", data_root, download=download).sample(images).x.to(place)
    with bars("interrupted: nothing is kept") as shown:
        task = shown.add_task("draws of g(x)", total=draws)
        expected = expected_g(transform, x, draws, seed, lambda done, _: shown.update(task, completed=done))
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


def main() -> None:
    """The entry point: errors of the user are a line, not a traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    from safetensors import SafetensorError

    try:
        app()
    except (ValueError, TypeError, OSError, ModuleNotFoundError, FloatingPointError, SafetensorError) as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
