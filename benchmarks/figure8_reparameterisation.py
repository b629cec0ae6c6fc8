"""Fig. 8: the network h(x, D) that imitates g_D(x) (eq. 6): error on training and test images, and the attack through it.

    python -m benchmarks.figure8_reparameterisation [--scale digits | cpu | paper]

The paper: low training error, high test error, 81.1 % accuracy under the attack. h is trained on a fresh D for every batch, for as
many steps on few images as on many. h adds to x what it has learned, so that its Jacobian has the identity in it from the start:
beside the attack through it stand the one through an h that has learned nothing, and BPDA-I of the same steps and draws. A killed
training of h goes on. At the scale cpu f_a and f_b are those that come with the package.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from art_advtransform.attacks.adaptive import momentum_pgd
from art_advtransform.attacks.art_attacks import bpda_identity, reparameterized
from art_advtransform.attacks.identity import network_identity
from art_advtransform.datasets import ImageSet
from art_advtransform.figures import curve_figure
from art_advtransform.layer import LLPGDTransform
from art_advtransform.losses import imitation_loss
from art_advtransform.measuring import imitation_error
from art_advtransform.networks import FCN
from art_advtransform.randomness import derived_seed, global_seed
from art_advtransform.recipes import preset_nets
from art_advtransform.store import write_json
from art_advtransform.training import fit
from benchmarks.columns import trained, with_interval
from benchmarks.workshop import Workshop

# training images, at most all of them, after an h that has seen none
NB_IMAGES = {"digits": (64, 1200), "cpu": (128, 4096), "paper": (5000, 50000)}
# of SGD, whatever the number of images, and the images of a step
NB_STEPS = {"digits": 300, "cpu": 3000, "paper": 50000}
BATCH_SIZE = {"digits": 64, "cpu": 32, "paper": 128}
_WARMUP = 0.05  # of the steps
# columns that only the last row of an h has
_DRAWN = ("attacked", "bpda_identity", "momentum_pgd")
_ATTACKED = (*(f"{name}{end}" for name in ("standard", *_DRAWN) for end in ("", "_low", "_high")), "paper_attacked")
CHECKPOINTS = 6
_NB_MEASURED = 256  # images that an error is the mean over, at most


def main() -> None:
    shop = Workshop.from_command_line(__doc__, all_ship=True)
    rows = shop.write("figure8", measured(shop))
    draw_errors(shop, rows)
    attacked = [{**row, "h": f"h of {row['training_images']} images"} for row in rows if row["attacked"] != "-"]
    shop.draw("figure8-attack", attacked, "h", _DRAWN)


def draw_errors(shop: Workshop, rows: Sequence[dict[str, Any]]) -> None:
    """Of h on its own images and on others, beside that of an h that has learned nothing."""
    curves = {
        f"{error.replace('_', ' ')}, {n} images": [(r["steps"], r[error]) for r in rows if r["training_images"] == n]
        for n in NB_IMAGES[shop.name]
        for error in ("train_error", "test_error")
    }
    begun = next(row["test_error"] for row in rows if row["training_images"] == 0)
    curves["nothing learned"] = [(0, begun), (max(row["steps"] for row in rows), begun)]
    path = shop.picture("figure8")
    print(f"written to {curve_figure(curves, 'distance of h to g (RMS) against steps', path)}")


def measured(shop: Workshop) -> list[dict[str, Any]]:
    """Errors of every h on the way, and in its last row what the attack through it leaves, beside the two that don't need it."""
    nets = shop.nets({name: shop.recipe(name) for name in ("f_b-adversarial", "f_a-defended")})
    f_a, f_b = nets["f_a-defended"], nets["f_b-adversarial"]
    made_of = {
        f"f_a_{name}": value for name, value in trained(shop.card("f_a-defended"), shop.card("f_b-adversarial")).items()
    }
    max_iter, draws = shop.scale.max_iter, shop.scale.eot_samples
    beside = shop.evaluate("figure8-beside", f_a, f_b, [bpda_identity(max_iter, draws), momentum_pgd(shop.scale.climb)])
    g = LLPGDTransform(f_b)
    rows: list[dict[str, Any]] = []
    for nb_images in (0, *NB_IMAGES[shop.name]):
        h, told = imitation(shop, g, shop.train.sample(nb_images)) if nb_images else untrained(shop, g)
        rows += told
        found = shop.evaluate(f"figure8-{nb_images}", f_a, f_b, [reparameterized(max_iter, draws)], imitation=h)
        rows[-1] |= {
            **with_interval("standard", found.clean),
            **with_interval("attacked", found.attacks[0]),
            **with_interval("bpda_identity", beside.attacks[0]),
            **with_interval("momentum_pgd", beside.attacks[1]),
            "paper_attacked": 81.1 if nb_images else "-",
        }
    return [{**row, **{name: row.get(name, "-") for name in _ATTACKED}, **made_of} for row in rows]


