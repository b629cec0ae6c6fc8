"""What benchmarks of attacks are about: nets, images and budget, by data set, and their common options."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from art_advtransform.attacks.base import Attack
from art_advtransform.config import ThreatModel, TransformConfig
from art_advtransform.datasets import ImageSet, load_dataset
from art_advtransform.defended import DefendedModel
from art_advtransform.evaluate_nets import DEFENDED, Nets
from art_advtransform.evaluation import evaluate
from art_advtransform.layer import LLPGDTransform
from art_advtransform.recipes import THREATS
from art_advtransform.records import Evaluation
from art_advtransform.store import slug
from benchmarks.harness import progress


@dataclass(frozen=True)
class Subject:
    """The bundled nets of a data set, and some of its test images."""

    nets: Nets
    data: ImageSet
    threat: ThreatModel

    @property
    def x(self) -> Tensor:
        """Images (n, C, H, W)."""
        return self.data.x

    @property
    def y(self) -> Tensor:
        """Labels (n,)."""
        return self.data.y

    def with_config(self, config: TransformConfig) -> DefendedModel:
        """The same nets behind another g."""
        return DefendedModel(self.nets.f_a, LLPGDTransform(self.nets.f_b, config)).eval()

    def evaluated(
        self,
        attacks: Sequence[Attack],
        question: str,
        arguments: argparse.Namespace,
        model: str = DEFENDED,
        **more: Any,
    ) -> Evaluation:
        """A model under ``attacks``, with all nets that an attacker may have; kept in --out or a folder of ``runs/``.

        ``model``: one of :meth:`~art_advtransform.evaluate_nets.Nets.models` that draws D anew, or has none.
        ``more``: options of :func:`~art_advtransform.evaluation.evaluate`; the record knows which nets and images it is of.
        """
        about = {"dataset": arguments.dataset, "model": model, "skip": arguments.skip, "nets": self.nets.names}
        return evaluate(
            self.nets.models()[model].eval(),
            self.x,
            self.y,
            attacks,
            self.threat,
            out=arguments.out or Path("runs") / named(question, arguments),
            seed=arguments.seed,
            nb_draws=arguments.draws,
            surrogates=self.nets.surrogates(model),
            twin=self.nets.twin,
            progress=lambda name, done, total: progress(f"{done}/{total} {name}"),
            about={**about, **more.pop("about", {})},
            **more,
        )

    @classmethod
    def load(cls, arguments: argparse.Namespace) -> Subject:
        """What the command line asks for."""
        home = arguments.dataset if arguments.nets is None else str(arguments.nets)
        data = load_dataset(arguments.dataset, "test", arguments.data_root).sample(arguments.images, arguments.skip)
        return cls(Nets.load(home), data, THREATS[arguments.dataset])


def options(doc: str | None, images: int) -> argparse.ArgumentParser:
    """A parser with what :meth:`Subject.load` reads; ``images``: how many by default."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--images", type=int, default=images, help="test images")
    parser.add_argument("--skip", type=int, default=0, help="images left out before them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--nets", type=Path, default=None, help="folder with nets of your own")
    parser.add_argument("--data-root", type=Path, default=None)
    return parser


def named(question: str, arguments: argparse.Namespace) -> str:
    """A name for results: with data set, and seed and nets where they aren't the usual ones, so that none replace others."""
    seed = "" if arguments.seed == 0 else f"-seed{arguments.seed}"
    nets = "" if arguments.nets is None else f"-{slug(str(arguments.nets))}"
    return f"{question}-{arguments.dataset}{nets}{seed}"


def cosine(a: Tensor, b: Tensor) -> float:
    """Mean over images (n, C, H, W)."""
    return float(torch.cosine_similarity(a.flatten(1), b.flatten(1)).mean())
