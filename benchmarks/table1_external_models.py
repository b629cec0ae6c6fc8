"""Table 1: how f_b was trained, and what that does to accuracy, to robustness under BPDA-I, and to g.

    python -m benchmarks.table1_external_models [--scale digits | cpu | paper]

For every f_b an f_a is trained on its g. Fig. 4, and what Fig. 9 has of CIFAR-10, (the difference E[g(x)] - x against the epochs of
f_b) are drawn from the same nets, Fig. 10 beside the gradient of f_b's loss; Fig. 9 of Tiny ImageNet by figure9_tiny_imagenet.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from art_advtransform.attacks.adaptive import momentum_pgd
from art_advtransform.attacks.art_attacks import bpda_identity
from art_advtransform.expectation import distance
from art_advtransform.figures import grid_figure, normalised
from art_advtransform.recipes import Net
from art_advtransform.transform import loss_gradient
from benchmarks.columns import trained, with_interval
from benchmarks.keeping import means_of_g
from benchmarks.workshop import Workshop, told

_ALL = (0, 1, 2, 5, 10, 15, 20)
# of f_b on clean images: every one has an f_a of its own, so that the smaller scales have fewer
_FEWER = (0, 1, 5, 20)
_EPOCHS = {"digits": _FEWER, "cpu": _FEWER, "paper": _ALL}
_MOST_AT_64 = 5
# the f_b of all tables, which may have had more epochs and images, and one on clean images that had as many; and one like those of
# the epochs, but on adversarial examples
ADVERSARIAL, STANDARD, ALIKE = "adversarial", "standard", f"adversarial-{_ALL[-1]}"
# the paper's columns: standard accuracy, BPDA-I accuracy, distance of E[g(x)] to x (in a norm that its text has lost)
PAPER: dict[str, tuple[float | str, float | str, float | str]] = {
    "0": (81.8, 30.6, 0.005),
    "1": (81.6, 30.7, 0.033),
    "2": (82.4, 40.0, 0.036),
    "5": (83.0, 46.4, 0.067),
    "10": (82.4, 62.3, 0.130),
    "15": (82.2, 63.1, 0.133),
    "20": (82.7, 62.9, 0.136),
    ALIKE: ("-", "-", "-"),  # the paper's own had 80 epochs, if its "all models" has f_b among them
    STANDARD: ("-", "-", "-"),
    ADVERSARIAL: (82.9, 80.5, 0.272),
}
# of E[g(x)]: with 64 the noise of the mean alone is 0.014 RMS, more than the paper's distance for an untrained f_b
NB_DRAWS, NB_SHOWN = {"digits": 64, "cpu": 128, "paper": 1024}, 4
# Images that it is measured over: all that are attacked, where that doesn't take an hour for every f_b.
NB_EXPECTED = {"digits": 20, "cpu": 40, "paper": 1000}


def main() -> None:
    shop = Workshop.from_command_line(__doc__)
    f_bs = shop.nets(external_models(shop))
    # f_b before f_a: both in one table, so that the names are found
    f_as = shop.nets({**external_models(shop), **classifiers(shop)})
    rows: list[dict[str, Any]] = []
    shown: dict[str, Tensor] = {}
    for kind in kinds(shop):
        paper, f_b, f_a = PAPER[kind], f_bs[f"f_b-{kind}"], f_as[f"f_a-{kind}"]
        shown[kind], far = difference(shop, f_b)
        attacks = [bpda_identity(shop.scale.max_iter, shop.scale.eot_samples), momentum_pgd(shop.scale.climb)]
        found = shop.evaluate(f"table1-{kind}", f_a, f_b, attacks)
        rows.append(
            {
                "f_b": kind,
                **trained(shop.card(f"f_a-{kind}"), shop.card(f"f_b-{kind}")),
                **with_interval("standard", found.clean),
                "paper_standard": paper[0],
                **with_interval("bpda_identity", found.attacks[0]),
                "paper_bpda_identity": paper[1],
                **with_interval("momentum_pgd", found.attacks[1]),
                **far,
                "distance_draws": NB_DRAWS[shop.name],
                "paper_distance": paper[2],
            }
        )
    rows = shop.write("table1", rows)
    shop.draw("table1", rows, "f_b", ("standard", "bpda_identity", "momentum_pgd"))
    draw_differences(shop, "figure4", shown)
    draw_gradients(shop, f_bs, shown)


def kinds(shop: Workshop) -> list[str]:
    """The rows: epochs on clean images, as many on adversarial ones, then the two that the other tables have."""
    return [*plain_kinds(shop), ALIKE, STANDARD, ADVERSARIAL]


def plain_kinds(shop: Workshop) -> list[str]:
    """Epochs on clean images."""
    few = (shop.name, shop.scale.dataset) == ("cpu", "tiny_imagenet")  # two minutes an epoch
    return [str(n) for n in _EPOCHS[shop.name] if not few or n <= _MOST_AT_64]


def external_models(shop: Workshop) -> dict[str, Net]:
    """f_b by how it was trained."""
    # a constant rate, as in the paper: one that falls to zero at the end would not be the same training stopped early
    rate = 0.1 if shop.name == "paper" else 0.02  # small nets and few images bear less
    plain = {
        f"f_b-{n}": _constant(shop.recipe("f_b-adversarial", role="plain", threat=None, nb_epochs=int(n)), rate)
        for n in plain_kinds(shop)
    }
    usual = shop.recipe("f_b-adversarial")
    steps = min(usual.attack_steps, shop.scale.attack_steps)
    alike = _constant(shop.recipe("f_b-adversarial", nb_epochs=_ALL[-1], attack_steps=steps), rate)
    return {**plain, f"f_b-{ALIKE}": alike, f"f_b-{STANDARD}": shop.surrogate(), f"f_b-{ADVERSARIAL}": usual}


def classifiers(shop: Workshop) -> dict[str, Net]:
    """f_a on the g of each."""
    return {f"f_a-{kind}": shop.recipe("f_a-defended", f_b=f"f_b-{kind}") for kind in kinds(shop)}


def _constant(net: Net, learning_rate: float) -> Net:
    return replace(net, recipe=replace(net.recipe, decay="constant", warmup=0.0, learning_rate=learning_rate))


def difference(shop: Workshop, f_b: nn.Module) -> tuple[Tensor, dict[str, float]]:
    """E[g(x)] - x of the images that are shown, and how far E[g(x)] is from x over ``NB_EXPECTED`` images.

    ``distance_noise``, RMS, is what the mean of so few draws has of its own, by how far its halves are apart: the square of the RMS
    distance holds its square.
    """
    x, draws = shop.attacked.x[: NB_EXPECTED[shop.name]], NB_DRAWS[shop.name]
    halves = means_of_g(f_b, x, draws, shop.seed, shop.home, partial(told, "E[g(x)]", "draws"))
    expected = halves.mean(0)
    far = distance(expected, x, draws)
    noise = float((halves[0] - halves[1]).double().square().mean().sqrt()) / 2
    measured = {"distance_mean": far.mean, "distance_rms": far.rms, "distance_max": far.max, "distance_noise": noise}
    return (expected - x)[:NB_SHOWN], measured


def draw_differences(shop: Workshop, figure: str, shown: dict[str, Tensor]) -> None:
    """Figs. 4 and 9."""
    columns = {"x": shop.attacked.x[:NB_SHOWN]}
    columns |= {f"{kind} epochs": normalised(shown[kind]) for kind in plain_kinds(shop)}
    columns["adversarial"] = normalised(shown[ADVERSARIAL])
    print(f"written to {grid_figure(columns, shop.picture(figure))}")


def draw_gradients(shop: Workshop, f_bs: dict[str, nn.Module], shown: dict[str, Tensor]) -> None:
    """Fig. 10, of the two f_b that differ in what they were trained on alone."""
    x = shop.attacked.x[:NB_SHOWN]
    columns = {"x": x}
    for kind in (STANDARD, ADVERSARIAL):
        f_b = f_bs[f"f_b-{kind}"]
        # of the true label's loss (Tsipras et al.): that of the least likely class is what g itself follows
        gradient = loss_gradient(f_b, x, shop.attacked.y[:NB_SHOWN])
        columns |= {f"{kind}: E[g(x)] - x": normalised(shown[kind]), f"{kind}: loss gradient": normalised(gradient)}
    print(f"written to {grid_figure(columns, shop.picture('figure10'))}")


if __name__ == "__main__":
    main()
