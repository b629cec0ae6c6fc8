"""Which estimator sees what: agreement of every backward rule with the gradient of the smoothed expected loss, and what it gains.

The reference is an evolution-strategies gradient of E_D cross-entropy(f_a(g_D(x + sigma u)), y): it is blind to nothing that a
step of size sigma meets, jumps of g included, and noisy. Its noise is measured by two independent halves; `cosine` is what was
measured, `corrected` divides by the root of the reference's own reliability (Spearman 1904) and is left out where the halves
hardly agree. The estimator's own noise, of its draws, stays in both.

In thousands of pixels that reference costs too much to say much; `gain` asks only for one number, how much the expected loss rises
over a step of a quarter of the budget along the signs of the estimate, over draws of D that the estimate did not see.

    python -m benchmarks.gradient_quality [--dataset cifar10] [--pairs 400]

Each g that is done is kept in `runs/`, so that a killed run goes on. Against the steps N of g, its eps, and the number of draws
that the estimator averages; f_a is the net trained for the paper's g throughout, its accuracy behind each g stands beside. Exact
differentiation through g is not among the rules: it is the identity (a test says so).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from art_advtransform.attacks.climbing import cross_entropy, expected_gradient
from art_advtransform.attacks.evolution import evolution_gradient
from art_advtransform.attacks.identity import network_identity
from art_advtransform.backward import GradientEstimator
from art_advtransform.config import TransformConfig
from art_advtransform.counting import SCORING, predictions
from art_advtransform.defended import DefendedModel
from art_advtransform.evaluate_nets import Nets
from art_advtransform.figures import curve_figure
from art_advtransform.gradients import Evolution, FiniteDifference, Identity, Reparameterized
from art_advtransform.randomness import keyed_generator
from art_advtransform.records import environment
from art_advtransform.runs import attack_code
from art_advtransform.smoothing import Blended, SoftplusModel
from art_advtransform.store import fingerprint, tensors_sha256, write_json
from art_advtransform.unrolled import Softsign, Tanh
from benchmarks.harness import RESULTS, print_table, progress, write_csv
from benchmarks.subject import Subject, cosine, named, options

STEPS, EPS, DRAWS = (1, 3, 5, 13), (0.05, 0.1, 0.2), (1, 4, 16)
# For the paper's g some are averaged over more.
MORE_DRAWS = 64
OF_MORE_DRAWS = ("identity", "soft sign", "tanh 3 u", "tanh 3 u, softplus", "I + 0.3 J, tanh 3 u", "f_b alone")
# The lines of the figures; the CSV has all.
DRAWN = ("identity", "soft sign, eq. 5", "soft sign", "tanh 3 u, softplus", "evolution", "f_b alone")
_STANDARD_ERRORS = 4  # of the halves' cosine, which is then more than chance
_NB_JUDGING = 10  # draws of D that the gain is the mean of
_CODE = ("gradient_quality.py", "subject.py")  # of the rows that are kept
_F_A = 3  # steps of g that f_a costs as much as
_AT_A_TIME = 16  # draws of every image
_MOVED = 20  # pairs that the rule "evolution" looks at for each draw
NB_SCORING = 20  # draws of D that the accuracy is the mean of
SIGMA = 4 / 255  # of the reference's noise; digits, with their larger budget, take as large a share of it


def main() -> None:
    parser = options(__doc__, images=32)
    parser.add_argument(
        "--pairs",
        type=int,
        default=400,
        help="of the reference, for each image; a g of fewer steps gets more, as many as cost the same",
    )
    parser.add_argument("--eps", type=float, nargs="*", default=EPS, help="of g, beside the paper's")
    arguments = parser.parse_args()
    subject = Subject.load(arguments)
    paper = TransformConfig()
    configs = [paper, *(TransformConfig(max_iter=n) for n in STEPS if n != paper.max_iter)]
    configs += [TransformConfig(eps=eps) for eps in arguments.eps if eps != paper.eps]
    rows = [row for config in configs for row in kept(subject, config, arguments)]
    print_table(rows)
    print(f"written to {write_csv(named('gradient_quality', arguments), rows)}")
    print(f"written to {write_csv(named('gradient_gain', arguments), gains(rows))}")
    for question, chosen, by in (
        ("N", [r for r in rows if r["eps"] == paper.eps and r["draws"] == DRAWS[-1]], "N"),
        ("eps", [r for r in rows if r["N"] == paper.max_iter and r["draws"] == DRAWS[-1]], "eps"),
        ("draws", [r for r in rows if r["eps"] == paper.eps and r["N"] == paper.max_iter], "draws"),
    ):
        for measure, title in (("gain", "gain"), ("cosine", "measured cosine")):
            path = RESULTS / f"{named('gradient_quality', arguments)}-{measure}-{question}.png"
            curves = _curves(chosen, by, measure)
            print(f"written to {curve_figure(curves, f'{title} against {question}', path, logarithmic=True)}")


def kept(subject: Subject, config: TransformConfig, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """:func:`measure`, from its file where it has been done with the same nets, images, numbers and code."""
    nets = {name: network_identity(net) for name, net in named_nets(subject.nets).items()}
    made_of = {
        "nets": nets,
        "data": tensors_sha256([subject.x, subject.y]),
        "threat": asdict(subject.threat),
        "config": asdict(config),
        "pairs": arguments.pairs,
        "seed": arguments.seed,
        "environment": environment(subject.x.device),
        "code": [attack_code(), *(Path(__file__).with_name(name).read_text() for name in _CODE)],
    }
    path = Path("runs") / f"gradient_quality-{arguments.dataset}" / f"{fingerprint(made_of)[:16]}.json"
    if path.exists():
        rows: list[dict[str, Any]] = json.loads(path.read_text())
        return rows
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = measure(subject, config, arguments)
    write_json(path, rows)
    return rows


def named_nets(nets: Nets) -> dict[str, nn.Module]:
    """Those that the estimators are made of."""
    named = {"f_a": nets.f_a, "f_b": nets.f_b, "imitation": nets.imitation}
    return {name: net for name, net in named.items() if net is not None}


def measure(subject: Subject, config: TransformConfig, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each estimator and number of draws."""
    model = subject.with_config(config)
    sigma = SIGMA * subject.threat.eps * 255 / 8
    pairs = arguments.pairs * (TransformConfig().max_iter + _F_A) // (config.max_iter + _F_A)
    halves = [
        evolution_gradient(
            model.view(generator=keyed_generator(arguments.seed, 0, k)),
            subject.x,
            cross_entropy,
            subject.y,
            pairs // 2,
            sigma,
            keyed_generator(arguments.seed, 1, k),
        )
        for k in range(2)
    ]
    between = cosine(*halves)
    # where the halves hardly agree there is nothing to correct by
    least = _STANDARD_ERRORS / subject.x.numel() ** 0.5
    reliability = 2 * between / (1 + between) if between >= least else None
    between_signs = float((halves[0].sign() == halves[1].sign()).double().mean())
    found_classes = predictions(model, subject.x, NB_SCORING, arguments.seed, SCORING)
    right = float((found_classes == subject.y[:, None]).double().mean())
    reference = halves[0] + halves[1]
    before = judged(model, subject, subject.x, arguments.seed)
    rows: list[dict[str, Any]] = []
    rises: dict[tuple[str, int], Tensor] = {}
    for name, view in views(subject, config, model, arguments.seed).items():
        progress(f"N = {config.max_iter}, eps = {config.eps}, {name}")
        for draws, gradient in averaged(view, subject.x, subject.y, drawn(config, name)):
            found = cosine(gradient, reference)
            rise = judged(model, subject, stepped(subject, gradient), arguments.seed) - before
            rises[name, draws] = rise
            gain, gain_error = mean_and_error(rise)
            # images and judging draws are the same for all, so that most of either's error cancels in the difference
            more, more_error = mean_and_error(rise - rises["identity", draws])
            rows.append(
                {
                    "estimator": name,
                    "N": config.max_iter,
                    "eps": config.eps,
                    "draws": draws,
                    "cosine": found,
                    "corrected": None if reliability is None else found / reliability**0.5,
                    "sign_agreement": float((gradient.sign() == reference.sign()).double().mean()),
                    "gain": gain,
                    "gain_error": gain_error,
                    "over_identity": more,
                    "over_identity_error": more_error,
                    "reference_halves": between,
                    "reference_halves_sign": between_signs,
                    "accuracy": 100 * right,
                    "images": len(subject.x),
                    "pairs": pairs,
                    "seed": arguments.seed,
                }
            )
    return rows


