"""The page of seventy-five rules: as derived now, as by hand for each family, as an LP has it, and in numpy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sympy import Rational, S

from derive.errors import DeriveError
from derive.optimizers import Optimizer
from derive.solve import prescribe
from tests.derive.test_optimality import linear_program, printed, rows_from_text
from tests.helpers.published_rules import PAGE, RULES, exponents, page

Matrix = Any
OTHER: dict[str, str] = {
    # c in SP, by hand: the size of the update of an example in the batch at rate 1.
    **dict.fromkeys(["nadam", "amsgrad", "adagrad", "adamax", "adabelief", "adan", "adam-mini", "qhadam"], "0, 1, 1"),
    **dict.fromkeys(["signum", "grams", "cautious-lion", "stable-adamw"], "0, 1, 1"),
    "padam": "-3/8, 5/8, 1",  # 3/4 of the gradient's 1/2, 1/2, 0 less than Adam
    "madgrad": "-1/6, 5/6, 1",  # a third of it
    **dict.fromkeys(["novograd", "clipped-sgd", "one-sided-shampoo", "muon-bp", "swan"], "-1/2, 0, 1/2"),
    "shampoo-squared": "-1/2, -1/2, 0",  # 1 / ||G||_op, of 0, 1/2, 1/2
    "distributed-shampoo": "0, 1, 1",  # entries alone, blocks being of a fixed size
    "spectral-descent": "-1/2, 1, 1",  # ||G||_F sqrt(n) at full rank
    "normuon-code": "0, 0, 1/2",
    "mars-m": "0, 1/2, 1",
    **dict.fromkeys(["fromage", "nero", "madam", "dog", "adam-hyperball"], "0, 1/2, 1/2"),  # steps of RMS(W)
    "exponentiated-gradient": "-1/2, 0, 1/2",  # of RMS(W) RMS(G)
    "apollo": "-1/2, 1/2, 1",  # 1/sqrt(fan_out) a column
}
REFUSED = {"adadelta", "agc", "larc", "l-bfgs", "adahessian"}


def test_the_page_is_what_is_derived() -> None:
    assert PAGE.read_text(encoding="utf-8") == page()
    assert len(RULES) == len({rule.name for rule in RULES}) == 75


def test_rates_by_hand() -> None:
    """Those of the registry are by hand in table 8's test."""
    found = {}
    for rule in RULES:
        try:
            found[rule.name] = ", ".join(exponents(rule)["sp"])
        except DeriveError as error:
            assert rule.name in REFUSED and str(error)
    assert {name: found[name] for name in OTHER} == OTHER
    assert set(found) == {rule.name for rule in RULES} - REFUSED


@pytest.mark.parametrize("scheme", ["sp", "mfp"])
def test_the_linear_program_has_the_same_optimum(scheme: str) -> None:
    for rule in RULES:
        if rule.name not in REFUSED:
            answer = prescribe(Optimizer(rule.name, str(rule.update)), scheme, "alpha=3/4,omega=1/2,u=2/3")
            rows = rows_from_text(answer.chain, printed(answer.chain))
            assert sum(answer.c) == linear_program(answer.chain, rows), rule.name


def polar(matrix: Matrix) -> Matrix:
    left, sigma, right = np.linalg.svd(matrix, full_matrices=False)
    kept = sigma > sigma[0] * 1e-6
    return left[:, kept] @ right[kept]


def rms(matrix: Matrix) -> float:
    return float(np.sqrt(np.mean(matrix**2)))


def evened(matrix: Matrix) -> Matrix:
    return matrix / np.sqrt(np.mean(matrix**2, axis=1, keepdims=True))


def blocks(matrix: Matrix, size: int = 16) -> Matrix:
    rows = [np.hsplit(half, matrix.shape[1] // size) for half in np.vsplit(matrix, matrix.shape[0] // size)]
    return np.block([[polar(block) for block in row] for row in rows])


SIMULATED: dict[str, Callable[[Matrix, Matrix], Matrix]] = {
    "normuon": lambda g, _w: evened(polar(g)) / rms(evened(polar(g))),
    "adamuon": lambda g, _w: np.sign(polar(g)),
    "polargrad": lambda g, _w: np.linalg.norm(g, "nuc") * polar(g),
    "grafted-shampoo": lambda g, _w: polar(g) / rms(polar(g)),
    "muon-hyperball": lambda g, w: np.linalg.norm(w) * polar(g) / np.linalg.norm(polar(g)),
    "normuon-code": lambda g, _w: evened(polar(g)) * np.linalg.norm(polar(g)) / np.linalg.norm(evened(polar(g))),
    "scion-row": lambda g, _w: g / np.linalg.norm(g, axis=1, keepdims=True) / np.sqrt(g.shape[1]),
    "distributed-shampoo": lambda g, _w: blocks(g),
    "swan": lambda g, _w: polar(g / np.linalg.norm(g, axis=1, keepdims=True)),
    "nero": lambda g, w: g * np.linalg.norm(w, axis=1, keepdims=True) / np.linalg.norm(g, axis=1, keepdims=True),
    "madam": lambda g, w: np.abs(w) * np.sign(g),
}


def simulated(name: str, rank: str, widths: tuple[int, ...]) -> float:
    """c with RMS(U x) = n^c for an x of the batch, on hidden layers of SP, whose gradients have entries n^-1/2."""
    sizes = []
    for n in widths:
        generator = np.random.default_rng(n)
        batch = 4 if rank == "one" else n
        x = generator.normal(size=(batch, n))
        gradient = generator.normal(size=(n, batch)) @ x
        gradient *= n**-0.5 / rms(gradient)
        sizes.append(rms(SIMULATED[name](gradient, generator.normal(size=(n, n)) / np.sqrt(n)) @ x.T))
    return float(np.polyfit(np.log(widths), np.log(sizes), 1)[0])


def derived(name: str, rank: str) -> float:
    rule = next(rule for rule in RULES if rule.name == name)
    row = Optimizer(rule.name, str(rule.update), rank=S.Zero if rank == "one" else S.One)
    entrywise = not row.needs_rank and not row.is_spectral
    answer = prescribe(row, "sp", "none" if entrywise and rank == "full" else "full")
    assert isinstance(answer.c[1], Rational)
    return float(answer.c[1])


@pytest.mark.parametrize("rank", ["one", "full"])
@pytest.mark.parametrize("name", SIMULATED)
def test_rates_in_numpy(name: str, rank: str) -> None:
    """At a batch of 4, and at one as large as the width, where examples do not align."""
    assert simulated(name, rank, (32, 128)) == pytest.approx(derived(name, rank), abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("rank", ["one", "full"])
@pytest.mark.parametrize("name", SIMULATED)
def test_rates_in_numpy_to_2048(name: str, rank: str) -> None:
    widths = (128, 256, 512, 1024, 2048)
    assert simulated(name, rank, widths) == pytest.approx(derived(name, rank), abs=0.05)
