"""L6: evaluate, which runs a preset of attacks on a model and counts honestly."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from art_advtransform.attacks.base import Attack
from art_advtransform.attacks.presets import preset_attacks
from art_advtransform.config import ThreatModel, check_count, check_positive
from art_advtransform.defended import DefendedModel
from art_advtransform.layer import check_images
from art_advtransform.plan import CLEAN, WORST, Plan
from art_advtransform.randomness import global_seed, usual_device
from art_advtransform.records import Evaluation, environment
from art_advtransform.runs import Progress, attack_code, run_all, worst_case
from art_advtransform.shards import Shards
from art_advtransform.store import RunFolder, fingerprint, slug

__all__ = ["Evaluation", "evaluate"]


@usual_device()
def evaluate(
    defended: DefendedModel,
    images: Tensor,
    labels: Tensor,
    preset: str | Sequence[Attack] = "quick",
    threat: ThreatModel | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    seed: int = 0,
    nb_draws: int = 100,
    nb_selection_draws: int = 20,
    nb_confirmation_draws: int = 100,
    nb_attack_draws: int | None = None,
    budget: float = 1.0,
    fixed_draw: bool = False,
    surrogates: Mapping[str, nn.Module] | None = None,
    imitation: nn.Module | None = None,
    twin: nn.Module | None = None,
    chunk_size: int = 50,
    restart: bool = False,
    progress: Progress | None = None,
    about: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Attack ``defended`` with every attack of ``preset``, and count over fresh draws of D.

    An undefended net goes through the same code as ``DefendedModel(net, None)``. Every attacked image is projected on the
    budget, then classified under ``nb_selection_draws`` draws, which choose the worst attack for each image, and under ``nb_draws``
    others, which alone score. With ``out``, finished chunks are kept there: a run that was killed goes on where it was. Of
    several processes (``torchrun``) each attacks its share of the chunks, and every one returns the same evaluation.

    Args:
        defended: the model, with one draw for each prediction (what it is attacked with is the attack's business), not frozen;
            its networks are left in the mode they came in. What they make themselves they make where their input is: a default
            device of torch doesn't hold here.
        images: (n, C, H, W) inside ``threat.clip_values``.
        labels: true classes (n,), int64.
        preset: a key of ``art_advtransform.attacks.presets.PRESETS``, or the attacks themselves.
        threat: budget; ``None``: L-inf 8/255 on [0, 1].
        out: folder for manifest, record and finished chunks (processes share it); ``None`` writes nothing.
        seed: of every draw; results depend on it, not on the batch or the number of draws.
        nb_draws: K, draws that score the clean images and the worst case.
        nb_selection_draws: K_sel, draws that choose.
        nb_confirmation_draws: others that stand for them where an image was right in at most one: among many attacks the
            luckiest would be chosen, and images given up that are not won.
        nb_attack_draws: draws that score single attacks, at most K; ``None``: K. Fewer save most of the time of a long preset,
            since each image is classified anew for every attack, and cost nothing but precision of these lines.
        budget: multiplies the steps of the preset "strong".
        fixed_draw: attack and score one D for every chunk of images, which the attacker knows, instead of fresh ones: no harder.
        surrogates: nets of a black-box attacker.
        imitation: h(x, D), for the attack through a reparameterisation (eq. 6).
        twin: f_a', trained like f_a from another seed: what an attacker without f_a transfers from, through g.
        chunk_size: images that are attacked at a time.
        restart: throw away what ``out`` holds.
        progress: called with (attack, images done by all attacks, images in all).
        about: what else the record should say, such as the names of data set and nets; values that JSON has.

    Returns:
        The evaluation; its ``path`` is the JSON record.

    Raises:
        TypeError, ValueError: for bad images, labels, options, before any work; if ``out`` holds another evaluation; if f_a
            draws for itself (in eval mode) and does not say so by an attribute ``randomized = True``.

    Example:
        >>> from art_advtransform import LLPGDTransform
        >>> f_a = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
        >>> model = DefendedModel(f_a, LLPGDTransform(f_a))
        >>> x, y = torch.rand(4, 3, 2, 2), torch.tensor([0, 1, 2, 0])
        >>> result = evaluate(model, x, y, preset="smoke", nb_draws=10)
        >>> result.worst.mean.value <= result.clean.mean.value
        True
    """
    threat = ThreatModel() if threat is None else threat
    check_positive("budget", budget)
    attacks = preset_attacks(preset, budget)
    _check_names([attack.name for attack in attacks])
    nb_attack_draws = nb_draws if nb_attack_draws is None else nb_attack_draws
    counts = {
        "nb_draws": nb_draws,
        "nb_selection_draws": nb_selection_draws,
        "nb_confirmation_draws": nb_confirmation_draws,
        "nb_attack_draws": nb_attack_draws,
        "chunk_size": chunk_size,
    }
    for name, value in counts.items():
        check_count(name, value)
    check_count("seed", seed, minimum=0)
    # numpy's integers are taken too, but records are JSON, which has none
    nb_draws, nb_selection_draws, nb_confirmation_draws, nb_attack_draws, chunk_size = map(int, counts.values())
    seed, budget = int(seed), float(budget)
    if nb_attack_draws > nb_draws:
        raise ValueError(f"expected nb_attack_draws <= nb_draws, got {nb_attack_draws} and {nb_draws}")
    if nb_confirmation_draws < nb_selection_draws:
        raise ValueError(
            f"expected nb_confirmation_draws >= nb_selection_draws, got {nb_confirmation_draws} and {nb_selection_draws}"
        )
    surrogates = {} if surrogates is None else surrogates
    _check_model(defended, threat, surrogates, imitation, twin)
    _check_data(defended, images, labels, threat)
    plan = Plan(
        defended,
        images.detach(),
        labels,
        threat,
        seed,
        nb_draws,
        nb_selection_draws,
        nb_confirmation_draws,
        nb_attack_draws,
        fixed_draw,
        surrogates,
        imitation,
        twin,
        chunk_size,
    )
    settings = {**plan.settings(), **environment(images.device)}
    identity = fingerprint(settings)
    named = preset if isinstance(preset, str) else [attack.name for attack in attacks]
    settings = {
        **(about or {}),
        **settings,
        "preset": named,
        "budget": budget,
        "threads": torch.get_num_threads(),
        "attack_code": attack_code(),
        "attacks": {attack.name: attack.identity() for attack in attacks},
        "fingerprint": identity,
    }
    settings = json.loads(json.dumps(settings))  # as a record that is read again has them
    shards, folder = Shards(), RunFolder(None if out is None else Path(out), identity)
    if shards.is_main:
        folder.claim(settings, restart=restart)
    shards.wait()
    with left_as_found(*plan.networks().values(), defended):
        results, chunks = run_all(plan, [CLEAN, *attacks], folder, progress, shards)
        worst, chosen = worst_case(plan, chunks, folder, progress, shards)
    evaluation = Evaluation(settings, results[0], results[1:], worst, chosen)
    if out is None:
        return evaluation
    return evaluation.save(Path(out) / "evaluation.json", write=shards.is_main)