def untrained(shop: Workshop, g: LLPGDTransform) -> tuple[FCN, list[dict[str, Any]]]:
    """h as every training begins, and its errors."""
    h = _begun(shop, g).eval()
    return h, [{"training_images": 0, "epochs": 0, "steps": 0, **_errors(shop, h, g, shop.train)}]


def imitation(shop: Workshop, g: LLPGDTransform, train: ImageSet) -> tuple[FCN, list[dict[str, Any]]]:
    """h after all epochs, and its errors on the way."""
    recipe = preset_nets(shop.scale.dataset, shop.scale.preset)["imitation"].recipe
    batch_size = min(BATCH_SIZE[shop.name], len(train))
    steps_an_epoch = len(train) // batch_size
    nb_epochs = max(NB_STEPS[shop.name] // steps_an_epoch, 1)
    recipe = replace(recipe, batch_size=batch_size, nb_epochs=nb_epochs, warmup=_WARMUP * nb_epochs)
    h = _begun(shop, g)
    # a checkpoint knows its recipe, but neither its g and images, nor on how many images errors were measured
    made_from = f"{recipe} {network_identity(g.model)} {_NB_MEASURED} {train.sha256()}"
    kept = shop.home / "nets" / f"imitation-{len(train)}-{hashlib.sha256(made_from.encode()).hexdigest()[:8]}"
    rows: list[dict[str, Any]] = _rows_before(kept)

    def measure(done: int) -> None:
        if not any(row["epochs"] == done for row in rows):
            errors = _errors(shop, h.eval(), g, train)
            rows.append({"training_images": len(train), "epochs": done, "steps": done * steps_an_epoch, **errors})
            write_json(kept.with_suffix(".errors.json"), rows)

    def images(epoch: int) -> Tensor:
        # asked for as an epoch begins, and so again after a kill that came between a checkpoint and its measurement
        if epoch and epoch % max(nb_epochs // CHECKPOINTS, 1) == 0:
            measure(epoch)
        return train.x

    fit(h, train, imitation_loss(g), recipe, images=images, checkpoint=kept.with_suffix(".checkpoint.safetensors"))
    measure(nb_epochs)
    return h.eval(), rows


def _begun(shop: Workshop, g: LLPGDTransform) -> FCN:
    """h before the first step."""
    recipe = preset_nets(shop.scale.dataset, shop.scale.preset)["imitation"].recipe
    with global_seed(derived_seed(recipe.seed)):
        return FCN(shop.train.x.shape[1], g.config.eps).to(shop.device)


def _errors(shop: Workshop, h: FCN, g: LLPGDTransform, train: ImageSet) -> dict[str, float]:
    """Distance of h to g (RMS), on images of the training and on others."""
    return {
        name: imitation_error(h, g, images.sample(min(_NB_MEASURED, len(images))))
        for name, images in (("train_error", train), ("test_error", shop.test))
    }


def _rows_before(kept: Path) -> list[dict[str, Any]]:
    """Errors of the epochs before a kill."""
    path = kept.with_suffix(".errors.json")
    rows: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    return rows


if __name__ == "__main__":
    main()
