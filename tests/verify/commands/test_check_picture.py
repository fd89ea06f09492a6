"""The picture of a coordinate check: a row per set-up, a column per step, a line per dense op that moves."""

from typing import Any

import numpy as np
import pytest

from verify.commands.model.check_picture import NAMED, changes_against_width
from verify.model.check.check import Check, Measured

WIDTHS = (16, 32, 64)


def check(ops: int, power: float) -> Check:
    def tables() -> dict[int, Any]:
        moved = {f"layer{place}.x": {"delta_output": np.outer(np.array(WIDTHS) ** power, [1.0, 3.0])} for place in "ab"}
        others = {f"op{chr(97 + place)}": {"delta_output": np.zeros((3, 2))} for place in range(ops)}
        return {step: {**moved, **others, "table": {"delta_input": np.ones((3, 2))}} for step in (1, 5)}

    measured: Any = {setup: Measured(setup, tables(), {}, ()) for setup in ("own", "prescribed")}
    return Check(None, WIDTHS, 2, measured, ())  # type: ignore[arg-type]


def test_every_op_that_moves_has_its_mean_over_seeds_at_every_width() -> None:
    figure = changes_against_width(check(3, 0.5), "mine:make")
    assert [axis.get_title() for axis in figure.axes] == ["after step 1", "after step 5", "", ""]
    for axis in figure.axes:
        assert len(axis.lines) == 2
        points: Any = axis.lines[0].get_xydata()
        assert points[:, 1] == pytest.approx(2 * np.sqrt(WIDTHS))
    assert "as it is" in figure.axes[0].get_ylabel() and "as prescribed" in figure.axes[2].get_ylabel()
    assert len(figure.legends[0].get_texts()) == 2 <= NAMED
