"""The page to play with says in a browser what the engine says, and everybody can use it."""

import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from sympy import Rational

from derive import explore
from derive.alignments import alignment
from derive.errors import DeriveError
from derive.explore import KEYS, SYMBOLS, entries, page
from derive.parameterizations import parameterization
from derive.propagation import Problem
from derive.solve import Prescription, solve_kinds
from derive.tables import checked_rates
from tests.browser import needs_browser, run_in_page

FEW = ("sgd", "adam", "adafactor", "polargrad", "prodigy", "mars", "adamw,hidden=muon", "g*sqrt(rms(w))")
SCHEMES = ("SP", "NTK", "muP", "MFP")
ONE_AT_A_TIME = """
return SETTINGS.map(given => {
  for (const [id, value] of Object.entries(given)) byId(id).value = value;
  byId("apart").checked = true;
  update();
  const found = answer(settings()), cells = id => [...byId(id).tBodies[0].rows].map(row => [...row.cells].map(cell => cell.textContent));
  return {c: found.c, r: found.r, e: found.e, decay: found.decay, binding: found.binding, table: cells("exponents"), numbers: cells("numbers"),
    words: byId("binding").textContent, notes: byId("notes").textContent, own: byId("own").textContent, verdict: byId("verdict").textContent};
});
"""


def drawn(count: int, names: list[str], generator: random.Random) -> list[dict[str, Any]]:
    """Settings by the controls' ids; sliders stand on their steps of 1/20, half of them where many constraints tie."""

    def ratio() -> str:
        return str(generator.choice((generator.randrange(21) / 20, generator.choice((0.5, 1.0)))))

    def beside() -> str:
        return str(generator.randrange(-20, 21) / 20)

    return [
        {
            "optimizer": names[at % len(names)],
            "scheme": generator.choice(SCHEMES),
            "loss": generator.choice(("mse", "ce")),
            **{symbol: ratio() for symbol in SYMBOLS},
            "c_h": beside(),
            "c_r": beside(),
            "c_e": str(generator.randrange(21) / 20),
        }
        for at in range(count)
    ]


def asked(given: dict[str, Any], rows: Any) -> Problem:
    """The engine's question for the page's setting."""
    assumed = ",".join(f"{key}={given[symbol]}" for key, symbol in zip(KEYS, SYMBOLS, strict=True))
    return Problem(rows, parameterization(given["scheme"]), alignment(assumed), loss=given["loss"])


def near(values: Any, exact: Any) -> bool:
    pairs = zip(values, exact, strict=True)
    return all(one == other if None in (one, other) else abs(one - float(other)) < 1e-9 for one, other in pairs)


def read(text: str) -> float | None:
    return None if text == "–" else float(Fraction(text.replace("−", "-")))


def compare(given: dict[str, Any], told: dict[str, Any], problem: Problem) -> None:
    answer = solve_kinds(problem)
    assert near(told["c"], answer.c), given
    assert near(told["e"], [layer.epsilon for layer in answer.layers]), given
    assert near(told["decay"], [layer.decay for layer in answer.layers]), given
    assert [tuple(each) for each in told["binding"]] == [layer.binding for layer in answer.layers], given
    shown = [[read(cell) for cell in row[1:4]] for row in told["table"]]
    assert all(
        row[0] == pytest.approx(float(layer.a)) and row[2] == pytest.approx(float(layer.c), abs=5e-5)
        for row, layer in zip(shown, answer.layers, strict=True)
    ), given
    factors = [16.0 ** -float(layer.c) * 0.003 for layer in answer.layers]
    assert [float(row[2]) for row in told["numbers"]] == pytest.approx(factors, rel=1e-3), given
    if told["r"] is None:
        return
    assert near(told["r"], [layer.r for layer in answer.layers]), given
    learns = "learns" if answer.feature_learning else "lazy" if answer.layers[1].r > 0 else "unstable"
    assert told["verdict"].lower().startswith(learns), given
    compare_notes(told["notes"], answer, given)


def compare_notes(shown: str, answer: Prescription, given: dict[str, Any]) -> None:
    said = " ".join(answer.notes)
    for here, there in (
        ("this layer diverges", " diverges (r ="),
        ("outgrows its weights", "hidden layers outgrows their weights"),
        ("for one hidden layer", "for one hidden layer"),
        ("right for the first step only", "right for the first step only"),
    ):
        assert (here in said) == (there in shown), (given, here)


def compare_own(given: dict[str, Any], told: dict[str, Any], problem: Problem) -> None:
    """The regime at rates of one's own, as `derive check` judges them."""
    if told["own"].startswith("No plane"):
        assert told["r"] is None or given["loss"] == "mse"
        return
    best = solve_kinds(problem).c
    rates = [c + Rational(given[id]) for c, id in zip(best, ("c_e", "c_h", "c_r"), strict=True)]
    if len(set(rates)) == 1:  # which `derive check` reads as one rate for all, by whose rule no rate is judged here
        return
    verdict = json.loads(checked_rates(problem, rates, "json", listed=False))
    learns = "learns features" in verdict["summary"] and "not" not in verdict["summary"]
    expected = "unstable" if not verdict["stable"] else "learns features" if learns else "lazy"
    assert re.search(r": (unstable|learns features|lazy)\.", told["own"])[1] == expected, (given, told["own"], verdict)  # type: ignore[index]


@needs_browser
@pytest.mark.parametrize(
    ("names", "count"), [(FEW, 64), pytest.param(explore.ALL, 500, marks=pytest.mark.slow)], ids=["few", "all"]
)
def test_random_settings_say_what_the_engine_says(names: tuple[str, ...], count: int, tmp_path: Path) -> None:
    """Set by the page's own controls: rates, what fixes them, residuals, regime, notes, numbers; one browser for all."""
    offered = entries(names)
    settings = drawn(count, list(offered), random.Random(7))
    told = run_in_page(page(names), f"const SETTINGS = {json.dumps(settings)}; {ONE_AT_A_TIME}", tmp_path)
    assert len(told) == count
    for given, each in zip(settings, told, strict=True):
        problem = asked(given, offered[given["optimizer"]])
        compare(given, each, problem)
        compare_own(given, each, problem)