def _check_names(names: Sequence[str]) -> None:
    """Tables tell attacks apart by their names, files by the letters and digits in them."""
    by_slug = {slug(name): name for name in (CLEAN.name, WORST)}
    for name in names:
        other = by_slug.setdefault(slug(name), "")
        if other or not slug(name):
            raise ValueError(
                f"expected attacks with names of their own, got {name!r}" + f" and {other!r}" * bool(other)
            )
        by_slug[slug(name)] = name


def _check_model(
    defended: DefendedModel,
    threat: ThreatModel,
    surrogates: Mapping[str, nn.Module],
    imitation: nn.Module | None,
    twin: nn.Module | None,
) -> None:
    if not isinstance(defended, DefendedModel):
        raise TypeError(f"expected a DefendedModel (DefendedModel(net, None) for none), got {type(defended).__name__}")
    if defended.eot_samples != 1:
        # a prediction that averages draws is another model; nor is it silently judged by single ones
        raise ValueError(f"expected a model with eot_samples=1, got {defended.eot_samples}: attacks have their own EOT")
    if defended.is_frozen:
        raise ValueError("expected a model with fresh draws, got one inside its frozen() context")
    if not isinstance(threat, ThreatModel):
        raise TypeError(f"expected threat to be a ThreatModel, got {type(threat).__name__}")
    if not isinstance(surrogates, Mapping) or not all(isinstance(net, nn.Module) for net in surrogates.values()):
        raise TypeError("expected surrogates as a mapping of names to networks")
    for name, net in (("imitation", imitation), ("twin", twin)):
        if net is not None and not isinstance(net, nn.Module):
            raise TypeError(f"expected {name} to be a torch.nn.Module, got {type(net).__name__}")


def _check_data(defended: DefendedModel, x: Tensor, y: Tensor, threat: ThreatModel) -> None:
    check_images(x)
    if len(x) == 0:
        raise ValueError("expected at least one image")
    devices = {parameter.device for parameter in defended.classifier.parameters()}
    if devices and x.device not in devices:
        raise ValueError(f"expected images on f_a's device, {min(map(str, devices))}, got them on {x.device}")
    low, high = threat.clip_values
    if x.min() < low or x.max() > high:
        raise ValueError(f"expected images in [{low}, {high}], got [{float(x.min())}, {float(x.max())}]")
    if not isinstance(y, Tensor) or y.dtype != torch.int64 or y.shape != (len(x),):
        raise ValueError(f"expected labels as an int64 tensor of shape ({len(x)},)")
    with torch.no_grad(), left_as_found(defended), global_seed(0):
        nb_classes = defended.view().eval()(x[:1]).shape[1]
        _check_declared(defended, x[:1])
    if y.min() < 0 or y.max() >= nb_classes:
        raise ValueError(f"expected labels in [0, {nb_classes - 1}], got [{int(y.min())}, {int(y.max())}]")


def _check_declared(defended: DefendedModel, x: Tensor) -> None:
    """A net that draws without saying so would be judged by a single draw, from global state: another one every time."""
    bare = DefendedModel(defended.classifier, None).eval()
    if bare.draws_itself:
        return
    found = []
    for seed in range(2):
        with global_seed(seed):
            found.append(bare(x))
    if not torch.allclose(found[0], found[1], rtol=1e-3, atol=1e-5, equal_nan=True):
        raise ValueError("expected a classifier that draws to say so: set classifier.randomized = True")


@contextmanager
def left_as_found(*models: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every module has its mode back, and every parameter its ``.grad``, which ART clears."""
    before = [(module, module.training) for model in models for module in model.modules()]
    gradients = [(p, p.grad) for model in models for p in model.parameters()]
    try:
        for model in models:
            model.eval()
        yield
    finally:
        for module, mode in before:
            module.training = mode
        for parameter, gradient in gradients:
            parameter.grad = gradient
