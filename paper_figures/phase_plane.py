"""Drawing a study of `verify phase`: the plane of rate exponents, and r measured against r predicted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from scipy.ndimage import distance_transform_edt

from verify.checksums import read_document

COLUMNS = {
    "predicted": "full alignment, n → ∞",
    "predicted_measured": "measured alignments, n → ∞",
    "predicted_finite": "measured alignments, at these widths",
}
PREDICTED = {column: COLUMNS[column] for column in ("predicted", "predicted_finite")}
LAYERS = ("features", "logits")
NAMES = {-1: "unstable", 0: "stable", 1: "frozen"}
SIGNS = {-1: "−", 0: "0", 1: "+"}
# Red for growth is darker than blue for freezing, so that the two differ in greyscale too.
COLOURS = LinearSegmentedColormap.from_list("r", ["#7f1d00", "#e8743b", "#ffffff", "#9ccbe8", "#4a90c2"])


@dataclass(frozen=True)
class Study:
    """One stored study; r[step, layer][column] is [c_readout, c_hidden], NaN where nothing was measured."""

    content: Mapping[str, Any]
    c_hidden: Sequence[Fraction]
    c_readout: Sequence[Fraction]
    r: Mapping[tuple[int, str], Mapping[str, np.ndarray[Any, Any]]]

    @classmethod
    def read(cls, path: Path) -> "Study":
        """The result of `verify phase`."""
        content = read_document(path)
        rows = content["rows"]
        hidden, readout = (sorted({Fraction(row[name]) for row in rows}) for name in ("c_hidden", "c_readout"))
        layers = dict(zip(dict.fromkeys(row["layer"] for row in rows), LAYERS, strict=True))
        r: dict[tuple[int, str], dict[str, Any]] = {}
        for row in rows:
            place = readout.index(Fraction(row["c_readout"])), hidden.index(Fraction(row["c_hidden"]))
            for name in ("measured", *COLUMNS):
                empty = np.full((len(readout), len(hidden)), np.nan)
                columns = r.setdefault((row["step"], layers[row["layer"]]), {}).setdefault(name, empty)
                columns[place] = np.nan if row[name] is None else float(Fraction(row[name]))
        return cls(content, hidden, readout, r)

    @property
    def steps(self) -> tuple[int, int]:
        """The first and the last measured step."""
        return min(step for step, _ in self.r), max(step for step, _ in self.r)

    @property
    def prescribed(self) -> tuple[float, float]:
        """(c_hidden, c_readout) that `derive` prescribes for full alignment."""
        return float(Fraction(self.content["prescribed"][1])), float(Fraction(self.content["prescribed"][-1]))

    @property
    def logits(self) -> float:
        """r_hat of the logits at the prescribed point after the first step."""
        hidden, readout = map(Fraction, self.prescribed)
        found = self.r[self.steps[0], "logits"]["measured"]
        return float(found[self.c_readout.index(readout), self.c_hidden.index(hidden)])

    def signs(self, r: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """-1, 0, 1 where r is below, within and above the tolerance."""
        return np.where(np.abs(r) <= self.content["tolerance"], 0, np.sign(r))

    def agreement(self, step: int, layer: str, prediction: str) -> Mapping[str, Any]:
        """How the prediction did over the plane: points, within, same_region, median_error."""
        names = dict(zip(dict.fromkeys(row["layer"] for row in self.content["rows"]), LAYERS, strict=True))
        keys = {column: key for key, column in zip(("full", "measured", "finite"), COLUMNS, strict=True)}
        return next(
            each
            for each in self.content["agreement"]
            if (each["step"], names[each["layer"]], each["prediction"]) == (step, layer, keys[prediction])
        )


def plane(study: Study, step: int, title: str) -> Figure:
    """Features above logits, one prediction per column: r_hat as colour and sign, predicted boundaries as lines."""
    figure = Figure(figsize=(7.8, 7.8))
    axes = figure.subplots(len(LAYERS), len(PREDICTED), sharex=True, sharey=True)
    x, y = (np.array(values, dtype=float) for values in (study.c_hidden, study.c_readout))
    image = None
    for line, layer in enumerate(LAYERS):
        r = study.r[step, layer]
        for axis, (column, heading) in zip(axes[line], PREDICTED.items(), strict=True):
            image = axis.pcolormesh(x, y, r["measured"], cmap=COLOURS, vmin=-1, vmax=1, rasterized=True)
            for (row, place), sign in np.ndenumerate(study.signs(r["measured"])):
                colour = "white" if r["measured"][row, place] < -0.6 else "#303030"
                at = (x[place], y[row])
                axis.text(*at, SIGNS.get(sign, "×"), fontsize=7, color=colour, ha="center", va="center")
            _boundaries(axis, x, y, r[column], study.content["tolerance"])
            _labels(axis, x, y, study.signs(r[column]), layer)
            axis.plot(*study.prescribed, marker="*", markersize=13, color="#ffd400", markeredgecolor="black", zorder=4)
            found = study.agreement(step, layer, column)
            axis.set_title(
                f"{heading}\n{layer}: in the predicted region {found['same_region']} of {found['points']}", fontsize=9
            )
            axis.set(xticks=x[::2], yticks=y[::2])
            axis.set_xticklabels([str(each).replace("-", "−") for each in study.c_hidden[::2]])
            axis.set_yticklabels([str(each).replace("-", "−") for each in study.c_readout[::2]])
        axes[line, 0].set_ylabel("$c$ of the readout")
    for axis in axes[-1]:
        axis.set_xlabel("$c$ of hidden layers")
    bar = figure.colorbar(image, ax=axes, shrink=0.5, extend="both")  # type: ignore[arg-type]
    bar.set_label(r"measured $\hat r$,  RMS$(\Delta z) = n^{-\hat r}$")
    figure.suptitle(title)
    figure.legend(handles=_handles(study.content["tolerance"]), loc="outside lower center", ncols=4)
    return figure


LINES: Mapping[int, Any] = {-1: "solid", 1: (0, (3, 1.5))}


def _boundaries(axis: Any, x: Any, y: Any, r: Any, tolerance: float) -> None:
    """Where predicted r passes the tolerance, up to the edges of the outermost cells."""
    half = np.diff(x)[0] / 2, np.diff(y)[0] / 2
    wide, tall = (np.concatenate([[v[0] - h], v, [v[-1] + h]]) for v, h in zip((x, y), half, strict=True))
    for sign, dashes in LINES.items():
        if np.nanmin(r) < sign * tolerance < np.nanmax(r):
            padded = np.pad(r, 1, mode="edge")
            lines = axis.contour(
                wide, tall, padded, levels=[sign * tolerance], colors="black", linewidths=1.8, linestyles=[dashes]
            )
            lines.set_path_effects([withStroke(linewidth=3.4, foreground="white")])


def _labels(axis: Any, x: Any, y: Any, signs: Any, layer: str) -> None:
    """The name of every predicted region where it is widest, upright where it is but a strip."""
    for sign, name in NAMES.items():
        if (signs == sign).sum() < 3:
            continue
        depth: Any = distance_transform_edt(np.pad(signs == sign, 1))[1:-1, 1:-1]  # type: ignore[index]
        rows, columns = np.nonzero(depth == depth.max())
        row = rows[np.argmin(np.abs(rows - 2 / 3 * len(y)))]
        own = columns[rows == row]
        strip = depth.max() == 1 and len(own) == 1
        if (layer, sign) == ("features", 0):
            name = "feature learning" if strip else "feature\nlearning"
        box = {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": "none", "alpha": 0.9}
        style: Any = {"fontsize": 8.5, "weight": "bold", "ha": "center", "va": "center", "bbox": box}
        axis.text(float(x[own].mean()), float(y[row]), name, rotation=90 if strip else 0, **style)


def _handles(tolerance: float) -> list[Line2D]:
    line: Any = {"color": "black", "linewidth": 1.8}
    return [
        Line2D([], [], linestyle=LINES[-1], label=f"predicted $r = -{tolerance:g}$", **line),
        Line2D([], [], linestyle=LINES[1], label=f"predicted $r = +{tolerance:g}$", **line),
        Line2D(
            [],
            [],
            color="#ffd400",
            marker="*",
            markersize=11,
            markeredgecolor="black",
            linestyle="",
            label="prescribed",
        ),
        Line2D([], [], linestyle="", label=rf"$-\ 0\ +$  measured $\hat r$ below, within, above $\pm${tolerance:g}"),
    ]


def agreement(study: Study, title: str) -> Figure:
    """r_hat against r by each of the three predictions, after the first step and after the last."""
    figure = Figure(figsize=(8.6, 3.6))
    axes = figure.subplots(1, len(COLUMNS), sharex=True, sharey=True)
    looks = dict(zip(study.steps, (("#000000", "o"), ("#d55e00", "^")), strict=True))
    tolerance, ends = study.content["tolerance"], np.array([-3.2, 1.1])
    for axis, (column, heading) in zip(axes, COLUMNS.items(), strict=True):
        axis.fill_between(ends, ends - tolerance, ends + tolerance, color="#d9d9d9", linewidth=0)
        axis.plot(ends, ends, color="#808080", linewidth=0.8)
        for step, (colour, marker) in looks.items():
            known = [study.r[step, layer] for layer in LAYERS]
            points = [np.concatenate([each[name].ravel() for each in known]) for name in (column, "measured")]
            label = f"after {step} step{'s' if step > 1 else ''}"
            axis.plot(*points, marker, color=colour, markersize=3.2, fillstyle="none", markeredgewidth=0.7, label=label)
        axis.set(xlabel="predicted $r$", xlim=ends, ylim=(-1.6, 1.1), title=heading)
    axes[0].set_ylabel(r"measured $\hat r$")
    axes[0].legend(loc="upper left")
    figure.suptitle(title)
    return figure
