"""L6: check 18: the faults of the released attack, each on its own, and the accuracy that each fakes."""

from __future__ import annotations

from torch import Tensor

from art_advtransform.attacks.released import FAULTS, released_bpda
from art_advtransform.diagnostics.case import Case, Verdict, check, not_applicable, verdict


@check(18, "the attack is no weaker than the released one, mended or not")
def released_faults(case: Case) -> Verdict:
    """The released attack as coded, wholly mended, and with one fault left in at a time, beside the attack in question."""
    if case.defended.transform is None:
        return not_applicable("there is no transform")
    rights = {"as coded": _rights(case, []), "mended": _rights(case, list(FAULTS))}
    for fault in FAULTS:
        rights[f"only {fault}"] = _rights(case, [other for other in FAULTS if other != fault])
    accuracies = {name: float(right.mean()) for name, right in rights.items()}
    attacked = case.rights(case.worst)
    strongest = min(accuracies, key=lambda name: accuracies[name])
    tolerance = max(0.01, case.noise(attacked, rights[strongest]))
    told = ", ".join(f"{name} {100 * accuracy:.1f}" for name, accuracy in accuracies.items())
    return verdict(
        float(attacked.mean()) <= accuracies[strongest] + tolerance,
        f"released attack: {told}; {case.made_by}: {100 * attacked.mean():.1f} %; the noise is {100 * tolerance:.1f} points",
        attacked=float(attacked.mean()),
        **accuracies,
    )


def _rights(case: Case, mended: list[str]) -> Tensor:
    target = case.target(18)
    return case.rights(target.project(released_bpda(mended).run(target)))
