"""L4: training a defended classifier through ART, with fresh draws for every batch."""

from __future__ import annotations

from typing import Any

import numpy as np
from art.defences.trainer.trainer import Trainer

from art_advtransform.config import check_count
from art_advtransform.layer import LLPGDTransform

Array = np.ndarray[Any, np.dtype[Any]]


class AdversarialTransformTrainer(Trainer):  # type: ignore[misc]
    """Train an ART classifier on g(x) with D drawn anew for every batch (eq. 1 of the paper).

    ``classifier.fit`` applies the defences once, before the first epoch, so that f_a would train on one frozen draw. This
    trainer hands ``fit`` one batch at a time, and ART transforms each as it comes.

    Args:
        classifier: an ART classifier with :class:`AdversarialTransform` among its ``preprocessing_defences``
            (``apply_fit=True``) and an optimizer.
        nb_epochs: passes over the training set.
        batch_size: images for each step.
        seed: order of the images; the draws of D are the transform's own.

    Raises:
        ValueError: if the classifier has no defence that is applied when fitting, or a number is not positive.
    """

    def __init__(self, classifier: Any, nb_epochs: int = 80, batch_size: int = 128, seed: int = 0) -> None:
        check_count("nb_epochs", nb_epochs)
        check_count("batch_size", batch_size)
        defences = classifier.preprocessing_defences or []
        ours = [defence for defence in defences if isinstance(getattr(defence, "transform", None), LLPGDTransform)]
        if not any(defence.apply_fit for defence in ours):
            raise ValueError("expected a classifier with an AdversarialTransform(apply_fit=True) among its defences")
        super().__init__(classifier)
        self.nb_epochs, self.batch_size, self.seed = nb_epochs, batch_size, seed

    def fit(
        self,
        x: Array,
        y: Array,
        batch_size: int | None = None,
        nb_epochs: int | None = None,
        scheduler: Any = None,
        **kwargs: Any,
    ) -> None:
        """Train.

        Args:
            x: images (n, C, H, W), float32 in [0, 1].
            y: labels (n,) or one-hot (n, K).
            batch_size, nb_epochs: override the constructor's.
            scheduler: a PyTorch learning-rate scheduler, stepped after every epoch.
            kwargs: handed on to ``classifier.fit``.

        Raises:
            ValueError: if there are no images, the lengths differ, a label is out of range or a number is not positive.
        """
        size = self.batch_size if batch_size is None else batch_size
        epochs = self.nb_epochs if nb_epochs is None else nb_epochs
        check_count("batch_size", size)
        check_count("nb_epochs", epochs)
        if len(x) == 0:
            raise ValueError("expected at least one image")
        classes = y if y.ndim == 1 else np.arange(y.shape[1])
        if classes.min() < 0 or classes.max() >= self._classifier.nb_classes:
            raise ValueError(
                f"expected labels in [0, {self._classifier.nb_classes - 1}], got [{classes.min()}, {classes.max()}]"
            )
        if len(x) != len(y):
            raise ValueError(f"expected as many labels as images, got {len(y)} and {len(x)}")
        order = np.random.default_rng(self.seed)
        for _ in range(epochs):
            shuffled = order.permutation(len(x))
            for batch in np.array_split(shuffled, -(-len(x) // size)):
                self._classifier.fit(x[batch], y[batch], batch_size=len(batch), nb_epochs=1, **kwargs)
            if scheduler is not None:
                scheduler.step()
