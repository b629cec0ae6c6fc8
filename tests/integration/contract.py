"""What the shared contract asks of a host, and the translation for each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from art_advtransform import DefendedModel, LLPGDTransform
from tests.integration.nets import CLASSES, CONFIG, SHAPE

STEPS = 10


class Host(Protocol):
    """A toolkit around one f_a and one g (or none)."""

    transform: LLPGDTransform | None
    model: nn.Module
    """What the host holds, and may put into train or eval mode."""
    keeps_classifier_clean: bool
    """Whether the defence has f_a in its hands too, and so can keep ``.grad`` off its parameters."""

    def predict(self, x: Tensor) -> Tensor:
        """Logits, up to a shift of every row."""

    def input_gradient(self, x: Tensor, y: Tensor) -> Tensor:
        """Gradient of the summed cross-entropy."""

    def pgd(self, x: Tensor, y: Tensor, eps: float) -> Tensor:
        """The toolkit's own L-inf PGD, unmodified."""


Build = Callable[[nn.Module, nn.Module | None, torch.Generator | None, int | None], Host]


def _transform(
    f_b: nn.Module | None, generator: torch.Generator | None, batch_size: int | None
) -> LLPGDTransform | None:
    return None if f_b is None else LLPGDTransform(f_b, CONFIG, generator=generator, batch_size=batch_size)


class _ArtHost:
    """ART, whose classifier holds ``model``."""

    def __init__(self, model: nn.Module, defences: list[Any] | None) -> None:
        from art.estimators.classification import PyTorchClassifier

        self.model = model
        self.classifier = PyTorchClassifier(
            model,
            loss=nn.CrossEntropyLoss(),
            input_shape=SHAPE,
            nb_classes=CLASSES,
            clip_values=(0.0, 1.0),
            preprocessing_defences=defences,
            device_type="cpu",
        )

    def predict(self, x: Tensor) -> Tensor:
        return torch.from_numpy(self.classifier.predict(x.numpy()))

    def input_gradient(self, x: Tensor, y: Tensor) -> Tensor:
        mean: Tensor = torch.from_numpy(self.classifier.loss_gradient(x.numpy(), _one_hot(y)))
        return mean * len(x)

    def pgd(self, x: Tensor, y: Tensor, eps: float) -> Tensor:
        from art.attacks.evasion import ProjectedGradientDescent

        attack = ProjectedGradientDescent(self.classifier, eps=eps, eps_step=eps / 4, max_iter=STEPS, verbose=False)
        return torch.from_numpy(attack.generate(x.numpy(), _one_hot(y)))


class ArtDefenceHost(_ArtHost):
    """f_a in ART's classifier, g as a preprocessing defence."""

    keeps_classifier_clean = False  # ART's own loss.backward() is on f_a itself

    def __init__(
        self, f_a: nn.Module, f_b: nn.Module | None, generator: torch.Generator | None, batch_size: int | None
    ) -> None:
        from art_advtransform import AdversarialTransform

        defence = (
            None
            if f_b is None
            else AdversarialTransform(f_b, max_iter=CONFIG.max_iter, generator=generator, batch_size=batch_size)
        )
        super().__init__(f_a, None if defence is None else [defence])
        self.transform = None if defence is None else defence.transform


class ArtModelHost(_ArtHost):
    """The whole DefendedModel as ART's model."""

    keeps_classifier_clean = True

    def __init__(
        self, f_a: nn.Module, f_b: nn.Module | None, generator: torch.Generator | None, batch_size: int | None
    ) -> None:
        self.transform = _transform(f_b, generator, batch_size)
        super().__init__(DefendedModel(f_a, self.transform), None)


class FoolboxHost:
    transform: LLPGDTransform | None
    model: nn.Module
    keeps_classifier_clean: bool = True

    def __init__(
        self, f_a: nn.Module, f_b: nn.Module | None, generator: torch.Generator | None, batch_size: int | None
    ) -> None:
        pytest.importorskip("foolbox", reason="foolbox is an extra: pip install art-advtransform[foolbox]")
        from art_advtransform import FoolboxDefendedModel

        self.transform = _transform(f_b, generator, batch_size)
        self.foolbox = FoolboxDefendedModel(f_a, self.transform, device="cpu")
        self.model = self.foolbox.defended

    def predict(self, x: Tensor) -> Tensor:
        return self.foolbox(x)

    def input_gradient(self, x: Tensor, y: Tensor) -> Tensor:
        import eagerpy as ep
        from foolbox.attacks import LinfPGD

        attack = LinfPGD()
        loss = attack.get_loss_fn(self.foolbox, ep.astensor(y))
        gradient: Tensor = attack.value_and_grad(loss, ep.astensor(x))[1].raw
        return gradient

    def pgd(self, x: Tensor, y: Tensor, eps: float) -> Tensor:
        from foolbox.attacks import LinfPGD

        _, attacked, _ = LinfPGD(rel_stepsize=0.25, steps=STEPS)(self.foolbox, x, y, epsilons=eps)
        return torch.as_tensor(attacked)


class TorchattacksHost:
    transform: LLPGDTransform | None
    model: nn.Module
    keeps_classifier_clean: bool = True

    def __init__(
        self, f_a: nn.Module, f_b: nn.Module | None, generator: torch.Generator | None, batch_size: int | None
    ) -> None:
        pytest.importorskip(
            "torchattacks", reason="torchattacks is an extra: pip install art-advtransform[torchattacks]"
        )
        self.transform = _transform(f_b, generator, batch_size)
        self.model = DefendedModel(f_a, self.transform)

    def _attack(self, eps: float = 0.1) -> Any:
        import torchattacks

        return torchattacks.PGD(self.model, eps=eps, alpha=eps / 4, steps=STEPS)

    def predict(self, x: Tensor) -> Tensor:
        logits: Tensor = self._attack().get_output_with_eval_nograd(x)
        return logits

    def input_gradient(self, x: Tensor, y: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        F.cross_entropy(self._attack().get_logits(x), y, reduction="sum").backward()
        assert x.grad is not None
        return x.grad

    def pgd(self, x: Tensor, y: Tensor, eps: float) -> Tensor:
        attacked: Tensor = self._attack(eps)(x, y)
        return attacked


HOSTS: dict[str, Build] = {
    "art-defence": ArtDefenceHost,
    "art-model": ArtModelHost,
    "foolbox": FoolboxHost,
    "torchattacks": TorchattacksHost,
}


def _one_hot(y: Tensor) -> Any:
    return np.eye(CLASSES, dtype=np.float32)[y.numpy()]
