"""The derived exponents are the published ones, exactly, whatever the depth."""

import json
from typing import Any

import pytest

from derive.cli import app
from derive.running import run
from tests.helpers.published import GRADIENTS, PARAMETERIZATIONS, RATES


def table(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[tuple[str, str, str], Any]:
    assert run(lambda: app(["table", "--format", "json", *arguments], standalone_mode=False), "derive") == 0
    found = json.loads(capsys.readouterr().out)["prescriptions"]
    return {(each["optimizer"], each["alignment"], each["parameterization"]): each for each in found}


@pytest.mark.parametrize("hidden_layers", [None, 1, 2, 8])
def test_the_24_triples_and_their_gradients(hidden_layers: int | None, capsys: pytest.CaptureFixture[str]) -> None:
    found = table(capsys, *([] if hidden_layers is None else ["--layers", str(hidden_layers)]))
    assert len(found) == 24
    depth = hidden_layers or 1
    for (optimizer, alignment), schemes in RATES.items():
        for scheme, (embedding, hidden, readout) in schemes.items():
            layers = found[optimizer, alignment, scheme.lower()]["layers"]
            assert [layer["c"] for layer in layers] == [embedding, *[hidden] * depth, readout]
            first, middle, last = GRADIENTS[scheme]
            assert [layer["g"] for layer in layers] == [first, *[middle] * depth, last]
            a, b = PARAMETERIZATIONS[scheme]
            assert tuple(layers[i]["a"] for i in (0, 1, -1)) == a
            assert tuple(layers[i]["b"] for i in (0, 1, -1)) == b
            assert all(layer["r"] == "0" for layer in layers[:-1])


def test_every_triple_of_the_table_learns_features(capsys: pytest.CaptureFixture[str]) -> None:
    assert all(each["feature_learning"] and each["unique"] for each in table(capsys).values())


@pytest.mark.parametrize(("first", "second"), [("sp", "ntk"), ("mup", "mfp")])
def test_symmetry_the_table_is_one_row_seen_in_two_gauges(
    first: str, second: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """c -> c - (1 + k - m) theta with theta = a' - a, the degrees written down here by hand."""
    from fractions import Fraction

    degrees = {"sgd": 2, "adam": 1, "adafactor": 0}
    found = table(capsys)
    for optimizer, degree in degrees.items():
        for alignment in ("full", "none"):
            one, other = (found[optimizer, alignment, name]["layers"] for name in (first, second))
            for left, right in zip(one, other, strict=True):
                theta = Fraction(right["a"]) - Fraction(left["a"])
                assert Fraction(right["c"]) == Fraction(left["c"]) - degree * theta
                if optimizer == "adam":
                    assert Fraction(right["epsilon"]) == Fraction(left["epsilon"]) + theta
