"""Table 2: clean and robust accuracy under black-box attacks; none, PGD adversarial training, and this defence.

    python -m benchmarks.table2_black_box [--scale digits | cpu | paper]

Beside the paper's columns stands what a white-box attack leaves, and the worst case of all, with two or three more of these
(APGD on nets without g, on this defence one of more draws, from where the others ended): black-box attacks alone say little of a
defence. At the scale cpu the nets are those that come with the package.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from art_advtransform.attacks.adaptive import momentum_pgd
from art_advtransform.attacks.art_attacks import black_box_transfer
from art_advtransform.attacks.base import Attack
from art_advtransform.attacks.expectation import expectation_pgd
from art_advtransform.attacks.foolbox_attacks import gen_attack, hop_skip_jump
from art_advtransform.recipes import Net
from art_advtransform.store import slug
from benchmarks.columns import IDENTITY, OWN_GRADIENT, called, each_attack, trained, with_interval, worst
from benchmarks.other_defences import of_many_draws, without_draws
from benchmarks.workshop import Workshop

# clean, transfer, HopSkipJump, GenAttack
PAPER = {
    "none": (92.9, 1.3, 3.6, 5.8),
    "PGD adversarial training": (81.7, 77.5, 72.1, 78.4),
    "adversarial transformation": (82.9, 78.1, 82.0, 81.9),
}
COLUMNS = ("clean", "transfer", "hop_skip_jump", "gen_attack")
# steps and queries of HopSkipJump; steps and population of GenAttack
SIZES = {"digits": ((5, 25, 100), (30, 10)), "cpu": ((8, 50, 200), (150, 10)), "paper": ((20, 100, 1000), (500, 20))}


def main() -> None:
    shop = Workshop.from_command_line(__doc__, all_ship=True)
    recipes = {
        "f_b-adversarial": shop.recipe("f_b-adversarial"),
        "f_a-defended": shop.recipe("f_a-defended"),
        "undefended": shop.recipe("undefended"),
        "adversarial": shop.adversarial("adversarial"),
        # what a black-box attacker trains on clean images: another architecture, and the same from another seed
        "surrogate": shop.surrogate(),
        **another_seed(shop),
    }
    nets = shop.nets(recipes)
    surrogates = {"surrogate": nets["surrogate"], "surrogate-2": nets.get("surrogate-2", nets["undefended"])}
    systems = {
        "none": ("undefended", None, False),
        "PGD adversarial training": ("adversarial", None, False),
        "adversarial transformation": ("f_a-defended", nets["f_b-adversarial"], False),
        # the attacks that assume a deterministic model face here the very one that is scored, as in the rows above
        "adversarial transformation, known D": ("f_a-defended", nets["f_b-adversarial"], True),
    }
    rows: list[dict[str, Any]] = []
    attacked: list[dict[str, Any]] = []
    for name, (role, f_b, known) in systems.items():
        folder = f"table2-{slug(name)}"
        # a net of the attacker's own isn't the one attacked
        others = {other: net for other, net in surrogates.items() if net is not nets[role]}
        tried = attacks(shop, defended=f_b is not None)
        found = shop.evaluate(folder, nets[role], f_b, tried, surrogates=others, fixed_draw=known)
        card, along = shop.card(role), OWN_GRADIENT if f_b is None else IDENTITY
        attacked += each_attack(name, found, along)
        row: dict[str, Any] = {
            "defence": called(name, card),
            **trained(card, None if f_b is None else shop.card("f_b-adversarial")),
        }
        for k, column in enumerate(COLUMNS):
            row |= with_interval(column, found.attacks[k - 1] if k else found.clean)
            row[f"paper_{column}"] = PAPER[name][k] if name in PAPER else "-"
        rows.append({**row, **with_interval("white_box_momentum_pgd", found.attacks[3]), **worst(found, along)})
    shop.write("table2-attacks", attacked)
    rows = shop.write("table2", rows)
    shop.draw("table2", rows, "defence", (*COLUMNS, "white_box_momentum_pgd", "worst"))


def attacks(shop: Workshop, *, defended: bool) -> list[Attack]:
    """Of all rows, and on nets without g APGD, on this defence one of more draws from where the others ended."""
    hop, gen = SIZES[shop.name]
    return [
        black_box_transfer(shop.scale.max_iter),
        hop_skip_jump(*hop),
        gen_attack(*gen),
        momentum_pgd(shop.scale.climb),
        expectation_pgd(shop.scale.max_iter, 4, momenta=(0.0, 0.9), continues=False),
        *([of_many_draws(shop.scale.climb, 4, continues=True)] if defended else without_draws(shop.scale.climb)),
    ]


def another_seed(shop: Workshop) -> dict[str, Net]:
    """The undefended net from another seed; of one that ships there is none: it is itself what attacks the others."""
    plain = shop.recipe("undefended")
    if "undefended" in shop.scale.shipped:
        return {}
    recipe = replace(plain.recipe, seed=plain.recipe.seed + 1)
    return {"surrogate-2": shop.beside("undefended", about="another seed", recipe=recipe)}


if __name__ == "__main__":
    main()
