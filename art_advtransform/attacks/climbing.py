"""L5: what adaptive attacks share: losses of single draws, the climb with momentum, and the iterate that is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from art_advtransform.attacks.base import Target
from art_advtransform.transform import random_start

Loss = Callable[[Tensor, Tensor], Tensor]
Direction = Callable[[Tensor], Tensor]

# Beyond this lead of another class a draw counts as won, and its gradient goes to the draws that are not.
WON_BY = 2.0
# How often the climb looks which iterate is best, at most, after how many steps, at least, and over how many draws; and how many
# times as much its steps must cost.
LOOKS, STEPS_A_LOOK, LOOK_DRAWS, WORTH = 8, 5, 16, 4
# First step times number of steps, as shares of the budget, which is twice itself wide: they are 5/8 of the first on average.
_ACROSS = 3.2


class Keeper:
    """The best iterate of each image, and which wrong classes lead there on average.

    All iterates are compared on the same few draws of its own, first by how many are right, then by the mean lead of the best
    other class: fresh draws would let a lucky look stand against later gains, and shares alone can't tell two iterates that are
    right in all. Where there is a strongest result so far it is looked at first: what doesn't beat it on these draws is not
    returned.

    Args:
        target: whose.
        looks: whether there will be any looks; without, ``best`` is where the attack begins.

    Attributes:
        best: images (n, C, H, W).
        right: share of the draws that are right, (n,).
        lead: mean lead of the best other class over the label, at most 2 a draw, (n,).
        ranking: wrong classes, those that lead most first, (n, K - 1).
    """

    def __init__(self, target: Target, *, looks: bool = True) -> None:
        self.target, self.model, n = target, target.view(), len(target.x)
        self.nb_draws = LOOK_DRAWS if self.model.randomized else 1
        self.starts = self._starts()
        self.best = target.start()
        self.right = torch.full((n,), torch.inf, dtype=target.x.dtype, device=target.x.device)
        self.lead = torch.full_like(self.right, -torch.inf)
        self.ranking = target.y[:, None]
        if looks and target.best is not None:
            self.look(self.best)

    def look(self, x_adv: Tensor) -> None:
        """Compare these iterates with the best so far."""
        y, draws = self.target.y, self.nb_draws
        with torch.no_grad():
            logits = self.model(x_adv.repeat_interleave(draws, 0), self.starts)
        right = (logits.argmax(1) == y.repeat_interleave(draws)).to(x_adv).view(-1, draws).mean(1)
        lead = margin(logits, y.repeat_interleave(draws)).to(x_adv).view(-1, draws).mean(1)
        better = (right < self.right) | ((right == self.right) & (lead > self.lead))
        self.best = torch.where(better.view(-1, 1, 1, 1), x_adv, self.best)
        self.right, self.lead = torch.where(better, right, self.right), torch.where(better, lead, self.lead)
        means = logits.unflatten(0, (-1, draws)).mean(1).scatter(1, y[:, None], -torch.inf)
        self.ranking = means.argsort(1, descending=True)[:, :-1]

    def _starts(self) -> Tensor | None:
        """D of every look, draws of an image side by side; ``None`` where D is not drawn."""
        transform, x = self.model.transform, self.target.x
        if transform is None or self.model.is_frozen or not transform.config.random_start:
            return None
        like = torch.empty((len(x) * self.nb_draws, *x.shape[1:]), dtype=x.dtype)
        return random_start(like, transform.config.eps, self.target.generator(5)).to(x.device)


def climb(
    keeper: Keeper,
    x_adv: Tensor,
    direction: Direction,
    max_iter: int,
    *,
    momenta: Sequence[float] = (0.0,),
    eps_steps: tuple[float, float] | None = None,
    looks: int | None = None,
) -> Tensor:
    """Sign steps along ``direction``, inside the budget.

    Args:
        keeper: is shown ``looks`` iterates, the last among them.
        x_adv: where it begins, (n, C, H, W).
        direction: from iterates to what is climbed, both (n, C, H, W).
        max_iter: steps.
        momenta: coefficients of momentum; with several, the step follows the mean of their buffers (Lucas et al. 2019,
            aggregated momentum, arXiv 1804.00325), each a running mean: sums over long memories would drown the others.
        eps_steps: first and last step as shares of the budget; between them they fall linearly. ``None``: from 1/4 to 1/16, and
            where steps are few so much larger that they cross it, see :func:`crossing`.
        looks: see ``keeper``; ``None``: one for every five steps, at most eight; 0: none. See :func:`nb_looks`.

    Returns:
        The last iterate; the best is the keeper's.
    """
    eps, (first, last) = keeper.target.threat.eps, crossing(1 / 4, max_iter) if eps_steps is None else eps_steps
    buffers = [torch.zeros_like(x_adv) for _ in momenta]
    looks = nb_looks(max_iter) if looks is None else looks
    shown = {max_iter * k // looks for k in range(1, looks + 1)}
    for t in range(max_iter):
        d = scaled(torch.nan_to_num(direction(x_adv)))
        for beta, buffer in zip(momenta, buffers, strict=True):
            buffer.mul_(beta).add_(d, alpha=1 - beta)
        eps_step = eps * (first + (last - first) * t / max(max_iter - 1, 1))
        moves = d.flatten(1).any(1).view(-1, 1, 1, 1)  # where every draw is won, no old direction leads away
        x_adv = keeper.target.project(x_adv + eps_step * moves * torch.stack(buffers).mean(0).sign())
        if t + 1 in shown:
            keeper.look(x_adv)
    return x_adv


def crossing(first: float, max_iter: int) -> tuple[float, float]:
    """``eps_steps`` from at least ``first``, falling to a quarter of the first, that together lead across the whole budget.

    What begins at the strongest result so far begins at the rim: a climb of few small steps could not turn a pixel round.
    """
    first = max(first, _ACROSS / max_iter)
    return first, first / 4


def nb_looks(max_iter: int, evaluations: int | None = None, look_draws: int = LOOK_DRAWS) -> int:
    """How many iterates of a climb are looked at.

    Args:
        max_iter: steps.
        evaluations: that a step spends on an image; a look is as dear as some steps, and the steps are to cost four times what the
            looks do. ``None``: whatever they cost.
        look_draws: evaluations of a look.
    """
    looks = min(LOOKS, -(-max_iter // STEPS_A_LOOK))
    return looks if evaluations is None else max(min(looks, max_iter * evaluations // (WORTH * look_draws)), 1)


def looks_cost(looks: int) -> int:
    """Evaluations of an image that so many looks of the keeper cost."""
    return looks * LOOK_DRAWS


def expected_gradient(model: torch.nn.Module, x: Tensor, loss: Loss, y: Tensor, draws: int) -> Tensor:
    """Gradient of the mean over ``draws`` draws of the loss (not of the loss of mean logits); shape of ``x``."""
    leaf = x.detach().requires_grad_()
    value = loss(model(leaf.repeat_interleave(draws, 0)), y.repeat_interleave(draws))
    (gradient,) = torch.autograd.grad(value.sum() / draws, leaf)
    return gradient


def scaled(gradient: Tensor) -> Tensor:
    """To mean absolute value 1 for each image; zero stays zero."""
    scale = gradient.abs().mean((1, 2, 3), keepdim=True)
    return gradient / scale.clamp_min(torch.finfo(gradient.dtype).tiny)


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """For each row."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Lead of the best other class over the label, at most 2: what is won has no gradient."""
    other = logits.scatter(1, y[:, None], -torch.inf).amax(1)
    return (other - _of(logits, y)).clamp_max(WON_BY)


def towards(classes: Tensor) -> Loss:
    """Lead of the given class of each image (n,) over the label; rows are the images' draws, side by side."""

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        wanted = classes.repeat_interleave(len(y) // len(classes))
        return (_of(logits, wanted) - _of(logits, y)).clamp_max(WON_BY)

    return loss


def _of(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, classes[:, None])[:, 0]
