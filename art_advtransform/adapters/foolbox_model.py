"""L4: the defence as a Foolbox model."""

from __future__ import annotations

from typing import Any

from foolbox.models.pytorch import PyTorchModel
from torch import Tensor, nn

from art_advtransform.defended import DefendedModel
from art_advtransform.layer import LLPGDTransform


class _LogSoftmax(nn.Module):
    """Logits shifted to log-probabilities: no loss notices, but GenAttack takes ``exp`` of raw logits, NaN for large ones."""

    def __init__(self, defended: DefendedModel) -> None:
        super().__init__()
        self.defended = defended

    def forward(self, x: Tensor) -> Tensor:
        return self.defended(x).log_softmax(1)  # type: ignore[no-any-return]


class FoolboxDefendedModel(PyTorchModel):
    """f_a(g(x)) for Foolbox's attacks; outputs log-probabilities, which are logits too.

    There is no ``preprocessing``: f_b must see raw [0, 1] pixels, so that normalisation belongs inside f_a and f_b.

    Args:
        classifier: f_a, or a whole :class:`DefendedModel` (then ``transform`` must be ``None``).
        transform: g; ``None`` for an undefended classifier.
        bounds: valid range of an image, always (0, 1); Foolbox asserts it without tolerance: clamp before the call.
        device: where to; ``None`` is Foolbox's choice, a GPU if there is one.
        eot_samples: draws of D for every image and call.

    Raises:
        TypeError, ValueError: as :class:`DefendedModel`.

    Example:
        >>> import foolbox, torch
        >>> f_a = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).eval()
        >>> model = FoolboxDefendedModel(f_a, LLPGDTransform(f_a), device="cpu")
        >>> x, y = torch.rand(5, 3, 2, 2), torch.zeros(5, dtype=torch.long)
        >>> _, attacked, success = foolbox.attacks.LinfPGD(steps=3)(model, x, y, epsilons=0.1)
        >>> attacked.shape, success.shape
        (torch.Size([5, 3, 2, 2]), torch.Size([5]))
    """

    def __init__(
        self,
        classifier: nn.Module,
        transform: LLPGDTransform | None,
        bounds: tuple[float, float] = (0, 1),
        device: Any = None,
        *,
        eot_samples: int = 1,
    ) -> None:
        if tuple(bounds) != (0, 1):
            raise ValueError(f"expected bounds=(0, 1), the range that g's eps is measured in, got {tuple(bounds)}")
        if isinstance(classifier, DefendedModel):
            if transform is not None or eot_samples != 1:
                raise ValueError("expected transform=None and eot_samples=1: the DefendedModel brings its own")
            self.defended = classifier
        else:
            self.defended = DefendedModel(classifier, transform, eot_samples=eot_samples)
        model = _LogSoftmax(self.defended)
        model.training = classifier.training
        super().__init__(model, bounds=bounds, device=device)
