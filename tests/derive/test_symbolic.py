"""Answers with symbols agree with the numeric ones under any substitution."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Rational, Symbol

from derive.solve import prescribe
from derive.words import text

twelfths = st.integers(-6, 12).map(lambda i: Rational(i, 12))
KEYS = ("hidden.alpha", "hidden.omega", "hidden.u", "readout.alpha", "readout.omega", "readout.u")
NAMES: dict[str, str] = dict(zip(KEYS, ("x", "y", "z", "p", "q", "s"), strict=True))
OPTIMIZERS = ("sgd", "adam", "adafactor", "muon", "adam,hidden=muon")


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(OPTIMIZERS),
    st.sampled_from(["sp", "ntk", "mup", "mfp"]),
    st.fixed_dictionaries(dict.fromkeys(KEYS, twelfths)),
    st.sets(st.sampled_from(KEYS), min_size=1, max_size=3),
    st.sampled_from([{}, {"loss": "ce"}, {"global_rate": True}]),
)
def test_symbols_then_numbers_is_numbers(
    optimizer: str, scheme: str, values: dict[str, Any], symbolic: set[str], options: dict[str, Any]
) -> None:
    def answer(as_symbols: set[str]) -> Any:
        parts = [f"{key}={NAMES[key] if key in as_symbols else values[key]}" for key in KEYS]
        return prescribe(optimizer, scheme, ",".join(parts), hidden_layers=2, **options)

    with_symbols, exact = answer(symbolic), answer(set())
    at = {Symbol(NAMES[key], real=True): values[key] for key in symbolic}
    assert tuple(c.xreplace(at) for c in with_symbols.c) == exact.c
    assert [layer.r.xreplace(at) for layer in with_symbols.layers] == [layer.r for layer in exact.layers]
    if with_symbols.unique is not None:
        assert with_symbols.unique == exact.unique
    if with_symbols.feature_learning is not None:
        assert with_symbols.feature_learning == exact.feature_learning


def test_a_symbol_gives_a_short_answer() -> None:
    """An alignment is at most 1, which the engine uses: alpha = x beside u = 1 changes nothing."""
    assert [text(c) for c in prescribe("adam", "sp", "alpha=x").c] == ["0", "1", "1"]
    answer = prescribe("adam", "sp", "alpha=x,u=x")
    assert [text(c) for c in answer.c] == ["0", "x", "x"]
    assert answer.unique and answer.feature_learning


@pytest.mark.parametrize("layers", [1, 4])
def test_one_symbol_for_omega_of_the_readout_gives_the_feature_learning_threshold(layers: int) -> None:
    """r_L = max(0, omega - 1/2) for SP: features are learned up to omega = 1/2 of the readout.

    See docs/theory.md, section 2.
    """
    answer = prescribe("adam", "sp", "readout.omega=y", hidden_layers=layers)
    assert text(answer.layers[-2].r) == "max(0, y - 1/2)"
    assert answer.feature_learning is None
