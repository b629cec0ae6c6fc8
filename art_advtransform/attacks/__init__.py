"""L5: the catalogue of attacks: one file for each toolkit, one for what this package adds, and the presets.

An attack is a function from a :class:`~art_advtransform.attacks.base.Target` to attacked images, with a name: an
:class:`~art_advtransform.attacks.base.Attack`. To add one, write a function that returns it and list it in a preset.
"""
