"""L5: the catalogue of attacks: one file for each toolkit, what this package adds, and the presets.

- ``art_attacks``, ``foolbox_attacks``, ``torchattacks_attacks``: the toolkits', each on a view of the defended model.
- ``adaptive``, ``expectation``, ``steering``, ``evolution``, ``student``: made for this defence; ``climbing``: what they share.
- ``flatness``: PGN, a transfer that no toolkit here has.
- ``released``: the attack of the authors' code, with its faults as switches.
- ``presets``, ``strong``: which attacks run, in this order.

An entry is an :class:`Attack`: a name, how it sees the model (a :class:`View`), and a function to attacked images. To add one, give
``evaluate`` a list of entries instead of a preset's name, or list it in ``presets.py``:

    >>> from art_advtransform.attacks import View, art_attack, foolbox_attack, from_function, torchattacks_attack
    >>> mine = [
    ...     art_attack("BIM-20, EOT 5", "BasicIterativeMethod", View(eot_samples=5), max_iter=20, eps_step=lambda t: t.eps / 10),
    ...     foolbox_attack("L-inf noise", "LinfRepeatedAdditiveUniformNoiseAttack", kind="black box", repeats=50),
    ...     torchattacks_attack("VMI-FGSM-10 on f_a", "VMIFGSM", View("f_a"), kind="transfer", steps=10),
    ...     from_function("brighter", lambda x, y: x + 8 / 255, "black box"),
    ... ]
    >>> [attack.toolkit for attack in mine]
    ['art', 'foolbox', 'torchattacks', 'art_advtransform']
"""

from art_advtransform.attacks.art_attacks import art_attack
from art_advtransform.attacks.base import Attack, Target, View, from_function
from art_advtransform.attacks.foolbox_attacks import foolbox_attack
from art_advtransform.attacks.presets import PRESETS
from art_advtransform.attacks.torchattacks_attacks import torchattacks_attack

__all__ = [
    "PRESETS",
    "Attack",
    "Target",
    "View",
    "art_attack",
    "foolbox_attack",
    "from_function",
    "torchattacks_attack",
]
