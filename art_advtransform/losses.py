"""L4: what a net is trained for: clean images, PGD examples (also with TRADES or metric learning), g(x) (eq. 1), h = g (eq. 6).

A new kind of training is one more function like :func:`plain_loss`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn
from torch.nn import functional as F

from art_advtransform.config import ThreatModel, TransformConfig
from art_advtransform.layer import LLPGDTransform
from art_advtransform.transform import first_iterate, ll_pgd, pgd_step, random_start

Loss = Callable[[nn.Module, Tensor, Tensor, torch.Generator], Tensor]


def plain_loss(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    """Cross-entropy on clean images."""
    return F.cross_entropy(model(x), y)


def adversarial_loss(threat: ThreatModel, max_iter: int = 7, eps_step: float | None = None) -> Loss:
    """Cross-entropy on PGD examples (Madry et al. 2018, arXiv 1706.06083): the same PGD, ascending at the true label.

    Args:
        threat: budget of the attack.
        max_iter: steps; 1 is FGSM with a random start (Wong et al. 2020, arXiv 2001.03994).
        eps_step: step length; ``None`` means 2.5 eps / max_iter, and 1.25 eps for a single step.
    """
    config = _ascent(threat, max_iter, eps_step)

    def loss(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        model.eval()  # the attack leaves the batch statistics alone
        attacked = ll_pgd(_alone(model), x, y, random_start(x, threat.eps, generator), config)
        model.train()
        return F.cross_entropy(model(attacked), y)

    return loss


def trades_loss(threat: ThreatModel, max_iter: int = 7, eps_step: float | None = None, beta: float = 6.0) -> Loss:
    """L(f(x), y) + beta KL(f(x) || f(x')), x' the PGD ascent of that divergence (TRADES, Zhang et al. 2019, arXiv 1901.08573).

    Args:
        threat: budget of x'.
        max_iter, eps_step: as for :func:`adversarial_loss`.
        beta: weight of the second term, 1/lambda in the paper.
    """
    config = _ascent(threat, max_iter, eps_step)

    def loss(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        model.eval()
        bare = _alone(model)
        with torch.no_grad():
            clean = bare(x).log_softmax(1)
        # not from x itself, where the gradient of the divergence is zero
        z = first_iterate(x, random_start(x, threat.eps, generator), config)
        for _ in range(max_iter):
            z.requires_grad_()
            (u,) = torch.autograd.grad(_divergence(clean, bare(z).log_softmax(1)), z)
            z = pgd_step(z.detach(), x, u, config)
        model.train()
        # one pass over both, so that batch norm sees both and every process of several joins in one
        logits, attacked = model(torch.cat([x, z])).chunk(2)
        divergence = _divergence(logits.log_softmax(1), attacked.log_softmax(1)) / len(x)
        return F.cross_entropy(logits, y) + beta * divergence

    return loss


def metric_loss(threat: ThreatModel, max_iter: int = 7, eps_step: float | None = None) -> Loss:
    """Cross-entropy on PGD examples, and a triplet term on their features (Mao et al. 2019, arXiv 1909.00900).

    An attacked image (anchor) is to lie nearer to the clean images of its class (positives, on average) than to the nearest one of
    another (negative), by 0.03, in 1 - cosine of what the last linear layer is given; weight 2, as in the paper.

    Args:
        threat: budget of the examples.
        max_iter, eps_step: as for :func:`adversarial_loss`.

    Raises:
        ValueError: from the loss, if the net has no linear layer.
    """
    config = _ascent(threat, max_iter, eps_step)

    def loss(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        model.eval()
        bare = _alone(model)
        attacked = ll_pgd(bare, x, y, random_start(x, threat.eps, generator), config)
        model.train()
        linear = [module for module in bare.modules() if isinstance(module, nn.Linear)]
        if not linear:
            raise ValueError("expected a net with a linear layer: its input are the features")
        seen: list[Tensor] = []
        hook = linear[-1].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        try:
            _, logits = model(torch.cat([x, attacked])).chunk(2)
        finally:
            hook.remove()
        clean, anchors = F.normalize(seen[0].flatten(1)).chunk(2)
        return F.cross_entropy(logits, y) + 2 * triplet_term(anchors, clean, y)

    return loss


def triplet_term(anchors: Tensor, clean: Tensor, y: Tensor, margin: float = 0.03) -> Tensor:
    """Mean over anchors of max(0, mean distance to their class - distance to the nearest other + margin); 0 with one class alone.

    Args:
        anchors, clean: features (n, d) of length 1.
        y: their classes (n,).
        margin: see above.

    Example:
        >>> e = torch.eye(2)
        >>> triplet_term(e, e, torch.tensor([0, 1])), triplet_term(e.flip(0), e, torch.tensor([0, 1]))
        (tensor(0.), tensor(1.0300))
    """
    distances = 1 - anchors @ clean.T
    same = y[:, None] == y[None, :]
    positive = (distances * same).sum(1) / same.sum(1)
    negative = distances.masked_fill(same, torch.inf).amin(1)
    return (positive - negative + margin).clamp_min(0).mean()


def _ascent(threat: ThreatModel, max_iter: int, eps_step: float | None) -> TransformConfig:
    """PGD within ``threat``."""
    step = (1.25 if max_iter == 1 else 2.5 / max_iter) * threat.eps if eps_step is None else eps_step
    return TransformConfig(threat.eps, step, max_iter, objective="most_likely", clip_values=threat.clip_values)


def _divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q), summed over the batch."""
    return F.kl_div(log_q, log_p, reduction="sum", log_target=True)


def _alone(model: nn.Module) -> nn.Module:
    """The net in what several processes wrap around it, which waits for parameter gradients that an attack has none of."""
    bare: nn.Module = extract_model_from_parallel(model)
    return bare


def defended_loss(transform: LLPGDTransform) -> Loss:
    """Cross-entropy of f_a(g(x)), D drawn anew for every batch (eq. 1)."""

    def loss(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            g = _beside(x, transform)(x, _fresh_start(transform, x, generator))
        return F.cross_entropy(model(g), y)

    return loss


def imitation_loss(transform: LLPGDTransform) -> Loss:
    """Mean squared distance of h(x, D) to g_D(x) (eq. 6), in units of eps^2."""

    def loss(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        start = _fresh_start(transform, x, generator)
        with torch.no_grad():
            g = _beside(x, transform)(x, start)
        return F.mse_loss(model(x, start), g) / transform.config.eps**2

    return loss


def _beside(x: Tensor, transform: LLPGDTransform) -> LLPGDTransform:
    """g where the training moved its images: each batch would go back and forth otherwise, and be transformed on the CPU."""
    return transform if transform.model.device == x.device else transform.to(x.device)


def _fresh_start(transform: LLPGDTransform, x: Tensor, generator: torch.Generator) -> Tensor:
    """D as the defence draws it, but from the epoch's generator; zero where the configuration has no random start."""
    config = transform.config
    return random_start(x, config.eps, generator) if config.random_start else torch.zeros_like(x)
