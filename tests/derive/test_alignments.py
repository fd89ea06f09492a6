"""What `--alignment` reads: names, changes of them, and measurements in a file, each value where it belongs."""

import json
from pathlib import Path
from typing import Any

import pytest
from sympy import Rational, S, Symbol

from derive.alignments import FULL, NONE, PRIOR, Ratios, alignment, measured, measured_by_op
from derive.errors import DeriveError

HALF = Rational(1, 2)


def row(layer: str, quantity: str, value: Any, step: int = 1, **ends: Any) -> dict[str, Any]:
    return {"layer": layer, "quantity": quantity, "measured": value, "step": step, **ends}


def ops(step: int, **values: tuple[Any, Any, Any]) -> list[dict[str, Any]]:
    """Rows of alpha, omega and u by op; __ stands for a dot."""
    return [
        row(name.replace("__", "."), quantity, value, step)
        for name, of in values.items()
        for quantity, value in zip(("alpha", "omega", "u"), of, strict=True)
    ]


def write(folder: Path, rows: list[dict[str, Any]], **about: Any) -> Path:
    path = folder / "measured.json"
    path.write_text(json.dumps({"schema": 2, "rows": rows, **about}))
    return path


def exact(*values: str) -> Ratios:
    return Ratios(*map(Rational, values))


def test_names_and_their_changes() -> None:
    assert [alignment(name) for name in ("full", " None ", "prior")] == [FULL, NONE, PRIOR]
    changed = alignment("prior, omega=x")
    assert changed.hidden == Ratios(S.One, Symbol("x", real=True), S.One) == changed.readout
    assert changed.name == "prior, omega=x"
    assert alignment("readout.u=1/4").readout == Ratios(S.One, HALF, Rational(1, 4))
    assert alignment("readout.u=1/4").hidden == FULL.hidden


def test_single_layers_are_changed_after_their_kind() -> None:
    """hidden.2 follows what is said of hidden layers, wherever it stands, and keeps its own two changes."""
    found = alignment("hidden.2.u=0.25,hidden.alpha=0.75,hidden.0.omega=0.25,hidden.2.omega=0.125")
    assert found.hidden == exact("3/4", "1/2", "1")
    assert found.layers == {0: exact("3/4", "1/4", "1"), 2: exact("3/4", "1/8", "1/4")}
    assert [found.at("hidden", index) for index in range(3)] == [found.layers[0], found.hidden, found.layers[2]]
    assert (found.at("readout", 2), found.at("embedding"), found.at("hidden")) == (FULL.readout, None, found.layers[0])
    halved = found.replaced(lambda ratios: Ratios(ratios.alpha / 2, ratios.omega, ratios.u))
    assert [each.alpha for each in (halved.hidden, halved.readout, halved.layers[2])] == [
        Rational(3, 8),
        HALF,
        Rational(3, 8),
    ]


@pytest.mark.parametrize(
    "text", ["perfect", "alpha=1.01", "beta=1", "full,alpha", "hidden.u", "embedding.u=1", "full,"]
)
def test_what_is_no_alignment_is_refused(text: str) -> None:
    with pytest.raises(DeriveError):
        alignment(text)
    with pytest.raises(DeriveError, match="names no file"):
        alignment(" measured: ")


def test_the_last_step_of_a_chain_is_read_layer_by_layer(tmp_path: Path) -> None:
    early = ops(1, hidden__0=(0.1, 0.1, 0.1), hidden__1=(0.1, 0.1, 0.1), readout=(0.1, 0.1, 0.1))
    late = ops(7, hidden__0=(0.9, 0.5, 0.75), hidden__1=(0.8, 0.25, 1.5), readout=(1, 0.625, -0.125))
    path = write(tmp_path, [*late, *early, row("embedding", "alpha", None, 7), row("readout", "delta_z", 0.3, 9)])
    found = measured(path)
    first, second = exact("0.9", "0.5", "0.75"), exact("0.8", "0.25", "1")
    assert (found.layers, found.hidden, found.hidden_layers) == ({0: first, 1: second}, first, 2)
    assert found.readout == exact("1", "0.625", "-0.125")
    assert found.name == f"measured:{path}" and found.intervals is None
    assert found.notes == (
        "hidden.1 u measured 1.5 is above 1 and enters as 1",
        "read the last of 2 measured steps, 7",
    )
    by_op = {"hidden.0": first, "hidden.1": second, "readout": found.readout}
    assert measured_by_op(path) == by_op
    assert alignment(f"measured:{path}") == found


