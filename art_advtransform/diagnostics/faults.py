"""L6: check 18: the faults of the released attack, each on its own, and the accuracy that each fakes."""

from __future__ import annotations

from art_advtransform.attacks.released import FAULTS, released_bpda
from art_advtransform.diagnostics.case import Case, Verdict, check, not_applicable, verdict


@check(18, "the attack is no weaker than the released one, mended or not")
def released_faults(case: Case) -> Verdict:
    """The released attack as coded, wholly mended, and with one fault left in at a time, beside the attack in question."""
    if case.defended.transform is None:
        return not_applicable("there is no transform")
    accuracies = {"as coded": _accuracy(case, []), "mended": _accuracy(case, list(FAULTS))}
    for fault in FAULTS:
        accuracies[f"only {fault}"] = _accuracy(case, [other for other in FAULTS if other != fault])
    attacked = case.accuracy(case.x_adv)
    strongest = min(accuracies, key=lambda name: accuracies[name])
    told = ", ".join(f"{name} {100 * accuracy:.1f}" for name, accuracy in accuracies.items())
    return verdict(
        attacked <= accuracies[strongest] + max(0.01, case.noise()),
        f"released attack: {told}; the attack in question: {100 * attacked:.1f} %",
        attacked=attacked,
        **accuracies,
    )


def _accuracy(case: Case, mended: list[str]) -> float:
    target = case.target(18)
    return case.accuracy(target.project(released_bpda(mended).run(target)))
