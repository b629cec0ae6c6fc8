"""Fig. 8: the network h(x, D) that imitates g_D(x) (eq. 6): error on training and test images, and the attack through it.

    python -m benchmarks.figure8_reparameterisation [--scale digits | cpu | paper]

The paper: low training error, high test error, 81.1 % accuracy under the attack. h is trained on a fresh D for every batch, for as
many steps on few images as on many. A killed training of h goes on. At the scale cpu f_a and f_b are those that come with the
package.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from art_advtransform.attacks.adaptive import momentum_pgd
from art_advtransform.attacks.art_attacks import reparameterized
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
from benchmarks.columns import per_cent
from benchmarks.workshop import Workshop

# training images, at most all of them
NB_IMAGES = {"digits": (64, 1200), "cpu": (128, 4096), "paper": (5000, 50000)}
# of SGD, whatever the number of images, and the images of a step
NB_STEPS = {"digits": 400, "cpu": 3000, "paper": 50000}
BATCH_SIZE = {"digits": 64, "cpu": 32, "paper": 128}
_WARMUP = 0.05  # of the steps
CHECKPOINTS = 6


def main() -> None:
    shop = Workshop.from_command_line(__doc__, all_ship=True)
    nets = shop.nets({name: shop.recipe(name) for name in ("f_b-adversarial", "f_a-defended")})
    g = LLPGDTransform(nets["f_b-adversarial"])
    rows: list[dict[str, Any]] = []
    for nb_images in NB_IMAGES[shop.name]:
        train = shop.train.sample(nb_images)
        h, told = imitation(shop, g, train)
        rows += told
        attacks = [reparameterized(shop.scale.max_iter, shop.scale.eot_samples), momentum_pgd(shop.scale.climb)]
        found = shop.evaluate(
            f"figure8-{nb_images}", nets["f_a-defended"], nets["f_b-adversarial"], attacks, imitation=h
        )
        rows[-1] |= {
            "standard": per_cent(found),
            "attacked": per_cent(found, 0),
            "momentum_pgd": per_cent(found, 1),
            "paper_attacked": 81.1,
        }
    shop.write("figure8", rows)
    curves = {
        f"{error.replace('_', ' ')}, {n} images": [(r["steps"], r[error]) for r in rows if r["training_images"] == n]
        for n in NB_IMAGES[shop.name]
        for error in ("train_error", "test_error")
    }
    path = shop.picture("figure8")
    print(f"written to {curve_figure(curves, 'distance of h to g (RMS) against steps', path)}")


def imitation(shop: Workshop, g: LLPGDTransform, train: ImageSet) -> tuple[FCN, list[dict[str, Any]]]:
    """h after all epochs, and its errors on the way."""
    recipe = preset_nets(shop.scale.dataset, shop.scale.preset)["imitation"].recipe
    batch_size = min(BATCH_SIZE[shop.name], len(train))
    steps_an_epoch = len(train) // batch_size
    nb_epochs = max(NB_STEPS[shop.name] // steps_an_epoch, 1)
    recipe = replace(recipe, batch_size=batch_size, nb_epochs=nb_epochs, warmup=_WARMUP * nb_epochs)
    with global_seed(derived_seed(recipe.seed)):
        h = FCN(train.x.shape[1], g.config.eps).to(shop.device)
    made_from = f"{recipe} {network_identity(g.model)}"  # a checkpoint knows its recipe, but not its g
    kept = shop.home / "nets" / f"imitation-{len(train)}-{hashlib.sha256(made_from.encode()).hexdigest()[:8]}"
    rows: list[dict[str, Any]] = _rows_before(kept)

    def on_epoch(done: int, total: int, loss: float) -> None:
        if done % max(total // CHECKPOINTS, 1) and done != total:
            return
        h.eval()
        row = {
            "training_images": len(train),
            "epochs": done,
            "steps": done * steps_an_epoch,
            "train_error": imitation_error(h, g, train.sample(len(shop.attacked))),
            "test_error": imitation_error(h, g, shop.attacked),
        }
        rows[:] = [earlier for earlier in rows if earlier["epochs"] < done]  # a killed run may have told of it already
        rows.append({**row, "standard": "-", "attacked": "-", "momentum_pgd": "-", "paper_attacked": "-"})
        write_json(kept.with_suffix(".errors.json"), rows)
        h.train()

    fit(h, train, imitation_loss(g), recipe, checkpoint=kept.with_suffix(".checkpoint.safetensors"), on_epoch=on_epoch)
    return h.eval(), rows


def _rows_before(kept: Path) -> list[dict[str, Any]]:
    """Errors of the epochs before a kill."""
    path = kept.with_suffix(".errors.json")
    rows: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    return rows


if __name__ == "__main__":
    main()
