"""The search for the best rate: reaches the minimum of any bowl, refines around it, and never depends on order."""

import math
import random
from collections.abc import Callable
from fractions import Fraction

import pytest

from verify.sweeps.search import Search

Loss = Callable[[float], float]


def complete(search: Search, loss: Loss) -> dict[Fraction, float]:
    """Everything the search asks for, answered round by round."""
    known: dict[Fraction, float] = {}
    while wanted := search.next(known):
        assert not set(wanted) & set(known), "asked twice"
        known |= {offset: loss(float(offset)) for offset in wanted}
    return known


@pytest.mark.parametrize("vertex", [-11.2, -7.0, -3.4, 0.0, 0.6, 5.5, 11.2])
def test_the_minimum_of_a_bowl_is_bracketed_at_half_an_octave_wherever_it_is(vertex: float) -> None:
    known = complete(Search(0.01), lambda x: (x - vertex) ** 2)
    best = min(known, key=known.__getitem__)
    assert abs(best - vertex) <= 0.5
    assert {best - Fraction(1, 2), best + Fraction(1, 2)} <= set(known)
    assert len(known) <= 9 + 8 + 2 + 2


def test_the_search_ends_at_its_reach_where_the_loss_falls_for_ever() -> None:
    known = complete(Search(1.0, count=5, reach=4), lambda x: -x)
    assert max(known) == 6 and len(known) < 12


def test_more_halvings_give_finer_spacing() -> None:
    for halvings in (0, 1, 2, 3):
        known = sorted(complete(Search(1.0, halvings=halvings), lambda x: (x - 0.3) ** 2))
        best = min(known, key=lambda x: (float(x) - 0.3) ** 2)
        place = known.index(best)
        assert known[place + 1] - best == best - known[place - 1] == Fraction(1, 2**halvings)


def test_divergence_on_one_side_or_everywhere() -> None:
    known = complete(Search(1.0), lambda x: math.nan if x > 1.2 else (x - 1) ** 2)
    assert min((v, k) for k, v in known.items() if math.isfinite(v))[1] == 1
    assert {Fraction(1, 2), Fraction(3, 2)} <= set(known)
    nothing = complete(Search(1.0), lambda _: math.nan)
    assert min(nothing) == -12 and max(nothing) == 4  # only smaller rates can help


def test_what_is_tried_does_not_depend_on_the_order_in_which_losses_arrive() -> None:
    def loss(x: float) -> float:
        return abs(x - 3.7) + 0.1 * math.sin(9 * x)

    expected = complete(Search(1.0, halvings=2), loss)
    chance = random.Random(0)
    for _ in range(200):
        known: dict[Fraction, float] = {}
        handed_out: list[Fraction] = []
        while True:
            handed_out += [each for each in Search(1.0, halvings=2).next(known) if each not in handed_out]
            if not handed_out:
                break
            offset = handed_out.pop(chance.randrange(len(handed_out)))
            known[offset] = loss(float(offset))
        assert known == expected


@pytest.mark.parametrize(
    ("also", "added"),
    [("2", []), ("4", [5]), ("6", [5, 6, 7]), ("-5", [-6, -5]), ("9/2", [5]), ("-9/2", [-5])],
)
def test_the_best_rate_of_another_width_is_covered_on_both_sides(also: str, added: list[int]) -> None:
    known = complete(Search(1.0), lambda x: x**2)
    assert Search(1.0).next(known, Fraction(also)) == added
    for first in added:  # whatever arrives first, the others are still asked for
        rest = [offset for offset in added if offset != first]
        assert Search(1.0).next({**known, Fraction(first): -1.0}, Fraction(also)) == rest
    assert not set(Search(1.0).next({}, Fraction(also))) - set(Search(1.0).start), "the search itself comes first"
