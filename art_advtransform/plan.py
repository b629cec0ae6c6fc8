"""L6: what an evaluation is of: model, images, budget, draws; what every attack is given of it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from art_advtransform import __version__
from art_advtransform.attacks.base import Attack, Target
from art_advtransform.attacks.identity import network_identity
from art_advtransform.config import ThreatModel
from art_advtransform.defended import DefendedModel
from art_advtransform.folding import hooks_of
from art_advtransform.layer import LLPGDTransform
from art_advtransform.pool import Pool
from art_advtransform.randomness import derived_seed
from art_advtransform.store import tensors_sha256

CLEAN = Attack("no attack", lambda target, model: target.x)
WORST = "per-image worst case"
# What random numbers are for, beside the purposes of counting.
_ATTACK, _FIXED_DRAW = 2, 4


@dataclass(frozen=True)
class Plan:
    """The arguments of :func:`~art_advtransform.evaluation.evaluate`, checked."""

    defended: DefendedModel
    x: Tensor
    y: Tensor
    threat: ThreatModel
    seed: int
    nb_draws: int
    nb_selection_draws: int
    nb_confirmation_draws: int
    nb_attack_draws: int
    fixed_draw: bool
    surrogates: Mapping[str, nn.Module]
    imitation: nn.Module | None
    twin: nn.Module | None
    chunk_size: int

    def settings(self) -> dict[str, Any]:
        """All that a result depends on; networks and data by their sha256."""
        transform = self.defended.transform
        return {
            "version": __version__,
            "threat": asdict(self.threat),
            "transform": None if transform is None else asdict(transform.config),
            "nb_images": len(self.x),
            "nb_draws": self.nb_draws,
            "nb_selection_draws": self.nb_selection_draws,
            "nb_confirmation_draws": self.nb_confirmation_draws,
            "nb_attack_draws": self.nb_attack_draws,
            "fixed_draw": self.fixed_draw,
            "randomized": self.defended.draws_itself if self.fixed_draw else self.defended.randomized,
            "seed": self.seed,
            "chunk_size": self.chunk_size,
            "surrogates": sorted(self.surrogates),
            "sha256": {
                "images": tensors_sha256([self.x]),
                "labels": tensors_sha256([self.y]),
                **{name: network_identity(net) for name, net in self.networks().items() if name != "f_b"},
                **({} if transform is None else {"f_b": network_identity(transform.model)}),
                **changed_model(self.defended),
            },
        }

    def networks(self) -> dict[str, nn.Module]:
        """All nets by what they are for."""
        named: dict[str, nn.Module | None] = {
            "f_a": self.defended.classifier,
            "f_b": self.defended.transform,
            **{f"surrogate {name}": self.surrogates[name] for name in sorted(self.surrogates)},
            "imitation": self.imitation,
            "twin": self.twin,
        }
        return {name: net for name, net in named.items() if net is not None}

    def firsts(self) -> list[int]:
        """Number of the first image of every chunk."""
        return list(range(0, len(self.x), self.chunk_size))

    def target(self, attack: Attack, first: int, pool: Pool | None = None) -> Target:
        """What ``attack`` is given of the chunk that begins with image ``first``; ``pool``: what was found before."""
        rows = slice(first, first + self.chunk_size)
        # by its name: an attack draws the same whatever else is in the preset
        seed = derived_seed(self.seed, _ATTACK, zlib.crc32(attack.name.encode()), first)
        # copies: what an attack writes into must neither be what it is judged by nor the caller's
        x, y, others = self.x[rows].clone(), self.y[rows].clone(), self.x.clone()
        best, alive = (None, None) if pool is None else (pool.attacked.to(x), pool.share.to(x.device))
        return Target(
            self.defended,
            x,
            y,
            self.threat,
            seed,
            self.surrogates,
            others,
            self.imitation,
            self.twin,
            best,
            alive,
        )

    def draws_to_score(self, attack: Attack) -> int:
        """No attack is scored like the worst case; what single attacks do may be told by fewer draws."""
        return self.nb_draws if attack.name == CLEAN.name else self.nb_attack_draws

    @contextmanager
    def draws(self, first: int) -> Iterator[None]:
        """Fresh draws of D, or the one that the attacker of this chunk knows."""
        if not self.fixed_draw:
            yield
            return
        with self.defended.frozen(derived_seed(self.seed, _FIXED_DRAW, first)):
            yield


def changed_model(defended: DefendedModel) -> dict[str, str]:
    """The identity of a model that is more than its networks, being of a subclass or hooked; nothing of any other."""
    own = [module for module in (defended, defended.transform) if module is not None]
    if all(type(module) in (DefendedModel, LLPGDTransform) and not hooks_of(module) for module in own):
        return {}
    return {"model": network_identity(defended)}
