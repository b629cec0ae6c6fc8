"""Table 3: standard accuracy and the worst case over white-box attacks, this defence beside others, all by the same harness.

    python -m benchmarks.table3_white_box [--scale digits | cpu | paper]

Each under PGD on the expected loss with the gradient that breaks it (its own, or BPDA as ART estimates it), what draws with many
draws a step, too, and under transfer: from the net behind it alone, from f_b where there is one, and from nets trained on clean
images, which the paper has as the best attack on its defence. What transforms images has a net that was trained on such images, of
one draw where it draws. What does not draw meets AutoAttack's APGD as well, and where it goes in steps Square, from where the
others ended. The last row says what was not run, and why.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import nn

from art_advtransform.attacks.art_attacks import (
    black_box_transfer,
    external_transfer,
    white_box_transfer,
)
from art_advtransform.attacks.base import Attack, View
from art_advtransform.attacks.expectation import expectation_pgd
from art_advtransform.attacks.torchattacks_attacks import square
from art_advtransform.recipes import Net
from art_advtransform.records import Evaluation
from art_advtransform.store import slug
from benchmarks.columns import (
    IDENTITY,
    MEASURED,
    NOT_MEASURED,
    OWN_GRADIENT,
    best_named,
    called,
    each_attack,
    more_than_adversarial,
    run,
    trained,
    up_to,
    with_interval,
    worst,
)
from benchmarks.harness import progress
from benchmarks.other_defences import (
    StochasticActivationPruning,
    along_gradients,
    of_many_draws,
    without_draws,
)
from benchmarks.preprocessors import OF_ATHALYE, OF_GUO, PREPROCESSORS, encoded, learned
from benchmarks.workshop import Workshop

_QUERIES = 1000  # of Square, an image
_MOST_DRAWS = 20  # a step, of a defence that draws otherwise than by g
MADRY = "PGD adversarial training (Madry)"
# standard accuracy, worst case, and its attack; "-" where the paper has none
NOT_RUN = {"image quilting (Guo)": ("-", 0.0, "BPDA", "no maintained library has it", OF_GUO)}


@dataclass(frozen=True)
class System:
    """A row.

    Attributes:
        model: images to logits.
        implementation: whose.
        card: of the net that stands last.
        paper: standard and worst accuracy, and the attack; "-" where it has none.
        source: whose numbers these are, and of what, where not of CIFAR-10 under L-inf.
        f_b: for this defence.
        behind: the net behind what it does to images or activations: a transfer attack's source.
        breaks: attacks that it needs beside those of all rows.
        closing: those that go on from the strongest result of all others.
        along: see :func:`~benchmarks.columns.named`.
    """

    model: nn.Module
    implementation: str
    card: dict[str, Any]
    paper: tuple[float | str, float | str, str]
    source: str = MEASURED
    f_b: nn.Module | None = None
    behind: dict[str, nn.Module] = field(default_factory=dict)
    breaks: tuple[Attack, ...] = ()
    closing: tuple[Attack, ...] = ()
    along: str = OWN_GRADIENT


def main() -> None:
    shop = Workshop.from_command_line(__doc__)
    rows, attacked = measured(shop, *everything(shop))
    for name, (standard, least, attack, reason, source) in NOT_RUN.items():
        blank = dict.fromkeys(rows[0], "-")
        paper = {"paper_standard": standard, "paper_worst": least, "paper_attack": attack, "paper_source": source}
        rows.append({**blank, "method": name, "implementation": f"not run: {reason}", **paper, **NOT_MEASURED})
    shop.write("table3-attacks", attacked)
    rows = shop.write("table3", rows)
    shop.draw("table3", rows, "method", ("standard", "worst"))


def measured(
    shop: Workshop, systems: Mapping[str, System], surrogates: Mapping[str, nn.Module]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of the table, and what every single attack left."""
    evaluations = {name: evaluated(shop, name, system, surrogates) for name, system in systems.items()}
    to_beat = evaluations.get(MADRY)
    rows = [row for name, system in systems.items() for row in rows_of(shop, name, system, evaluations[name], to_beat)]
    tried = [row for name, found in evaluations.items() for row in each_attack(name, found, systems[name].along)]
    return rows, tried


def evaluated(shop: Workshop, name: str, system: System, surrogates: Mapping[str, nn.Module]) -> Evaluation:
    """Under all its attacks."""
    progress(name)
    # a net of the attacker's own isn't the one attacked
    others = {other: net for other, net in surrogates.items() if net not in (system.model, *system.behind.values())}
    tried, nets = attacks(shop, system, list(others)), others | system.behind
    return shop.evaluate(f"table3-{slug(name)}", system.model, system.f_b, tried, surrogates=nets)


def rows_of(
    shop: Workshop, name: str, system: System, found: Evaluation, to_beat: Evaluation | None
) -> list[dict[str, Any]]:
    """One, or two of this defence: the paper has one for BPDA alone. ``to_beat``: that of adversarial training."""
    standard, least, attack = system.paper
    row = {
        "method": called(name, system.card),
        "implementation": system.implementation,
        **trained(system.card, None if system.f_b is None else shop.card("f_b-adversarial")),
        **with_interval("standard", found.clean),
        **worst(found, system.along),
        **more_than_adversarial(found, to_beat, shop.seed),
        "paper_standard": standard,
        "paper_worst": least,
        "paper_attack": attack,
        "paper_source": "-" if least == "-" else system.source,
    }
    if system.f_b is None:
        return [row]
    nb_bpda = len(bpda_attacks(shop, system))
    first = replace(found, attacks=found.attacks[:nb_bpda])
    told = {
        "attacks_run": run(first),
        "best_attack": best_named(first, system.along),
        "paper_worst": 80.2,
        "paper_attack": "BPDA",
    }
    blank = more_than_adversarial(found, None, shop.seed)
    alone = up_to("worst", found.attacks[nb_bpda - 1])
    return [{**row, "method": f"{name}, the worst of BPDA-I", **blank, **alone, **told}, row]


