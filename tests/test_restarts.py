"""Restarts of what a record left: from starts of their own, link by link, beside what the record found."""

from __future__ import annotations

import csv
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from art_advtransform.attacks.base import Attack, Target, from_function
from art_advtransform.attacks.expectation import expectation_pgd
from art_advtransform.attacks.strong import strong
from art_advtransform.datasets import load_dataset
from art_advtransform.defended import DefendedModel
from art_advtransform.evaluate_nets import DEFENDED, Nets, evaluate_nets
from art_advtransform.recipes import DIGITS_THREAT
from benchmarks import harness, kept_images, restarts
from benchmarks.restarts import chain, found_before, restart
from tests.models import defended, digits_target


def link(name: str, seen: list[tuple[str, Tensor, int]]) -> Attack:
    """Notes where it begins, and goes 0.01 up from there."""

    def generate(target: Target, model: DefendedModel) -> Tensor:
        seen.append((name, target.start(), target.seed))
        return target.start() + 0.01

    return Attack(name, generate, continues=True)


def test_a_restart_begins_at_random_and_every_link_where_the_one_before_ended() -> None:
    target = digits_target(defended(), 3)
    target.best, target.alive = target.x.clone(), torch.ones(3)
    seen: list[tuple[str, Tensor, int]] = []
    ends = [restart([link("a", seen), link("b", seen)], number).run(target) for number in (1, 2)]
    assert [name for name, _, _ in seen] == ["a", "b", "a", "b"]
    (_, first, seed), (_, second, same), (_, other, another), _ = seen
    assert seed == same != another
    assert not torch.allclose(first, other)
    for start in (first, other):
        assert not torch.allclose(start, target.best)
        assert float((start - target.x).abs().max()) <= target.threat.eps + 1e-6
    torch.testing.assert_close(second, target.project(first + 0.01))
    torch.testing.assert_close(ends[0], target.project(target.project(first + 0.01) + 0.01))


def test_it_costs_what_its_links_cost_and_brings_a_net_down() -> None:
    preset = {attack.identity() for attack in strong(0.1)}
    assert all(link.identity() in preset for link in chain())  # what it says of itself
    attack = restart(chain(), 1)
    target = digits_target(defended(), 10)
    attacked = target.project(attack.run(target))
    assert 0 < target.queries.forward <= 10 * attack.cost
    with torch.no_grad():
        right = target.defended(attacked.repeat_interleave(8, 0)).argmax(1) == target.y.repeat_interleave(8)
    assert float(right.float().mean()) <= 0.25


def test_what_was_found_is_looked_up_by_number_in_any_order() -> None:
    x = load_dataset("digits", "test").sample(4).x
    kept = {"numbers": torch.tensor([9, 5, 7, 6]), "images": torch.stack([x[3], x[0], x[2], x[1]]) + 0.05}
    attack = found_before(x, [5, 6, 7, 9], kept)
    target = replace(digits_target(defended(), 4), x=x[[2, 0]], y=torch.tensor([0, 1]))
    torch.testing.assert_close(attack.run(target), x[[2, 0]] + 0.05)
    with pytest.raises(ValueError, match="expected all images that are left, 1 are not kept: number 8 first"):
        found_before(x, [5, 6, 7, 8], kept)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    darker = from_function("darker", lambda x, y: x - 0.125)
    evaluate_nets(
        Nets.load("digits"),
        load_dataset("digits", "test").sample(6, 4),
        DIGITS_THREAT,
        tmp_path,
        models=[DEFENDED],
        preset=[darker],
        about={"dataset": "digits", "skip": 4},
        nb_draws=5,
        nb_selection_draws=5,
    )
    run = tmp_path / DEFENDED
    monkeypatch.setattr(sys, "argv", ["kept_images", "--run", str(run)])
    kept_images.main()
    options = ["--dataset", "digits", "--record", str(run), "--restarts", "2", "--draws", "5", "--chunk-size", "3"]
    monkeypatch.setattr(sys, "argv", ["restarts", *options])
    monkeypatch.setattr(restarts, "chain", lambda: [expectation_pgd(20, 1)])
    restarts.main()
    with next(tmp_path.glob("restarts-digits-*.csv")).open(newline="") as file:
        rows = {row["what"]: row for row in csv.DictReader(file)}
    left = {what: float(row["accuracy"]) for what, row in rows.items()}
    names = ["what the record found", "restart 1", "restart 2"]
    assert [what for what in rows if what in names] == names
    assert left["after the restarts"] < left["what the record found"]
    assert left["all images, after the restarts"] < left["the record, all images"]
    for refused in (["--images", "3"], ["--restarts", "0"]):
        monkeypatch.setattr(sys, "argv", ["restarts", *options, *refused])
        with pytest.raises(SystemExit):
            restarts.main()
