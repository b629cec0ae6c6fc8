"""Evaluate: attacks that fail or cheat, and models that are left as they were."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from art_advtransform import judging, store
from art_advtransform.attacks.base import Attack, Target, View
from art_advtransform.attacks.presets import PRESETS
from art_advtransform.config import ThreatModel
from art_advtransform.defended import DefendedModel
from art_advtransform.evaluation import evaluate
from art_advtransform.records import Evaluation
from tests.evaluations import THREAT, Coin, Run, X, Y, darker, drifting, mean, run, set_preset, step, timeless
from tests.models import defended, digits_target, fake_attack, global_state, same_weights
from tests.problems import linear_net

# ---- attacks that fail


def broken_at(first: int) -> Run:
    """Fails on the chunk that begins with image ``first``."""

    def attack(target: Target) -> Tensor:
        if torch.equal(target.x[0], X[first]):
            raise RuntimeError("no gradient")
        return darker(target)

    return attack


@pytest.mark.parametrize("first", [0, 4, 8])
def test_an_attack_that_fails_is_reported_and_the_others_count(
    first: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_preset(monkeypatch, a=step, b=darker)
    whole = run()
    set_preset(monkeypatch, a=step, b=broken_at(first))
    result = run(out=tmp_path)
    failed = result.attacks[1]
    assert failed.problem == "failed on 1 of 3 chunks of images: RuntimeError: no gradient"
    assert (failed.mean, failed.majority, failed.any, failed.per_image) == (None, None, None, [])
    assert timeless(result).attacks[0] == timeless(whole).attacks[0]
    # what it found on other images still counts, as it would alone
    there = slice(first, first + 4)
    without = run_without_b(monkeypatch)
    assert set(result.chosen[there]) <= {"no attack", "a"}
    for i, share in enumerate(result.worst.per_image):
        assert share == (without if i in range(10)[there] else whole).worst.per_image[i]
    assert result.missing == ["b"]
    # it is tried again
    set_preset(monkeypatch, a=step, b=darker)
    assert timeless(run(out=tmp_path)) == timeless(whole)


def run_without_b(monkeypatch: pytest.MonkeyPatch) -> Evaluation:
    set_preset(monkeypatch, a=step)
    return run()


@pytest.mark.parametrize("wrong", [None, X[:3], "images"])
def test_what_is_not_an_image_for_each_image_is_a_failure(wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    set_preset(monkeypatch, wrong=lambda target: wrong, b=darker)
    result = run(chunk_size=10)
    assert [a.problem.split(" ")[0] for a in result.attacks] == ["failed", ""]
    assert "wrong" not in result.chosen


def test_what_fails_outside_the_attack_is_no_weak_attack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def disk_full(*arguments: Any, **options: Any) -> None:
        raise OSError("disk full")

    set_preset(monkeypatch, a=step)
    for module, name in ((store, "save_file"), (judging, "predictions")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, disk_full)
            with pytest.raises(OSError, match="disk full"):
                run(out=tmp_path)
    assert not (tmp_path / "evaluation.json").exists()


def test_what_is_not_run_has_its_reason(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def never(target: Target, model: DefendedModel) -> Tensor:
        raise AssertionError("it was run")

    attacks = [
        Attack("surrogate", never, "transfer", View("surrogates")),
        Attack("unrolled", never, "white box", View(gradient="tanh")),
        Attack("h", never, "white box", View(gradient="reparameterized")),
        Attack("toolkit", never, "black box", toolkit="no_such_toolkit"),
        fake_attack("plain", darker),
    ]
    monkeypatch.setitem(PRESETS, "mine", lambda: attacks)
    totals: set[int] = set()
    told: list[str] = []

    def progress(name: str, done: int, total: int) -> None:
        totals.add(total)
        told.append(caplog.text)

    result = run(DefendedModel(Coin(), None), progress=progress)
    assert totals == {30}  # that of what is run, and of the worst case
    # before any is run, what the worst case will lack: not what there is nothing to do for
    assert "surrogate will not be run: needs a surrogate net; the worst case will lack it" in told[0]
    assert "toolkit will not be run: needs no_such_toolkit" in told[0]
    assert "there is no transform" not in caplog.text
    assert caplog.text.count("will not be run") == 2
    assert [a.problem for a in result.attacks] == [
        "not run: needs a surrogate net",
        "not run: there is no transform to see through",
        "not run: there is no transform to see through",
        'not run: needs no_such_toolkit: pip install "art-advtransform[no_such_toolkit]"',
        "",
    ]
    assert [a.mean is None for a in result.attacks] == [True, True, True, True, False]
    assert (result.attacks[0].kind, result.attacks[3].toolkit) == ("transfer", "no_such_toolkit")


# ---- attacks that cheat

FAR: dict[str, tuple[float, Tensor]] = {
    "up": (5.0, (X + 0.1).clamp(0, 1)),
    "down": (-5.0, (X - 0.1).clamp(0, 1)),
    "infinity": (float("inf"), (X + 0.1).clamp(0, 1)),
    "minus infinity": (float("-inf"), (X - 0.1).clamp(0, 1)),
    "NaN": (float("nan"), X),
}


@pytest.mark.parametrize("name", FAR)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_outside_is_projected(
    name: str, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value, expected = FAR[name]
    set_preset(monkeypatch, far=lambda target: torch.full_like(target.x, value, dtype=dtype))
    result = run(DefendedModel(Coin(), None), out=tmp_path)
    parts = [load_file(tmp_path / "chunks" / f"far-{first:05d}.safetensors") for first in (0, 4, 8)]
    attacked = torch.cat([part["attacked"] for part in parts])
    torch.testing.assert_close(attacked, expected)
    # and that is what is counted
    with torch.no_grad():
        assert result.attacks[0].per_image == (Coin()(attacked).argmax(1) == Y).double().tolist()
    assert result.attacks[0].max_distance == pytest.approx(float((expected - X).abs().max()), abs=1e-6)


def test_outside_the_ball_nothing_is_won(monkeypatch: pytest.MonkeyPatch) -> None:
    # a change of 0.2 in every pixel would turn all classes over, one of 0.1 none
    x, y = torch.full((4, 1, 2, 2), 0.65), torch.zeros(4, dtype=torch.int64)
    net = linear_net(torch.tensor([[1.0] * 4, [0.0] * 4]), torch.tensor([-2.0, 0.0]))
    set_preset(monkeypatch, far=lambda target: target.x - 0.2)
    assert mean(run(DefendedModel(net, None), x, y).worst) == 1
    assert mean(run(DefendedModel(net, None), x, y, threat=ThreatModel(eps=0.2)).worst) == 0
    # nor outside the valid range
    assert mean(run(DefendedModel(net, None), x, y, threat=ThreatModel(0.2, clip_values=(0.6, 1.0))).worst) == 1


# ---- models are left as they were


class Noisy(nn.Module):
    """Coins whose batch statistics and dropout show when they are in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.dropout, self.coin = nn.BatchNorm2d(1), nn.Dropout(0.5), Coin()
        with torch.no_grad():
            self.norm.weight.fill_(0.7)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.coin(self.dropout(self.norm(x)))
        return logits