def mean_and_error(values: Tensor) -> tuple[float, float | None]:
    """Mean over images (n,), and its standard error; ``None`` of a single image, which has none."""
    return float(values.mean()), float(values.std()) / len(values) ** 0.5 if len(values) > 1 else None


def gains(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each rule: its gain against the steps of g, its eps, and the draws; "-" where that was not measured."""
    paper = TransformConfig()
    usual = (paper.max_iter, paper.eps, DRAWS[-1])
    settings = {f"N{n}": (n, paper.eps, DRAWS[-1]) for n in STEPS}
    others = sorted({*EPS, *(row["eps"] for row in rows)} - {paper.eps})
    settings |= {f"eps{eps}": (paper.max_iter, eps, DRAWS[-1]) for eps in others}
    settings |= {f"draws{k}": (paper.max_iter, paper.eps, k) for k in (*DRAWS[:-1], MORE_DRAWS)}
    found = {(row["estimator"], (row["N"], row["eps"], row["draws"])): row for row in rows}
    return [
        {
            "estimator": name,
            **{column: found.get((name, key), {}).get("gain", "-") for column, key in settings.items()},
            "standard_error": found[name, usual]["gain_error"],
            "over_identity": found[name, usual]["over_identity"],
            "over_identity_error": found[name, usual]["over_identity_error"],
            **{told: found[name, usual][told] for told in ("images", "pairs", "seed")},
        }
        for name in dict.fromkeys(row["estimator"] for row in rows)
    ]


def stepped(subject: Subject, gradient: Tensor) -> Tensor:
    """The images a quarter of the budget further along the signs."""
    return (subject.x + subject.threat.eps / 4 * gradient.sign()).clamp(*subject.threat.clip_values)


@torch.no_grad()
def judged(model: DefendedModel, subject: Subject, x: Tensor, seed: int) -> Tensor:
    """Loss of every image, the mean over draws of D that are the same for all estimators."""
    view = model.view(generator=keyed_generator(seed, 3))
    return torch.stack([cross_entropy(view(x), subject.y) for _ in range(_NB_JUDGING)]).mean(0)


def rules(subject: Subject, config: TransformConfig, seed: int) -> dict[str, GradientEstimator]:
    """Estimators by name."""
    tanh = Tanh(1 / 3, normalize=True)
    named: dict[str, GradientEstimator] = {
        "identity": Identity(),
        "soft sign, eq. 5": Softsign(projection="mask"),  # as in the paper
        "tanh, eq. 5": Tanh(projection="mask"),
        "soft sign": Softsign(1.0, normalize=True),
        "tanh u": Tanh(1.0, normalize=True),
        "tanh 3 u": tanh,
        "tanh 10 u": Tanh(1 / 10, normalize=True),
        "tanh 3 u, softplus": SoftplusModel(tanh),
        "I + 0.3 J, tanh 3 u": Blended(tanh, 0.3),
        "I + 0.3 J, tanh 3 u, softplus": Blended(SoftplusModel(tanh), 0.3),
        "I + 0.3 J of the last 3, tanh 3 u": Blended(Tanh(1 / 3, normalize=True, steps=3), 0.3),
    }
    if config == TransformConfig():  # they cost a hundred times an evaluation
        named["evolution"] = Evolution(
            sigma=SIGMA * subject.threat.eps * 255 / 8, nb_samples=_MOVED, generator=keyed_generator(seed, 4)
        )
        named["finite difference"] = FiniteDifference(nb_samples=2 * _MOVED, generator=keyed_generator(seed, 4))
    if subject.nets.imitation is not None and config == TransformConfig():  # the g that it was trained on
        named["reparameterisation"] = Reparameterized(subject.nets.imitation)
    return named


def views(subject: Subject, config: TransformConfig, model: DefendedModel, seed: int) -> dict[str, DefendedModel]:
    """The model through every estimator, the nets alone, and, where g is the paper's, through a g of fewer steps."""
    found = {
        name: model.view(gradient=rule, generator=keyed_generator(seed, 2))
        for name, rule in rules(subject, config, seed).items()
    }
    found["f_b alone"] = DefendedModel(subject.nets.f_b, None).eval()
    found["f_a alone"] = DefendedModel(subject.nets.f_a, None).eval()
    if config == TransformConfig():
        for n in STEPS[:-1]:
            found[f"identity, the attacker's N = {n}"] = model.view(max_iter=n, generator=keyed_generator(seed, 2))
    return found


def drawn(config: TransformConfig, name: str) -> tuple[int, ...]:
    """Over how many draws that estimator is averaged."""
    many = config == TransformConfig() and name in OF_MORE_DRAWS
    return (*DRAWS, MORE_DRAWS) if many else DRAWS


def averaged(view: DefendedModel, x: Tensor, y: Tensor, numbers: Sequence[int]) -> list[tuple[int, Tensor]]:
    """The estimator's gradient over as many draws as each of ``numbers`` says, each containing those before."""
    total, done, found = torch.zeros_like(x), 0, []
    for draws in numbers:
        for begin in range(done, draws, _AT_A_TIME):
            n = min(_AT_A_TIME, draws - begin)
            total += n * expected_gradient(view, x, cross_entropy, y, n)
        done = draws
        found.append((draws, total / done))
    return found


def _curves(rows: Sequence[dict[str, Any]], by: str, measure: str) -> dict[str, list[tuple[float, float]]]:
    names = [name for name in DRAWN if sum(row["estimator"] == name for row in rows) > 1]
    return {name: sorted((row[by], row[measure]) for row in rows if row["estimator"] == name) for name in names}


if __name__ == "__main__":
    main()