def attacks(shop: Workshop, system: System, surrogates: Sequence[str]) -> list[Attack]:
    """White box first, then transfer (from f_a without its g, f_b, every surrogate, the net behind a defence), and what closes."""
    max_iter = shop.scale.max_iter
    from_behind = expectation_pgd(100, 1, loss="ce", momenta=(0.9,), seen="surrogates", continues=False)
    return [
        *bpda_attacks(shop, system),
        *([] if system.f_b is None else [white_box_transfer(max_iter), external_transfer(max_iter)]),
        *(_from(black_box_transfer(max_iter), name) for name in surrogates),
        *(_from(from_behind, name) for name in system.behind),
        *system.closing,
    ]


def bpda_attacks(shop: Workshop, system: System) -> list[Attack]:
    """Those of all rows, and what breaks ``system``."""
    # what draws without g keeps its activations for every draw
    draws = min(shop.scale.eot_samples, _MOST_DRAWS) if system.f_b is None else shop.scale.eot_samples
    return [*along_gradients(shop.scale.max_iter, shop.scale.climb, draws), *system.breaks]


def _from(attack: Attack, name: str) -> Attack:
    """A transfer attack that sees the one net of this name."""
    return replace(attack, name=f"{attack.name}: {name}", view=View("surrogates", surrogate=name))


def recipes(shop: Workshop) -> dict[str, Net]:
    """All nets but those behind preprocessors."""
    plain = shop.recipe("undefended")
    return {
        "f_b-adversarial": shop.recipe("f_b-adversarial"),
        "f_a-defended": shop.recipe("f_a-defended"),
        "undefended": plain,
        "surrogate": shop.surrogate(),
        "adversarial": shop.adversarial("adversarial"),
        "trades": shop.adversarial("trades"),
        "denoising": shop.adversarial("adversarial", arguments={**plain.arguments, "denoising": True}),
        "metric": shop.adversarial("metric"),
    }


def everything(shop: Workshop) -> tuple[dict[str, System], dict[str, nn.Module]]:
    """All rows, and the nets that a black-box attacker has trained on clean images."""
    nets = shop.nets(recipes(shop))

    def own(role: str, implementation: str, *paper: Any, f_b: nn.Module | None = None) -> System:
        # a draw of g is dear: fewer of them a step than what draws otherwise meets
        breaks = without_draws(shop.scale.climb) if f_b is None else (of_many_draws(shop.scale.climb, 4),)
        told, gradient = (paper[0], paper[1], paper[2]), OWN_GRADIENT if f_b is None else IDENTITY
        return System(nets[role], implementation, shop.card(role), told, f_b=f_b, breaks=breaks, along=gradient)

    pruned = StochasticActivationPruning(copy.deepcopy(nets["undefended"]))
    loop = "our loop"
    systems = {
        "none": own("undefended", loop, 92.9, 0.0, "PGD"),
        MADRY: own("adversarial", loop, 81.7, 42.7, "PGD"),
        "TRADES (Zhang)": own("trades", loop, 80.4, 44.6, "PGD"),
        "feature denoising (Xie)": own("denoising", "ResNet18(denoising=True)", 83.8, 45.2, "PGD"),
        "metric learning (Mao)": own("metric", "losses.metric_loss", "-", "-", "-"),
        **{name: preprocessed(shop, name) for name in PREPROCESSORS},
        "activation pruning (Dhillon)": System(
            pruned,
            "benchmarks/other_defences.py",
            {**shop.card("undefended"), "test_accuracy": None},  # the card's is that of the net without pruning
            ("-", 0.0, "BPDA"),
            OF_ATHALYE,
            behind={"behind": nets["undefended"]},
            breaks=(of_many_draws(100),),
            along=IDENTITY,
        ),
        "this defence": own("f_a-defended", "this package", 82.9, 78.1, "transfer", f_b=nets["f_b-adversarial"]),
    }
    return systems, {name: nets[name] for name in ("surrogate", "undefended")}


def preprocessed(shop: Workshop, name: str) -> System:
    """A preprocessor with a net that was trained on its images."""
    plain = shop.recipe("undefended")
    made, role = PREPROCESSORS[name], slug(name)
    model = made.model(nn.Identity(), shop)
    quality, which = learned(model, shop)
    net = replace(plain, about=f"the classifier behind {made.implementation}{which}")  # another one's is trained anew
    net = replace(net, arguments={**net.arguments, "in_channels": made.channels * shop.train.x.shape[1]})
    model.classifier = shop.nets({role: net}, encode=partial(encoded, model))[role]
    # no more steps than pruning has: total variation runs on the CPU alone, image by image
    breaks = (of_many_draws(min(shop.scale.climb, 100)),) if model.randomized else without_draws(shop.scale.climb)
    return System(
        model.eval(),
        f"{made.implementation}{quality}",
        shop.card(role),
        ("-", made.paper_worst, "BPDA"),
        made.paper_source,
        behind={"behind": model.classifier} if made.channels == 1 else {},
        breaks=breaks,
        # along the identity through steps an attack may stop at an edge that no gradient tells of
        closing=() if model.randomized else (square(_QUERIES, continues=True),),
        along=made.along,
    )


if __name__ == "__main__":
    main()
