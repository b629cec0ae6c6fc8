"""L6: check 18: the faults of the released attack, each on its own, and the accuracy that each fakes."""

from __future__ import annotations

from art_advtransform.attacks.released import FAULTS, released_bpda
from art_advtransform.diagnostics.case import Case, Verdict, check, not_applicable, verdict


@check(18, "no fault of the released attack makes it stronger")
def released_faults(case: Case) -> Verdict:
    """The released attack as coded, wholly mended, and with one fault left in at a time; and the attack in question."""
    if case.defended.transform is None:
        return not_applicable("there is no transform")
    accuracies = {"as coded": _accuracy(case, []), "mended": _accuracy(case, list(FAULTS))}
    for fault in FAULTS:
        accuracies[f"only {fault}"] = _accuracy(case, [other for other in FAULTS if other != fault])
    attacked, mended = case.accuracy(case.x_adv), accuracies["mended"]
    strongest = min(accuracies, key=lambda name: accuracies[name])
    told = ", ".join(f"{name} {100 * accuracy:.1f}" for name, accuracy in accuracies.items())
    return verdict(
        min(mended, attacked) <= accuracies[strongest] + max(0.01, case.noise()),
        f"released attack: {told}; the attack in question: {100 * attacked:.1f} %",
        attacked=attacked,
        **accuracies,
    )


def _accuracy(case: Case, mended: list[str]) -> float:
    target = case.target(18)
    return case.accuracy(target.project(released_bpda(mended).run(target)))
