"""Figure 9 is rebuilt from the committed data, and what it says is what they hold."""

import gzip
import json
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paper_figures.figure_9_phase import STUDIES
from paper_figures.paths import DATA, MissingResultError
from tests.helpers.built import build

LAYERS = {"hidden.1": "features", "readout": "logits"}
PREDICTED = ("predicted", "predicted_measured", "predicted_finite")
NAMES = {"phase_adam_sp": "SP", "phase_adam_sp_frozen": "SP with a slowed embedding", "phase_adam_mup": "muP"}


def rows(study: str) -> list[dict[str, Any]]:
    return json.loads((DATA / study / "phase.json").read_text())["rows"]


def side(text: Any) -> int:
    """Of r: -1 unstable, 0 stable, 1 frozen."""
    r = float(Fraction(text))
    return 0 if abs(r) <= 0.15 else 1 if r > 0 else -1


@pytest.mark.parametrize("study", STUDIES)
def test_r_hat_is_refitted_from_the_stored_sizes(study: str) -> None:
    stored = [json.loads(gzip.decompress(path.read_bytes())) for path in (DATA / study).glob("width_*.json.gz")]
    stored.sort(key=lambda each: each["width"])
    widths = np.array([each["width"] for each in stored], dtype=float)
    points = [tuple(point) for point in stored[0]["conditions"]["points"]]
    a = 1 / 2 if study == "phase_adam_mup" else 0  # the logits' multiplier n^-a
    for row in rows(study):
        point = points.index((row["c_hidden"], row["c_readout"]))
        name = "delta_output" if row["layer"] == "readout" else "delta_input"
        sizes = np.array([each["sizes"][str(row["step"])]["readout"][name][point] for each in stored])
        slopes = np.polyfit(np.log(widths), np.log(sizes), 1)[0]
        expected = -slopes.mean() + (a if row["layer"] == "readout" else 0)
        assert row["measured"] == pytest.approx(expected, abs=2e-3)


def test_what_is_said_is_in_the_data() -> None:
    found = build("figure_9_phase")
    for study, name in NAMES.items():
        for layer, called in LAYERS.items():
            own = [row for row in rows(study) if (row["step"], row["layer"]) == (1, layer)]
            right = [sum(side(row[kind]) == side(row["measured"]) for row in own) for kind in PREDICTED]
            assert len(own) == 81
            assert f"{name} {called} {right[0]} of 81 and {right[2]} of 81" in found.measured
            # What the sizes of terms add is the claim of the figure.
            assert right[2] > 75 and right[2] >= right[0]
    for step, place in ((1, r"to 0.15 at (\d+) and (\d+) points"), (10, r"and at (\d+) and (\d+) after 10")):
        said = re.search(place, found.measured)
        own = [row for row in rows("phase_adam_sp") if row["step"] == step]
        near = [
            sum(abs(row["predicted_finite"] - row["measured"]) <= 0.15 for row in own if row["layer"] == layer)
            for layer in LAYERS
        ]
        assert said is not None and [int(each) for each in said.groups()] == near
    start = next(
        row
        for row in rows("phase_adam_sp")
        if (row["step"], row["layer"], row["c_hidden"], row["c_readout"]) == (1, "readout", "1", "1")
    )
    assert f"they grow as n^{-start['measured']:.2f}" in found.measured


@pytest.mark.usefixtures("undrawn")
def test_the_figures_are_written_and_show_the_prescription(tmp_path: Path) -> None:
    found = build("figure_9_phase")
    names = {path.name for path in found.write(tmp_path)}
    figures = ("figure_9_sp", "figure_9_sp_frozen", "figure_9_mup", "figure_9_agreement")
    assert names == {f"{name}{suffix}" for name in figures for suffix in (".png", ".pdf")}
    for name, star in (("figure_9_sp", (1, 1)), ("figure_9_mup", (1, 0.5))):
        for axis in found.figures[name].axes[:4]:
            assert (axis.lines[0].get_xdata()[0], axis.lines[0].get_ydata()[0]) == star  # type: ignore[index]


def test_a_missing_study_is_named_with_its_command(tmp_path: Path) -> None:
    with pytest.raises(MissingResultError, match=r"phase_adam_sp/phase.json is missing; make it with: verify phase"):
        build("figure_9_phase", tmp_path)
