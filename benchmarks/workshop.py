"""The nets and evaluations that the paper's tables and figures share, at a scale.

Nets are trained once into `runs/paper-<scale>-<data set>.../nets` and serve every table that trains on these images; of those that
ship with the package a scale names what it takes, and those of `benchmarks/nets` were trained by these very tables. What was
killed goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
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
from art_advtransform.store import fingerprint
from art_advtransform.train_nets import Options, is_finished, train_nets
from benchmarks.harness import FAILURES, RESULTS, print_table, progress, write_csv
from benchmarks.keeping import copied, copy_net, encoded_and_kept, in_place_of_another
from benchmarks.pictures import table_figure
from benchmarks.scales import ALL_SHIPPED, ELSEWHERE, SCALES, Scale

# Test images that the cards of the nets are measured on.
NB_MEASURED = 1000
# What a scale has trained once, by the name of its home.
COMMITTED = Path(__file__).parent / "nets"


@dataclass(frozen=True)
class Workshop:
    """What a table or figure works with at a scale.

    Attributes:
        name: of the scale.
        scale: itself.
        data_root: where data sets are.
        seed: of draws.
        device: of nets and images.
    """

    name: str
    scale: Scale
    data_root: Path | None
    seed: int
    device: str

    @classmethod
    def from_command_line(cls, doc: str | None, dataset: str | None = None, all_ship: bool = False) -> Workshop:
        """``--scale``, ``--seed`` and ``--data-root``.

        Args:
            doc: what the command's help says.
            dataset: instead of CIFAR-10 at the larger scales.
            all_ship: every net may be one that ships with the package, see ``ALL_SHIPPED``.
        """
        parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--scale", choices=SCALES, default="digits")
        parser.add_argument("--seed", type=int, default=0)
        parser.add_argument("--data-root", type=Path, default=None)
        arguments = parser.parse_args()
        scale = SCALES[arguments.scale]
        if dataset is not None and arguments.scale != "digits":
            scale = replace(scale, dataset=dataset, **ELSEWHERE.get((arguments.scale, dataset), {}))
        if all_ship:
            scale = replace(scale, **ALL_SHIPPED.get(arguments.scale, {}))
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(arguments.scale, scale, arguments.data_root, arguments.seed, device)

    @property
    def home(self) -> Path:
        """Where nets and runs are kept; apart from those of as many training images: a recipe does not tell them."""
        most = "" if self.scale.train_images is None else f"-{self.scale.train_images}"
        return Path("runs") / f"paper-{self.name}-{self.scale.dataset}{most}"

    def kept(self, name: str) -> Path:
        """A file beside the nets: here, else the one that comes with the repository."""
        here, committed = self.home / "nets" / name, COMMITTED / self.home.name / name
        return committed if committed.exists() and not here.exists() else here

    def named(self, what: str) -> str:
        """``what`` with the seed, where that isn't the usual one: results of two seeds stand side by side."""
        return what if self.seed == 0 else f"{what}-seed{self.seed}"

    def card(self, name: str) -> dict[str, Any]:
        """Of a net that has been trained, or has been taken."""
        return read_card(self.home / "nets" / name)

    @property
    def threat(self) -> ThreatModel:
        """The data set's budget."""
        return THREATS[self.scale.dataset]

    @cached_property
    def bundled(self) -> dict[str, dict[str, Any]]:
        """Fields of the nets that ship with the package and are not trained again, by name."""
        there = {name: f"{self.scale.dataset}/{name}" for name in self.scale.shipped}
        there = {name: folder for name, folder in there.items() if folder in bundled_names()}
        return {name: Net.from_json(read_card(folder)["net"]).to_json() for name, folder in there.items()}

    @cached_property
    def train(self) -> ImageSet:
        """The training images of the scale."""
        found, most = load_dataset(self.scale.dataset, "train", self.data_root), self.scale.train_images
        return found if most is None or most >= len(found) else found.sample(most)

    @cached_property
    def train_sha256(self) -> str:
        """What tells them from others of the same number."""
        return self.train.sha256()

    @cached_property
    def test(self) -> ImageSet:
        """All test images."""
        return load_dataset(self.scale.dataset, "test", self.data_root)

    @cached_property
    def attacked(self) -> ImageSet:
        """Those that are attacked."""
        sample = self.test.sample(self.scale.images)
        return replace(sample, x=sample.x.to(self.device), y=sample.y.to(self.device))

    def recipe(self, name: str, **changes: Any) -> Net:
        """The net called ``name`` by its recipe at this scale, with ``changes``; without, by the preset's if ``shipped`` has it."""
        net = preset_nets(self.scale.dataset, self.scale.preset)[name]
        if not changes and name in self.scale.shipped:
            return net
        if self.scale.width is not None and "width" in net.arguments:
            net = replace(net, arguments={**net.arguments, "width": self.scale.width})
        nb_epochs = changes.pop("nb_epochs", self.scale.nb_epochs)
        if nb_epochs is not None:
            warmup = min(net.recipe.warmup, nb_epochs / 4)
            net = replace(net, recipe=replace(net.recipe, nb_epochs=nb_epochs, warmup=warmup))
        if net.role == "defended":
            net = replace(net, redraw_every=self.scale.redraw_every)
        return replace(net, **changes)

    def adversarial(self, role: Role, **changes: Any) -> Net:
        """The classifier without g, trained on examples instead."""
        if not changes and role in self.scale.shipped:
            return self.recipe(role)
        steps = 10 if role == "trades" and self.name == "paper" else self.scale.attack_steps
        about = f"the classifier trained for {role} instead"
        return self.beside(
            "undefended", **{"about": about, "role": role, "threat": self.threat, "attack_steps": steps, **changes}
        )

    def surrogate(self) -> Net:
        """What a black-box attacker trains on clean images: a plain f_b, where the scale takes the preset's that one."""
        if "f_b-standard" in self.scale.shipped:
            return self.recipe("f_b-standard")
        return self.beside("f_b-adversarial", role="plain", threat=None)

    def beside(self, name: str, **changes: Any) -> Net:
        """The net called ``name`` with ``changes``, trained for as many epochs as the one that it stands beside."""
        return self.recipe(name, nb_epochs=self.recipe(name).recipe.nb_epochs, **changes)

    def nets(
        self, recipes: Mapping[str, Net], encode: Callable[[Tensor], Tensor] | None = None
    ) -> dict[str, nn.Module]:
        """Trained by their recipes, or read where they have been; f_b before what is trained on it.

        With ``encode`` on images that went through it; the recipe must say so, in its ``about``.
        """
        folder = self.home / "nets"
        shipped = [BUNDLED / self.scale.dataset / name for name in self.bundled]
        committed = sorted(card.parent for card in (COMMITTED / self.home.name).glob("*/card.json"))
        for name, net in recipes.items():  # f_b first: what is trained on it may be there by another name
            there = partial(self._is_there, net, encoded=encode is not None)
            if self._brought(net, folder / name, shipped) or there(folder / name) or copied(folder / name, there):
                continue
            if self._brought(net, folder / name, committed) and there(folder / name):
                continue
            train, test = self.train, self.test.sample(min(NB_MEASURED, len(self.test)))
            kept = (
                folder
                / f"{name}.{fingerprint({'net': net.to_json(), 'train': self.train_sha256})[:8]}.encoded.safetensors"
            )
            if encode is not None:
                train, test = encoded_and_kept(train, test, encode, kept)
            options = Options(preset=self.scale.preset, nets={name: net}, progress=lambda name: partial(told, name))
            train_nets(self.scale.dataset, train, test, folder, options=options)
            kept.unlink(missing_ok=True)
        return {name: load_pretrained(folder / name, self.device) for name in recipes}

    def _is_there(self, net: Net, folder: Path, encoded: bool) -> bool:
        """Whether ``folder`` has this net, of these training images; of ``encoded`` ones only their number is compared."""
        if not is_finished(self.scale.dataset, net, folder):
            return False
        card = read_card(folder)
        same = encoded or card.get("train_sha256", self.train_sha256) == self.train_sha256
        return bool(same and card["train_images"] == len(self.train))

    def _brought(self, net: Net, folder: Path, among: Iterable[Path]) -> bool:
        """Whether one of ``among`` is the net of this recipe, behind this f_b; ``folder`` has it then, in place of another one."""
        for found in among:
            card = read_card(found)
            if Net.from_json(card["net"]).to_json() != net.to_json():
                continue
            if "f_b_sha256" in card and card["f_b_sha256"] != read_card(folder.with_name(net.f_b))["sha256"]:
                continue
            if not folder.exists() or read_card(folder) != card:
                copy_net(found, folder)
            return True
        return False

    def evaluate(
        self,
        name: str,
        f_a: nn.Module,
        f_b: nn.Module | None,
        attacks: Sequence[Attack],
        config: TransformConfig | None = None,
        **options: Any,
    ) -> Evaluation:
        """f_a(g(.)), or f_a alone, under ``attacks``; kept as ``name``, where one of other nets, images or packages is set aside.

        What could not be run is told to ``harness.FAILURES``.
        """
        transform, folder = None if f_b is None else LLPGDTransform(f_b, config), self.home / self.named(name)
        run = partial(
            evaluate,
            DefendedModel(f_a, transform).eval(),
            self.attacked.x,
            self.attacked.y,
            attacks,
            options.pop("threat", self.threat),
            out=folder,
            seed=self.seed,
            nb_draws=self.scale.draws,
            nb_selection_draws=self.scale.selection_draws,
            nb_confirmation_draws=self.scale.confirmation_draws,
            progress=partial(told, name),
            **options,
        )
        found = in_place_of_another(run, folder)
        FAILURES.extend(f"{name}: {attack.name} {attack.problem}" for attack in found.attacks if attack.problem)
        return found

    def write(self, question: str, rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Rows with what they were measured on, where they don't say it themselves, printed and written."""
        about = {
            "dataset": self.scale.dataset,
            "eps": self.threat.eps,
            "scale": self.name,
            "images": len(self.attacked),
            "draws": self.scale.draws,
            "seed": self.seed,
        }
        told = [{**row, **{name: row.get(name, value) for name, value in about.items()}} for row in rows]
        print_table(told)
        print(f"written to {write_csv(self.named(f'{question}-{self.name}'), told, self.device)}")
        return told

    @property
    def note(self) -> str:
        """What a figure of accuracies says below."""
        scored = f"{len(self.attacked)} images, scored by {self.scale.draws} draws of D"
        return f"per cent; {self.scale.dataset}, L-inf {self.threat.eps:.4g}, {scored}"

    def draw(self, question: str, rows: Sequence[dict[str, Any]], by: str, columns: Sequence[str]) -> None:
        """:func:`~benchmarks.pictures.table_figure` of what was written."""
        print(f"written to {table_figure(rows, by, columns, self.picture(question))}")

    def picture(self, question: str) -> Path:
        """Where it goes."""
        elsewhere = "" if self.device == "cpu" else f"-{self.device}"
        return RESULTS / f"{self.named(f'{question}-{self.name}')}{elsewhere}.png"


def told(name: str, what: str, done: int, total: int) -> None:
    """How far ``name`` is, on the terminal."""
    progress(f"{name}: {what} {done}/{total}")