def test_an_attack_that_leaves_train_mode_on_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(target: Target) -> Tensor:
        target.defended.train()
        return darker(target)

    def wary(target: Target) -> Tensor:
        assert not any(m.training for m in (target.defended, *target.defended.classifier.modules()))
        return step(target)

    set_preset(monkeypatch, a=darker, b=wary)
    expected, net = timeless(run(drifting(Noisy()))), Noisy()
    set_preset(monkeypatch, a=careless, b=wary)
    model = drifting(net.eval())
    before = states(model)
    found = timeless(run(model))
    assert replace(found, settings=expected.settings) == expected
    assert [a.problem for a in expected.attacks] == ["", ""]
    assert same_weights(net, Noisy())
    assert states(model) == before


def stop(target: Target) -> Tensor:
    target.defended.eval()
    raise KeyboardInterrupt


def states(*nets: nn.Module) -> list[Any]:
    """Modes, and flags and gradients of parameters."""
    modes = [module.training for net in nets for module in net.modules()]
    flags = [(p.requires_grad, None if p.grad is None else p.grad.tolist()) for net in nets for p in net.parameters()]
    return [modes, flags]


@pytest.mark.parametrize("ending", ["well", "killed", "refused"])
def test_modes_flags_gradients_and_global_state(ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target = digits_target(defended(), 3)
    surrogate = target.surrogates["surrogate"]
    nets = (target.defended, surrogate)
    for net in (target.defended.classifier, surrogate):
        net.train()
        next(m for m in net.modules() if isinstance(m, nn.BatchNorm2d)).eval()  # modes are mixed
        next(net.parameters()).requires_grad_(False)
    weights = {k: v.clone() for net in nets for k, v in net.state_dict().items()}
    before, state, python = states(*nets), global_state(), random.getstate()
    assert len(set(before[0])) == 2
    options: dict[str, Any] = {"threat": target.threat, "surrogates": target.surrogates, "nb_draws": 2}
    if ending == "well":
        monkeypatch.setitem(PRESETS, "mine", cheap_attacks)
        result = run(target.defended, target.x, target.y, **options)
        assert [a.problem for a in result.attacks] == [""] * 3
    elif ending == "killed":
        set_preset(monkeypatch, stop=stop)
        with pytest.raises(KeyboardInterrupt):
            run(target.defended, target.x, target.y, **options)
    else:
        with pytest.raises(ValueError, match="expected labels in"):
            run(target.defended, target.x, target.y + 10, preset="smoke", **options)
    assert states(*nets) == before
    assert all(p.grad is None for net in nets for p in net.parameters())
    assert global_state() == state
    assert random.getstate() == python
    assert all(torch.equal(v, weights[k]) for net in nets for k, v in net.state_dict().items())


def cheap_attacks() -> list[Attack]:
    from art_advtransform.attacks.adaptive import momentum_pgd
    from art_advtransform.attacks.art_attacks import black_box_transfer, bpda_identity

    return [bpda_identity(2, 2), black_box_transfer(2), momentum_pgd(2)]


# ---- progress


def test_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int, int]] = []
    set_preset(monkeypatch, a=step, b=broken_at(4))
    evaluate(
        drifting(Coin()), X, Y, "mine", THREAT, nb_draws=1, nb_selection_draws=1, chunk_size=4,
        progress=lambda *news: seen.append(news),
    )  # fmt: skip
    assert seen == [
        *(("no attack", done, 40) for done in (0, 4, 8, 10)),
        *(("a", 10 + done, 40) for done in (0, 4, 8, 10)),
        *(("b", 20 + done, 40) for done in (0, 4, 8, 10)),
        *(("per-image worst case", 30 + done, 40) for done in (0, 4, 8, 10)),
    ]
