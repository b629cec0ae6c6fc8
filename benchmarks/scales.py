"""How large the paper's tables and figures are made, and the nets and evaluations that they share.

`--scale digits`: minutes on two cores; `cpu`: hours on two cores, CIFAR-10 with smaller nets and fewer epochs; `paper`: the paper's
own setting, for a GPU. Nets are trained once into `runs/paper-<scale>-<data set>/nets` and serve every table; those that ship with
the package are taken as they are but at the paper's scale. What was killed goes on.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from art_advtransform.attacks.base import Attack
from art_advtransform.config import ThreatModel, TransformConfig
from art_advtransform.datasets import ImageSet, load_dataset
from art_advtransform.defended import DefendedModel
from art_advtransform.evaluation import evaluate
from art_advtransform.layer import LLPGDTransform
from art_advtransform.pretrained import BUNDLED, bundled_names, load_pretrained, read_card
from art_advtransform.recipes import THREATS, Net, Role, preset_nets
from art_advtransform.records import Evaluation
from art_advtransform.train_nets import Options, train_nets
from benchmarks.harness import print_table, progress, write_csv


@dataclass(frozen=True)
class Scale:
    """One size of everything.

    Attributes:
        dataset: what it is about.
        preset: of the recipes that nets are trained by.
        images: attacked.
        draws: of D that score.
        nb_epochs: instead of the recipes'; ``None``: theirs.
        redraw_every: see :class:`~art_advtransform.recipes.Net`.
        eot_samples, max_iter: of the attacks.
    """

    dataset: str
    preset: str
    images: int
    draws: int
    nb_epochs: int | None
    redraw_every: int
    eot_samples: int
    max_iter: int


SCALES = {
    "digits": Scale("digits", "cpu", 60, 20, 20, 5, 10, 20),
    "cpu": Scale("cifar10", "cpu", 100, 20, 12, 6, 10, 20),
    "paper": Scale("cifar10", "paper", 1000, 100, None, 0, 500, 20),
}


@dataclass(frozen=True)
class Workshop:
    """What a table or figure works with at a scale.

    Attributes:
        name: of the scale.
        scale: itself.
        data_root: where data sets are.
        seed: of images and evaluations.
    """

    name: str
    scale: Scale
    data_root: Path | None
    seed: int

    @classmethod
    def from_command_line(cls, doc: str | None, dataset: str | None = None) -> Workshop:
        """``--scale``, ``--seed`` and ``--data-root``; ``dataset``: instead of CIFAR-10 at the larger scales."""
        parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--scale", choices=SCALES, default="digits")
        parser.add_argument("--seed", type=int, default=0)
        parser.add_argument("--data-root", type=Path, default=None)
        arguments = parser.parse_args()
        scale = SCALES[arguments.scale]
        if dataset is not None and arguments.scale != "digits":
            scale = replace(scale, dataset=dataset)
        return cls(arguments.scale, scale, arguments.data_root, arguments.seed)

    @property
    def home(self) -> Path:
        """Where nets and runs are kept."""
        return Path("runs") / f"paper-{self.name}-{self.scale.dataset}"

    @property
    def threat(self) -> ThreatModel:
        """The data set's budget."""
        return THREATS[self.scale.dataset]

    @cached_property
    def bundled(self) -> dict[str, dict[str, Any]]:
        """Fields of the nets that ship with the package and are not trained again, by name; none at the paper's scale."""
        if self.name == "paper":
            return {}
        folders = [name for name in bundled_names() if name.startswith(f"{self.scale.dataset}/")]
        return {name.partition("/")[2]: Net.from_json(read_card(name)["net"]).to_json() for name in folders}

    @cached_property
    def train(self) -> ImageSet:
        """All training images."""
        return load_dataset(self.scale.dataset, "train", self.data_root)

    @cached_property
    def test(self) -> ImageSet:
        """All test images."""
        return load_dataset(self.scale.dataset, "test", self.data_root)

    @cached_property
    def attacked(self) -> ImageSet:
        """Those that are attacked."""
        return self.test.sample(self.scale.images)

    def recipe(self, name: str, **changes: Any) -> Net:
        """The net called ``name`` by its recipe at this scale, with ``changes``; without any, that of the net that ships."""
        net = preset_nets(self.scale.dataset, self.scale.preset)[name]
        if not changes and net.to_json() in self.bundled.values():
            return net
        nb_epochs = changes.pop("nb_epochs", self.scale.nb_epochs)
        if nb_epochs is not None:
            warmup = min(net.recipe.warmup, nb_epochs / 4)
            net = replace(net, recipe=replace(net.recipe, nb_epochs=nb_epochs, warmup=warmup))
        if net.role == "defended":
            net = replace(net, redraw_every=self.scale.redraw_every)
        return replace(net, **changes)

    def adversarial(self, role: Role, **changes: Any) -> Net:
        """The classifier without g, trained on examples instead; at "cpu" by FGSM with a random start, which two cores bear."""
        if role == "adversarial" and not changes and "adversarial" in self.bundled:
            return self.recipe("adversarial")
        steps = {"cpu": 1, "digits": 7, "paper": 10 if role == "trades" else 7}[self.name]
        return self.recipe("undefended", role=role, threat=self.threat, attack_steps=steps, **changes)

    def nets(
        self, recipes: Mapping[str, Net], encode: Callable[[Tensor], Tensor] | None = None
    ) -> dict[str, nn.Module]:
        """Trained by their recipes, or read where they have been; f_b before what is trained on it; on ``encode``d images."""
        for name, net in recipes.items():
            shipped = [other for other, made in self.bundled.items() if made == net.to_json()]
            if shipped and not (self.home / "nets" / name).exists():
                shutil.copytree(BUNDLED / self.scale.dataset / shipped[0], self.home / "nets" / name)
        options = Options(preset=self.scale.preset, nets=recipes, progress=lambda name: partial(_told, name))
        train, test = self.train, self.test
        if encode is not None:
            train, test = replace(train, x=encode(train.x)), replace(test, x=encode(test.x))
        folders = train_nets(self.scale.dataset, train, test, self.home / "nets", options=options)
        return {name: load_pretrained(folder) for name, folder in folders.items()}

    def evaluate(
        self,
        name: str,
        f_a: nn.Module,
        f_b: nn.Module | None,
        attacks: Sequence[Attack],
        config: TransformConfig | None = None,
        **options: Any,
    ) -> Evaluation:
        """f_a(g(.)), or f_a alone, under ``attacks``; kept as ``name``."""
        transform = None if f_b is None else LLPGDTransform(f_b, config)
        return evaluate(
            DefendedModel(f_a, transform),
            self.attacked.x,
            self.attacked.y,
            attacks,
            options.pop("threat", self.threat),
            out=self.home / name,
            seed=self.seed,
            nb_draws=self.scale.draws,
            progress=partial(_told, name),
            **options,
        )

    def write(self, question: str, rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Rows with what they were measured on, printed and written."""
        about = {"scale": self.name, "images": len(self.attacked), "draws": self.scale.draws, "seed": self.seed}
        told = [{**row, **about} for row in rows]
        print_table(told)
        print(f"written to {write_csv(f'{question}-{self.name}', told)}")
        return told


def per_cent(evaluation: Evaluation, attack: int | None = None) -> float:
    """Mean accuracy without an attack, or under the one of that number."""
    result = evaluation.clean if attack is None else evaluation.attacks[attack]
    assert result.mean is not None, result.problem
    return 100 * result.mean.value


def _told(name: str, what: str, done: int, total: int) -> None:
    progress(f"{name}: {what} {done}/{total}")
