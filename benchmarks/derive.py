"""Speed of `derive`, each number beside its floor, measured in one run.

    python -m benchmarks.derive [--rounds 15]

Needs the `benchmark` dependency group (scipy). Ratios and medians are meant to be read, not seconds.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from random import Random
from typing import Any

import numpy as np
from scipy.optimize import linprog
from sympy import Rational

from benchmarks.results import arguments, report
from derive.alignments import Alignment, Ratios
from derive.parameterizations import SP
from derive.propagation import Chain, Problem, constraints, symbols
from derive.recursion import largest_rates
from derive.registry import optimizer

HIDDEN_LAYERS = 18  # 20 layers with embedding and readout


def median_seconds(action: Callable[[], object], rounds: int) -> float:
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def random_chain() -> Chain:
    generator = Random(0)

    def ratios() -> Ratios:
        return Ratios(*(Rational(generator.randint(0, 12), 12) for _ in range(3)))

    layers = {index: ratios() for index in range(HIDDEN_LAYERS)}
    adam = optimizer("adam")
    alignment = Alignment("random", ratios(), ratios(), layers)
    return Problem({"embedding": adam, "hidden": adam, "readout": adam}, SP, alignment, HIDDEN_LAYERS).chain()


def program(chain: Chain) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(objective, matrix, bound) of the printed constraints: minimise objective x with matrix x <= bound."""
    variables = [*symbols("c", chain.depth), *symbols("r", chain.depth)]
    matrix, bound = [], []
    for each in constraints(chain):
        sign = 1 if type(each.relation).__name__ == "LessThan" else -1
        difference = (sign * (each.relation.lhs - each.relation.rhs)).expand()
        matrix.append([float(difference.coeff(variable)) for variable in variables])
        bound.append(-float(difference.subs(dict.fromkeys(variables, 0))))
    objective = np.array([1.0] * chain.depth + [0.0] * chain.depth)
    return objective, np.array(matrix), np.array(bound)


def recursion(rounds: int) -> dict[str, float]:
    """The closed form on a 20-layer chain against HiGHS on the same program."""
    chain = random_chain()
    sequences: list[Sequence[Any]] = [chain.a, chain.b, chain.s]
    sequences += [(Rational(0), *values[1:]) for values in (chain.alpha, chain.omega, chain.u)]
    fractions = [[Fraction(str(value)) for value in values] for values in sequences]
    floats = [[float(value) for value in values] for values in sequences]
    objective, matrix, bound = program(chain)

    def highs() -> float:
        return linprog(objective, matrix, bound, bounds=(None, None), method="highs").fun

    closed = sum(largest_rates(*floats, chain.bounded)[0])  # type: ignore[call-arg]
    assert abs(closed - highs()) < 1e-9, "the closed form and HiGHS disagree"
    in_floats = median_seconds(lambda: largest_rates(*floats, chain.bounded), 40 * rounds)  # type: ignore[call-arg]
    exact = median_seconds(lambda: largest_rates(*fractions, chain.bounded), 10 * rounds)  # type: ignore[call-arg]
    floor = median_seconds(highs, rounds)
    return {
        "layers": chain.depth,
        "highs_ms": floor * 1e3,
        "floats_ms": in_floats * 1e3,
        "fractions_ms": exact * 1e3,
        "highs_over_floats": floor / in_floats,
        "highs_over_fractions": floor / exact,
    }


def start_up(rounds: int) -> dict[str, float]:
    """The whole `derive` process against its floor, `python -c "import sympy"`, taken in turns."""
    commands = {
        "import_sympy": [sys.executable, "-c", "import sympy"],
        "derive": [sys.executable, "-m", "derive", "--optimizer", "adam", "--parameterization", "sp"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - start)
    ratios = [whole / floor for whole, floor in zip(seconds["derive"], seconds["import_sympy"], strict=True)]
    return {
        "import_sympy_s": statistics.median(seconds["import_sympy"]),
        "derive_s": statistics.median(seconds["derive"]),
        "derive_over_import_sympy": statistics.median(ratios),
    }


def main() -> None:
    options = arguments(__doc__, rounds=15).parse_args()
    result = {
        "recursion": recursion(options.rounds),
        "process": start_up(options.rounds),
    }
    report("derive", result, options.out)


if __name__ == "__main__":
    main()