def test_both_ends_are_read_where_every_row_has_them(tmp_path: Path) -> None:
    rows = [
        {**each, "low": each["measured"] - 0.25, "high": each["measured"] + 0.125}
        for each in ops(1, hidden__0=(0.75, 0.5, 0.75), readout=(0.875, 0.5, 0.625))
    ]
    found = measured(write(tmp_path, rows))
    assert found.notes == () and found.intervals is not None
    low, high = found.intervals
    assert (low.hidden, low.readout) == (exact("1/2", "1/4", "1/2"), exact("5/8", "1/4", "3/8"))
    assert (high.hidden, high.readout) == (exact("7/8", "5/8", "7/8"), exact("1", "5/8", "3/4"))
    del rows[3]["low"]
    assert measured(write(tmp_path, rows)).intervals is None


def test_ops_that_are_no_chain_enter_with_their_largest(tmp_path: Path) -> None:
    values = {"attention": (0.75, 0.25, 0.5), "mlp": (0.5, 0.375, 0.625), "readout": (1, 1, 1)}
    path = write(tmp_path, ops(3, **values))
    found = measured(path)
    assert (found.hidden, found.layers, found.hidden_layers) == (exact("3/4", "3/8", "5/8"), {}, None)
    assert found.readout == exact("1", "1", "1") and "2 hidden ops that are no chain" in found.notes[0]
    alone = ops(3, readout=(1, 1, 1))
    for rows in (
        alone,
        ops(3, attention=(1, 1, 1), mlp=(1, 1, 1)),
        [each for each in alone if each["quantity"] != "u"],
    ):
        with pytest.raises(DeriveError):
            measured(write(tmp_path, rows))


def said(*rows: Any, schema: int = 2) -> str:
    return json.dumps({"schema": schema, "rows": rows})


BAD = {
    "{": "is not JSON",
    "[]": "is not a measurement",
    said(*ops(1, hidden__0=(1, 1, 1), readout=(1, 1, 1)), schema=3): "is not a measurement",
    json.dumps({"schema": 1, "rows": {}}): "is not a measurement",
    said(row("readout", "delta_z", 1), 3): "holds no alpha",
    said({"layer": "readout", "quantity": "u", "measured": 1}): "without layer and step",
    said({"step": 1, "quantity": "u", "measured": 1}): "without layer and step",
    said(*ops(1, hidden__0=(1, None, 1), readout=(1, 1, 1))): "no measured omega for 'hidden.0'",
    said(*ops(1, hidden__0=(1, 1e9, 1), readout=(1, 1, 1))): "no measured omega for 'hidden.0'",
    said(*ops(1, hidden__0=(1, 1e-31, 1), readout=(1, 1, 1))): "no measured omega for 'hidden.0'",
}


@pytest.mark.parametrize(("content", "problem"), BAD.items())
def test_what_is_no_measurement_is_refused(content: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "measured.json"
    path.write_text(content)
    with pytest.raises(DeriveError, match=problem):
        measured(path)
    with pytest.raises(DeriveError, match="cannot read"):
        measured(tmp_path / "nothing.json")


def test_numbers_are_exact_as_written(tmp_path: Path) -> None:
    """0, -0.0 and 0e5 are 0; 1e-29 is itself; a number of forty characters is none."""
    text = json.dumps({"schema": 1, "rows": ops(1, hidden__0=(1, "X", 1), readout=(1, 1, 1))})
    for written, value in (("0", 0), ("-0.0", 0), ("0e5", 0), ("1e-29", Rational("1e-29")), ("0.1", Rational(1, 10))):
        (tmp_path / "measured.json").write_text(text.replace('"X"', written))
        assert measured(tmp_path / "measured.json").hidden.omega == value
    for written, allowed in (("0." + "1" * 37, True), ("0." + "1" * 38, False)):
        (tmp_path / "measured.json").write_text(text.replace('"X"', written))
        if allowed:
            assert measured(tmp_path / "measured.json").hidden.omega == Rational(written)
        else:
            with pytest.raises(DeriveError):
                measured(tmp_path / "measured.json")
