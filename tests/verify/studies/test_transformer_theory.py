"""The first Adam step of a transformer: every dense op, SP and muP, widths 128 to 512.

Keys are the exception, and stand here as one: their alpha comes out near 0.85, its local slope rising from 0.75
(128 to 256) to 0.94 (256 to 512). A softmax is blind to what all positions share, so that the gradient of k sums
to zero over positions, and the update aligns only with what differs between them; at these widths the rest is noise.
"""

from fractions import Fraction
from functools import cache

import pytest

from derive.solve import prescribe, solve_kinds
from verify.studies.exponents.study import Result, exponents
from verify.training.config import Config
from verify.training.data import load_corpus

WIDTHS = (128, 256, 512)


@cache
def study(scheme: str) -> Result:
    prescription = solve_kinds(prescribe("adam", scheme, "full").problem)
    config = Config(prescription, WIDTHS[0], 1e-3, model="transformer", batch=16, probe=8)
    return exponents(config, WIDTHS, range(4), 1, load_corpus())


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["sp", "mup"])
def test_every_dense_op_after_the_first_step(scheme: str) -> None:
    rows = study(scheme).rows
    names = {row.layer for row in rows}
    blocks = {f"blocks.{block}.{name}" for block in "01" for name in ("q", "k", "v", "o", "up", "down")}
    assert names == {"embedding.tokens", "readout", *blocks}
    for row in rows:
        if row.quantity == "delta_w":
            assert abs(row.measured.value - float(Fraction(row.predicted or "0"))) < 0.02, row
        elif row.quantity == "cancellation":
            assert abs(row.measured.value) < 0.05, row
        elif row.layer.endswith(".k") and row.quantity == "alpha":
            assert 0.75 < row.measured.value < 1.05, row
        elif row.kind == "hidden" and row.quantity == "alpha":
            assert abs(row.measured.value - 1) < 0.1, row
        elif row.kind == "hidden" and row.quantity == "omega":
            assert abs(row.measured.value - 0.5) < 0.1, row
    keys = [row.measured for row in rows if row.layer.endswith(".k") and row.quantity == "alpha"]
    assert sum(each.local[0] for each in keys) < sum(each.local[-1] for each in keys)


@pytest.mark.slow
def test_roles_are_found_from_shapes_alone() -> None:
    result = study("sp")
    labels = {name: "readout" if name == "readout" else name.split(".")[0] for name in result.runs[0].kinds}
    expected = {name: {"blocks": "hidden"}.get(label, label) for name, label in labels.items()}
    assert result.runs[0].kinds == expected
