"""The presets: which attacks are in them, what each needs, and that every entry runs; see test_attacks for what attacks do."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from art_advtransform.attacks import base, presets
from art_advtransform.attacks.adaptive import average_start, momentum_pgd
from art_advtransform.attacks.art_attacks import (
    automatic_differentiation,
    black_box_transfer,
    bpda_identity,
    bpda_unrolled,
    finite_differences,
    reparameterized,
    small_n_transfer,
    white_box_transfer,
)
from art_advtransform.attacks.base import Attack, Kind, Target, from_function
from art_advtransform.attacks.foolbox_attacks import gen_attack, hop_skip_jump
from art_advtransform.attacks.presets import DRAWS, PRESETS, preset_attacks
from art_advtransform.attacks.released import released_bpda
from art_advtransform.attacks.torchattacks_attacks import auto_pgd
from art_advtransform.evaluation import evaluate
from art_advtransform.recipes import DIGITS_THREAT
from tests.models import defended, digits_target, undefended

RESULTS = Path(__file__).parent.parent / "RESULTS.md"
TOOLKITS = ("art", "foolbox", "torchattacks")

# every maker of the presets, at a small share of its cost
CHEAP: dict[str, Callable[..., Attack]] = {
    "white_box_transfer": lambda max_iter: white_box_transfer(max_iter // 5),
    "black_box_transfer": lambda max_iter, without=(): black_box_transfer(max_iter // 10, without),
    "bpda_identity": lambda max_iter, eot: bpda_identity(max_iter // 5, max(eot // 5, 1)),
    "auto_pgd": lambda max_iter, eot: auto_pgd(max_iter // 10, max(eot // 5, 1)),
    "momentum_pgd": lambda max_iter: momentum_pgd(max_iter // 20),
    "bpda_unrolled": lambda rule, name, max_iter, eot: bpda_unrolled(rule, name, max_iter // 5, eot),
    "hop_skip_jump": lambda *full: hop_skip_jump(1, 10, 20),
    "gen_attack": lambda *full: gen_attack(3, 4),
    "automatic_differentiation": lambda max_iter: automatic_differentiation(max_iter // 10),
    "small_n_transfer": lambda rule, nb_steps, *full: small_n_transfer(rule, nb_steps, 2, 1),
    "finite_differences": lambda *full: finite_differences(2, 4),
    "reparameterized": lambda *full: reparameterized(2, 2),
    "average_start": lambda *full: average_start(4, 3),
    "released_bpda": released_bpda,
}
LENGTHS = {"smoke": 2, "quick": 6, "paper": 13, "strong": 41}
ENTRIES = [(preset, index) for preset, length in LENGTHS.items() for index in range(length)]

every_entry = pytest.mark.parametrize(("preset", "index"), ENTRIES)


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """The presets as they are, made by cheaper makers."""
    for name, make in CHEAP.items():
        assert hasattr(presets, name)
        monkeypatch.setattr(presets, name, make)


def entries(preset: str) -> list[Attack]:
    """The preset, "strong" at the smallest budget: made by `cheap` or scaled, nothing takes long."""
    return preset_attacks(preset, 1e-3 if preset == "strong" else 1.0)


def known_target(n: int = 2) -> Target:
    """The defended digits net, and surrogates of all names that entries ask for."""
    target = digits_target(defended(), n)
    (net,) = target.surrogates.values()
    return replace(target, surrogates=dict.fromkeys(("surrogate", "undefended", "adversarial"), net))


def block(monkeypatch: pytest.MonkeyPatch, toolkit: str) -> None:
    """Imports of ``toolkit`` fail as if it were not installed."""
    for name in [toolkit, *(name for name in sys.modules if name.startswith(f"{toolkit}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(base, "find_spec", lambda name: None if name == toolkit else find_spec(name))


# ---- what is in them


def test_presets_are_those_tested_here() -> None:
    assert {preset: len(preset_attacks(preset)) for preset in PRESETS} == LENGTHS


@pytest.mark.parametrize("preset", PRESETS)
def test_entries_can_be_told_apart(preset: str) -> None:
    attacks = preset_attacks(preset)
    slugs = {re.sub(r"[^a-z0-9]+", "-", attack.name.lower()) for attack in attacks}  # names of files, too
    assert len(slugs) == len(attacks)
    assert slugs.isdisjoint({"no-attack", "per-image-worst-case"})  # rows of every table
    assert all(attack.kind in get_args(Kind) for attack in attacks)
    assert all("|" not in attack.name and attack.name == attack.name.strip() for attack in attacks)


def test_names_carry_the_settings(cheap: None) -> None:
    # so that a record of cheaper attacks can't be taken for one of the preset
    for preset in PRESETS:
        few, full = entries(preset), PRESETS[preset]
        assert len(few) == len(full())
    assert preset_attacks("smoke")[1].name == "BPDA-I: PGD-2, EOT 1"
    assert preset_attacks("quick")[0].name == "white-box transfer: PGD-8 on f_a"
    for names in _tables_of_results():
        assert {a.name for a in preset_attacks("quick")}.isdisjoint(names)


def _tables_of_results() -> list[list[str]]:
    """Names of the attacks in each of its tables of accuracies with intervals, which end with the worst case."""
    tables: list[list[str]] = [[]]
    for line in RESULTS.read_text().splitlines():
        if not re.match(r"\| .* \| .*\d ?\]", line):
            continue
        name = line.split("|")[1].strip()
        if name == "**per-image worst case**":
            tables.append([])
        elif name != "no attack":
            tables[-1].append(name)
    assert not tables.pop(), "a table without its worst case"
    return tables


def test_quick_is_the_table_of_results() -> None:
    assert _tables_of_results()
    for names in _tables_of_results():
        assert names == [attack.name for attack in preset_attacks("quick")]


def test_every_preset_says_by_how_many_draws_it_is_counted() -> None:
    assert set(DRAWS) == set(PRESETS)
    assert all(draws.nb_attack_draws <= draws.nb_draws for draws in DRAWS.values())


def test_every_kind_of_attacker_is_in_quick() -> None:
    attacks = preset_attacks("quick")
    assert {attack.kind for attack in attacks} == {"white box", "transfer", "black box"}
    assert {attack.toolkit for attack in attacks} == {*TOOLKITS, "art_advtransform"}


@pytest.mark.parametrize("preset", ["", "Quick", "full"])
def test_an_unknown_preset_lists_the_known_ones(preset: str) -> None:
    with pytest.raises(ValueError, match=f"^unknown preset '{preset}'; known: {', '.join(PRESETS)}$"):
        preset_attacks(preset)


# ---- what they need


@every_entry
def test_an_entry_runs_or_says_what_it_needs(preset: str, index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    attack = preset_attacks(preset)[index]
    target = known_target()
    assert attack.missing(target) is None
    if attack.toolkit in TOOLKITS:
        block(monkeypatch, attack.toolkit)
        wanted = f'needs {attack.toolkit}: pip install "art-advtransform[{attack.toolkit}]"'
        assert attack.missing(target) == wanted
    else:
        assert attack.toolkit == "art_advtransform"


@every_entry
def test_an_entry_needs_its_toolkit_and_no_other(
    preset: str, index: int, cheap: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack = entries(preset)[index]
    for toolkit in TOOLKITS:
        if toolkit != attack.toolkit:
            block(monkeypatch, toolkit)
    assert attack.run(known_target()).shape == (2, 1, 8, 8)
    if attack.toolkit in TOOLKITS:
        block(monkeypatch, attack.toolkit)
        with pytest.raises(ImportError):
            attack.run(known_target())


def test_without_a_toolkit_the_others_still_count(cheap: None, monkeypatch: pytest.MonkeyPatch) -> None:
    block(monkeypatch, "art")
    target = digits_target(defended(), 4)
    result = evaluate(
        target.defended, target.x, target.y, "quick", target.threat,
        nb_draws=2, nb_selection_draws=2, surrogates=target.surrogates,
    )  # fmt: skip
    for attack, found in zip(preset_attacks("quick"), result.attacks, strict=True):
        assert found.name == attack.name
        needs_art = attack.toolkit == "art"
        assert found.problem == ('not run: needs art: pip install "art-advtransform[art]"' if needs_art else "")
        assert (found.mean is None) == needs_art


def test_what_an_undefended_net_and_no_surrogate_leave_out() -> None:
    bare = digits_target(undefended(), 2, surrogate=False)
    reasons = {attack.name: attack.missing(bare) for attack in preset_attacks("quick")}
    left_out = {name: reason for name, reason in reasons.items() if reason is not None}
    assert left_out == {
        "black-box transfer: PGD-40 on a surrogate": "needs a surrogate net",
        "unrolled BPDA, tanh: PGD-10, EOT 1": "there is no transform to see through",
    }
    assert all(attack.missing(bare) is None for attack in preset_attacks("smoke"))


# ---- they run


@every_entry
def test_an_entry_changes_images_within_the_budget(preset: str, index: int, cheap: None) -> None:
    target = known_target(4)
    clean = target.x.clone()
    attack = entries(preset)[index]
    attacked = target.project(attack.run(target).detach())
    assert torch.equal(target.x, clean)
    assert attacked.shape == clean.shape
    assert attacked.dtype == clean.dtype
    assert bool(torch.isfinite(attacked).all())
    changed = (attacked - clean).abs().flatten(1).amax(1)
    assert float(changed.max()) <= DIGITS_THREAT.eps + 1e-6
    # even images that the net attacked gets wrong as they are, as f_a without g does most of them
    assert int((changed > 0.01).sum()) >= 3
    assert float(attacked.min()) >= 0
    assert float(attacked.max()) <= 1


def test_smoke_at_its_full_cost_hurts_the_defended_net() -> None:
    target = digits_target(defended(), 12)
    with torch.no_grad():
        clean = (target.view()(target.x).argmax(1) == target.y).float().mean()
        for attack, most in zip(preset_attacks("smoke"), (0.8, 0.4), strict=True):
            with torch.enable_grad():
                attacked = target.project(attack.run(target))
            accuracy = float((target.view()(attacked).argmax(1) == target.y).float().mean())
            assert accuracy <= most * clean


# ---- attacks of one's own


def test_a_plain_function_is_an_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    target = digits_target(undefended(), 4)
    attacked: list[Tensor] = []

    def recorded(x: Tensor, y: Tensor) -> Tensor:
        attacked.append(x + 10.0)
        return attacked[-1]

    monkeypatch.setitem(PRESETS, "mine", lambda: [from_function("brighter", recorded, "black box"), *presets._smoke()])
    assert preset_attacks("mine")[0].missing(target) is None
    with pytest.raises(ValueError, match=f"known: {', '.join(LENGTHS)}, mine"):
        preset_attacks("yours")
    result = evaluate(target.defended, target.x, target.y, "mine", target.threat, nb_draws=2, nb_selection_draws=2)
    assert [found.name for found in result.attacks] == ["brighter", *(a.name for a in preset_attacks("smoke"))]
    mine = result.attacks[0]
    assert (mine.kind, mine.toolkit, mine.problem) == ("black box", "art_advtransform", "")
    assert len(attacked) == 1
    # what counts is what the budget leaves of it
    assert mine.max_distance == pytest.approx(target.threat.eps)
    expected = (target.x + target.threat.eps).clamp(0, 1)
    torch.testing.assert_close(target.project(attacked[0]), expected)
    with torch.no_grad():
        right = (target.defended(expected).argmax(1) == target.y).float().tolist()
    assert mine.per_image == right


def test_an_attack_that_fails_is_reported(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def broken(x: Tensor, y: Tensor) -> Any:
        raise RuntimeError("no gradient")

    monkeypatch.setitem(PRESETS, "mine", lambda: [from_function("broken", broken), *presets._smoke()])
    target = digits_target(undefended(), 4)
    result = evaluate(target.defended, target.x, target.y, "mine", target.threat, nb_draws=2, nb_selection_draws=2)
    assert [bool(found.problem) for found in result.attacks] == [True, False, False]
    assert result.attacks[0].problem == "failed on 1 of 1 chunks of images: RuntimeError: no gradient"
    assert "broken failed" in caplog.text
    assert "broken" not in result.chosen
