"""L8: what the commands print: progress bars, tables, where the results are."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from art_advtransform.attacks.base import Attack
from art_advtransform.diagnosis import attack_told
from art_advtransform.diagnostics import CHECKS, Verdict
from art_advtransform.page import save_report
from art_advtransform.records import Evaluation
from art_advtransform.report import numbers, problems, terminal_table
from art_advtransform.shards import Shards

console = Console()

# What an interrupted command says.
AGAIN = "interrupted: the same command goes on where it was"
AGAIN_WITHOUT = "interrupted: the same command without --restart goes on where it was"

# Seconds that the remaining time is estimated from: an epoch may take minutes.
_ESTIMATED_FROM = 1800.0
# Seconds between two lines where bars can't be drawn, as in a log file.
_BETWEEN_LINES = 30.0


@contextmanager
def bars(interrupted: str = AGAIN, *, aside: bool = False) -> Iterator[Progress]:
    """Bars with elapsed and remaining time, ``aside`` on stderr; an interrupt says how to go on."""
    shown_on = Console(stderr=True) if aside else console
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn())
    try:
        with Progress(
            *(*columns, TimeElapsedColumn(), TimeRemainingColumn()),
            console=shown_on,
            speed_estimate_period=_ESTIMATED_FROM,
            disable=not Shards().is_main,
        ) as shown:
            yield shown
    except KeyboardInterrupt:
        shown_on.print(interrupted)
        raise


def bar(shown: Progress, name: str) -> Callable[[str, int, int], None]:
    """A bar of ``name`` as the callback (what, done, total); a line now and then where there is no terminal.

    What has another total has a bar of its own, so that an estimate is not one of epochs by the pace of images.
    """
    tasks = [shown.add_task(name, total=None)]
    written = shown.get_time()

    def of(total: int) -> TaskID:
        for task in tasks:
            if shown.tasks[task].total in (None, total):
                return task
        tasks.append(shown.add_task(name, total=total))
        return tasks[-1]

    def update(what: str, done: int, total: int) -> None:
        nonlocal written
        task = of(total)
        if done < shown.tasks[task].completed:
            shown.reset(task, total=total)  # begun again: the pace is not that of before
        shown.update(task, completed=done, total=total, description=f"{name}: {what}")
        if shown.console.is_terminal or shown.disable or shown.get_time() - written < _BETWEEN_LINES:
            return
        written = shown.get_time()
        shown.console.print(_line(shown.tasks[task]), soft_wrap=True, highlight=False, markup=False)

    return update


def _line(task: Task) -> str:
    """What the bar would show."""
    left = "" if task.time_remaining is None else f", {timedelta(seconds=round(task.time_remaining))} left"
    elapsed = timedelta(seconds=round(task.elapsed or 0))
    return f"{task.description} {task.completed:g}/{task.total:g}, {elapsed} elapsed{left}"


def command_line() -> str:
    """The command as it was typed, for the record."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def show_attacks(attacks: Sequence[Attack], preset: str, *, as_json: bool) -> None:
    """Print the entries of a preset: what they see of the model, and what they cost."""
    rows = [_entry(attack) for attack in attacks]
    if as_json:
        console.file.write(json.dumps({"preset": preset, "attacks": rows}, indent=1) + "\n")
        return
    table = Table(title=escape(f"preset {preset}"), caption_justify="left")
    for column in rows[0] if rows else ():
        number = column in ("EOT", "evaluations an image")
        table.add_column(column, overflow="fold", justify="right" if number else "left")
    for row in rows:
        table.add_row(*("-" if value is None else escape(str(value)) for value in row.values()))
    console.print(table)


def _entry(attack: Attack) -> dict[str, str | int | None]:
    """A row of the list; ``None`` where something does not apply."""
    view = attack.view
    rule = view.gradient if isinstance(view.gradient, str) else type(view.gradient).__name__.lower()
    defended = view.model == "defended"
    return {
        "attack": attack.name,
        "kind": attack.kind,
        "toolkit: class": f"{attack.toolkit}: {attack.method}" if attack.method else attack.toolkit,
        "sees": "f_a(g(x))" if defended else view.model,
        "rule": rule if defended and attack.kind == "white box" else None,
        "EOT": view.eot_samples if defended else None,
        "D": ("frozen" if view.frozen else "fresh") if defended else None,
        "evaluations an image": attack.cost,
    }


def show_evaluations(evaluations: Mapping[str, Evaluation], out: Path, *, as_json: bool) -> None:
    """Print the table, or the numbers as JSON; write page, tables and figures, and say where everything is."""
    if not Shards().is_main:
        return
    settings = next(iter(evaluations.values())).settings
    title = f"{settings.get('dataset', out.name)}, preset {settings['preset']}"
    written = save_report(evaluations, title, out)
    if as_json:
        content = {"title": title, "folder": str(out), "results": numbers(evaluations)}
        console.file.write(json.dumps(content, indent=1) + "\n")
        return
    console.print(terminal_table(evaluations, title, console.width))
    for line in problems(evaluations):
        console.print(line, style="dim", highlight=False, markup=False)
    # paths are not broken where the output is narrow: they are copied, and read by other programs
    console.print("records:", *(str(e.path) for e in evaluations.values()), soft_wrap=True)
    for what, paths in written.items():
        console.print(f"{what}:", *(str(path) for path in paths), soft_wrap=True)


def show_verdicts(verdicts: Mapping[int, Verdict], settings: Mapping[str, Any], path: Path, *, as_json: bool) -> None:
    """Print the verdicts, or as JSON with the settings, and where the record is."""
    if not Shards().is_main:
        return
    if as_json:
        named = {str(n): {"name": CHECKS[n][0], **asdict(found)} for n, found in verdicts.items()}
        console.file.write(json.dumps({"settings": settings, "verdicts": named}, indent=1) + "\n")
        return
    draws = f"{settings['nb_draws']} draws, seed {settings['seed']}"
    told = f"{settings['nb_images']} images, L-inf budget {settings['eps']:.4g}, {draws}"
    pgd = attack_told(settings)
    of = (
        f"checks 2, 13, 14, 15 and 18 of {settings['found_by']}, the others of {pgd}"
        if settings["found"]
        else f"of {pgd}"
    )
    table = Table(title=escape(f"{told}; {of}"))
    table.add_column("check", overflow="fold")
    table.add_column("verdict", overflow="fold")
    table.add_column("what was seen", overflow="fold")
    styles = {"pass": "green", "fail": "bold red", "not applicable": "dim"}
    for number, found in sorted(verdicts.items()):
        style = styles[found.status]
        table.add_row(
            f"{number}. {escape(CHECKS[number][0])}", f"[{style}]{found.status}[/{style}]", escape(found.reason)
        )
    console.print(table)
    console.print(f"record: {path}", soft_wrap=True)
