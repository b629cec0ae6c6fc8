"""What the table of gradients' gains makes of its measurements."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.gradient_quality import gains


def row(estimator: str, n: int, eps: float, draws: int, gain: float) -> dict[str, Any]:
    told = {"gain_error": gain / 10, "images": 2, "pairs": 4, "seed": 0}
    return {"estimator": estimator, "N": n, "eps": eps, "draws": draws, "gain": gain, **told}


def test_a_rule_s_row_has_each_gain_where_it_belongs() -> None:
    rows = [
        row("identity", 13, 0.2, 1, 0.1),
        row("identity", 13, 0.2, 16, 0.4),
        row("identity", 13, 0.2, 64, 0.6),
        row("identity", 1, 0.2, 16, 0.5),
        row("identity", 13, 0.05, 16, 2.5),
        row("evolution", 13, 0.2, 16, 0.0),
    ]
    identity, evolution = gains(rows)
    assert identity["estimator"] == "identity"
    columns = ("N1", "N3", "N13", "eps0.05", "eps0.1", "draws1", "draws4", "draws64")
    assert [identity[column] for column in columns] == [0.5, "-", 0.4, 2.5, "-", 0.1, "-", 0.6]
    assert identity["standard_error"] == pytest.approx(0.04)
    assert (evolution["N13"], evolution["N1"], evolution["draws64"]) == (0.0, "-", "-")
