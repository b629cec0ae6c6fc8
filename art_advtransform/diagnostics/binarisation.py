"""L6: check 17: the binarisation test of Zimmermann et al. (2022, arXiv 2206.13991): is a planted adversarial example found?

For an image, the last layer of f_a is replaced by a linear detector of one corner of the budget against points well inside it. By
construction an adversarial example exists; an attack that finds none has failed, not the model resisted. It runs with a known D,
under which the detector is exact.
"""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import torch
from torch import Tensor, nn

from art_advtransform.defended import DefendedModel
from art_advtransform.diagnostics.case import Case, Verdict, check, not_applicable, verdict

_IMAGES = 8
_INNER = 200
_INNER_RADIUS = 0.5
_RANDOM = 200
_FOUND = 0.9
# If more random points than that are planted examples, finding one says nothing.
_BY_CHANCE = 0.5


@check(17, "a planted adversarial example is found")
def binarisation(case: Case) -> Verdict:
    """Share of the images whose planted example the attack finds, under one D each that it knows; random search beside it shows
    that it was hard.
    """
    if not _ends_in_linear(case):
        return not_applicable("f_a does not end in a linear layer")
    found, by_chance = [], []
    for i in range(min(_IMAGES, len(case.x))):
        # of two classes: the image and what is near it, the planted corner
        one = dataclasses.replace(case, x=case.x[i : i + 1], y=torch.zeros_like(case.y[:1]), found=None, _path=None)
        planted = _plant(one, i)
        if planted is None:
            continue  # the corner's features lie among those of the inner points
        with planted.frozen(case.seed) as model:
            one.defended = model
            attacked, points = one.attacked(17, i, eot_samples=1), _around(one, _RANDOM, case.threat.eps, i)
            with torch.no_grad():
                found.append(bool(model(attacked).argmax(1).item() == 1))
                by_chance.append(float((model(points).argmax(1) == 1).double().mean()))
    if not found:
        return not_applicable("no image has a corner that a linear layer on the features tells from its inside")
    share, chance = float(np.mean(found)), float(np.mean(by_chance))
    if chance > _BY_CHANCE:
        return not_applicable(f"a random point of the budget is a planted example in {100 * chance:.0f} % of the cases")
    return verdict(
        share >= _FOUND,
        f"where D is known the attack finds the planted example of {100 * share:.0f} % of {len(found)} images; a random point "
        f"of the budget is one in {100 * chance:.1f} % of the cases",
        found=share,
        chance=chance,
    )


def _plant(case: Case, i: int) -> DefendedModel | None:
    """f_a(g(.)) with two classes: 1 near a corner of the image's budget, 0 inside; ``None`` if no linear layer does that."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    inner = torch.cat([case.x, _around(case, _INNER, _INNER_RADIUS * case.threat.eps, i)])
    signs = torch.randint(0, 2, case.x.shape, generator=case.target(17, i).generator(3)).to(case.x) * 2 - 1
    corner = case.target(17, i).project(case.x + case.threat.eps * signs)
    features = _features(case, torch.cat([inner, corner]))
    labels = np.append(np.zeros(len(inner)), 1)
    scaler = StandardScaler().fit(features)
    fitted = LogisticRegression(C=1e3, class_weight="balanced", max_iter=2000).fit(scaler.transform(features), labels)
    weight = fitted.coef_[0] / scaler.scale_
    scores = features @ weight
    highest, at_corner = scores[:-1].max(), scores[-1]
    if at_corner <= highest:
        return None
    classifier = copy.deepcopy(case.defended.classifier).eval()
    name = _last_linear(classifier)
    assert name is not None
    old = classifier.get_submodule(name)
    head = nn.utils.skip_init(nn.Linear, features.shape[1], 2)  # whose initialisation would draw from global state
    with torch.no_grad():
        head.weight.copy_(torch.stack([torch.zeros(len(weight)), torch.from_numpy(weight)]))
        head.bias.copy_(torch.tensor([0.0, -(highest + at_corner) / 2]))
    head.to(next(old.parameters()))
    if not name:
        classifier = head
    else:
        parent, _, own = name.rpartition(".")
        setattr(classifier.get_submodule(parent), own, head)  # nn.Module.set_submodule came with torch 2.5
    return DefendedModel(classifier, case.defended.transform).eval()


def _features(case: Case, x: Tensor) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """What the last linear layer sees of the images, under the known D."""
    seen: list[Tensor] = []
    name = _last_linear(case.defended.classifier)
    assert name is not None
    handle = case.defended.classifier.get_submodule(name).register_forward_pre_hook(
        lambda _, args: seen.append(args[0])
    )
    try:
        with torch.no_grad(), case.defended.frozen(case.seed) as model:
            model(x)
    finally:
        handle.remove()
    features: np.ndarray[tuple[int, int], np.dtype[np.float64]] = torch.cat(seen).double().cpu().numpy()
    return features


def _ends_in_linear(case: Case) -> bool:
    """Whether the last linear layer's output is f_a's."""
    classifier, name = case.defended.classifier, _last_linear(case.defended.classifier)
    if name is None:
        return False
    found: list[Tensor] = []
    handle = classifier.get_submodule(name).register_forward_hook(lambda _, args, output: found.append(output))
    try:
        with torch.no_grad():
            logits = case.target(17).bare()(case.x[:1])
    finally:
        handle.remove()
    return bool(found) and found[-1].shape == logits.shape and torch.allclose(found[-1], logits)


def _last_linear(classifier: nn.Module) -> str | None:
    names = [name for name, module in classifier.named_modules() if isinstance(module, nn.Linear)]
    return names[-1] if names else None


def _around(case: Case, n: int, size: float, i: int) -> Tensor:
    """``n`` points U(-size, size) around the image."""
    target = case.target(17, i)
    generator = target.generator(1 + int(size == case.threat.eps))
    noise = (2 * torch.rand(n, *case.x.shape[1:], generator=generator) - 1) * size
    return target.project(case.x + noise.to(case.x))
