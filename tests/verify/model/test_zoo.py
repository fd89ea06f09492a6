"""Every model of the zoo has the roles, rates and gradients that are right by hand, on its page and in networks."""

from dataclasses import replace
from fractions import Fraction

import pytest

from benchmarks.zoo.answers import answer, by_hand
from benchmarks.zoo.measuring import Measured, measured, stored
from benchmarks.zoo.notes import NOTES
from benchmarks.zoo.page import WITHIN, counts, line, off, reason, wrong
from tests.helpers.paths import ROOT
from tests.helpers.zoo import FAMILIES, ZOO
from tests.helpers.zoo.model import means

PAGE = (ROOT / "docs" / "zoo.md").read_text(encoding="utf-8")
MEASURED = [name for name, model in ZOO.items() if not model.refused and not model.not_measured]
CHEAP = ("two inputs", "highway")
ODD = ("nerf", "mamba")
"""A part of fixed size is joined to one that grows: exponents hang on both widths."""


LARGE = ("flax lm1b", "flax vit", "convolutions", "llama", "universal", "lru", "mamba", "t5", "tcn", "dit")
"""They take seconds each to trace; others of their kind do not."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in ZOO]
)
def test_roles_rates_and_gradients_are_right_by_hand_and_on_the_page(name: str) -> None:
    model, given = ZOO[name], answer(ZOO[name])
    found = stored().get(name)
    assert line(name, model, given, found) in PAGE
    if model.refused:
        assert model.refused in given.refusal and "\n" not in given.refusal
        return
    right = by_hand(model, list(given.parameters))
    differ = {path for path, each in given.parameters.items() if each != right.parameters[path]}
    known = {path for path in given.parameters if any(means(pattern, path) for pattern in model.wrong)}
    assert differ == known, {path: (given.parameters[path], right.parameters[path]) for path in differ ^ known}
    assert given.multipliers == right.multipliers
    if found is not None and name not in ODD:
        said = {row.name: row.said for row in found.rows if row.quantity == "g"}
        assert said == {path: float(given.parameters[path].gradient) for path in said}, "measure again"


def test_a_wrong_role_rate_or_gradient_by_hand_is_seen() -> None:
    model = ZOO["highway"]
    given = answer(model)
    paths = list(given.parameters)
    assert given == by_hand(model, paths)
    for mistaken in (
        replace(model, hidden="w.w"),
        replace(model, readout=""),
        replace(model, untrained="in"),
        replace(model, rates={"carry.b": 1}),
        replace(model, gradients={"w.b": Fraction(1, 2)}),
        replace(model, later={"w.b": Fraction(1, 2)}),
        replace(model, multipliers={"out": 1}),
    ):
        assert given != by_hand(mistaken, paths)


def test_the_page_has_all_that_is_off_and_wrong() -> None:
    found = {name: each for name in ZOO if (each := stored().get(name))}
    listed = PAGE.split("## Off by more than 0.1")[1]
    assert set(off(found)) == {each for each in listed.splitlines() if each.startswith("| ") and "why" not in each}
    assert counts([row for each in found.values() for row in each.rows]) in listed
    assert all(each in PAGE.split("## What is known")[1] for each in wrong())
    assert all(f"## {family}" in PAGE for family in FAMILIES)


def test_what_networks_show_is_within_a_tenth_or_has_a_reason() -> None:
    found = stored()
    assert found.keys() == set(MEASURED)
    for name, each in found.items():
        assert len(each.widths) == 3
        assert not [row for row in each.rows if reason(name, row) == "?"]
        assert {row.quantity for row in each.rows} == {"g", "s", "r"}


def test_every_note_is_about_a_row_that_is_off() -> None:
    found = stored()
    for name, notes in NOTES.items():
        used = {reason(name, row) for row in found[name].rows}
        assert set(notes.values()) <= used


def differing(name: str, found: Measured) -> list[str]:
    return [
        f"{row.quantity} {row.name} {row.measured} for {row.said}" for row in found.rows if reason(name, row) == "?"
    ]


@pytest.mark.parametrize("name", ["highway", pytest.param("two inputs", marks=pytest.mark.slow)])
def test_networks_go_as_is_said(name: str) -> None:
    found = measured(ZOO[name], seeds=16, widths=(32, 64, 128))
    assert not differing(name, found)
    # And what goes otherwise is seen: half an exponent in every row.
    planted = [replace(row, said=row.said + 0.5, expected=None) for row in found.rows if row.half < WITHIN]
    assert planted and all(reason("none", row) == "?" for row in planted)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MEASURED if name not in CHEAP])
def test_all_networks_go_as_is_said(name: str) -> None:
    assert not differing(name, measured(ZOO[name]))


def test_forty_models_at_least_are_answered() -> None:
    """Of the kinds that people bring; those that are refused say why."""
    kinds = {
        "gpt",
        "bert",
        "t5",
        "llama",
        "parallel block",
        "gemma",
        "vit",
        "mixer",
        "convnext",
        "resnet",
        "u-net",
        "dit",
    }
    kinds |= {"mamba", "s4", "lru", "rwkv", "lstm", "gru", "gnn, sum", "gnn, max", "gnn, attention"}
    kinds |= {"experts", "experts, masked", "experts, ragged", "lora", "vq", "nerf", "policy", "dueling"}
    assert kinds <= set(MEASURED)
    assert len(MEASURED) >= 40
