"""Exponents along the batch B, below the critical one, and along the tokens T of a run (docs/theory.md, section 10).

A gradient is a signal of size 1 in noise of size B^-1/2. An update U has the size B^-s of its rule at that noise, and
the share of signal that the matrix has which gives U its direction: B^1/2 for g. There are T/B steps, so that the
same path per example asks for

    rate B^-s B^share / B = 1,   rate = B^(1 + s - share)      SGD: B;  Adam: B^1/2 (Malladi et al. 2205.10287)

The first moment has the noise of one batch where its beta is held, and one that B does not change where 1 - beta
goes as B, which keeps its memory in examples. Adam's rate is the same either way, because m counts as size and as
share alike. Where the moment is normalised by itself, as in sign(m), it is not.
"""

from collections.abc import Mapping
from typing import Literal

from sympy import Expr, S

from derive.axes import Axis, AxisRow
from derive.decays import DECAYS, Decay
from derive.errors import DeriveError
from derive.exponents import dominant
from derive.matrix_functions import first, second
from derive.optimizers import Optimizer
from derive.parameterizations import HALF
from derive.words import (
    FAN_IN,
    FAN_OUT,
    FIRST_MOMENT,
    GRADIENT,
    KINDS,
    PREVIOUS_GRADIENT,
    RANK,
    SECOND_MOMENT,
    SPREAD,
    WEIGHT,
    Kind,
    Sizes,
    text,
)

Betas = Literal["published", "scaled", "constant"]
BETAS: tuple[Betas, ...] = ("published", "scaled", "constant")
Horizon = Literal["none", "sde"]
HORIZONS: tuple[Horizon, ...] = ("none", "sde")


def batch_rate(optimizer: Optimizer, memory: Expr) -> tuple[Expr, Sizes]:
    """(x of rate B^-x, the sizes it comes from) where the first moment's noise is B^-memory.

    DeriveError for a rule of negative degree in the gradient.
    """
    sizes: Sizes = {
        RANK: S.Zero,
        SPREAD: S.Zero,
        GRADIENT: HALF,
        PREVIOUS_GRADIENT: HALF,
        FIRST_MOMENT: memory,
        SECOND_MOMENT: S.One,
        WEIGHT: S.Zero,
        FAN_IN: S.Zero,
        FAN_OUT: S.Zero,
    }
    sizes = optimizer.with_epsilons(sizes)
    size = optimizer.size_at(sizes)
    if optimizer.gradient_degree((S.Zero, S.Zero), HALF).is_negative:
        raise DeriveError(
            f"{optimizer.name} turns a gradient's size round, and the inverse of signal and noise does not go along "
            "the signal: its batch rule depends on what its factors average, which the rule does not say"
        )
    directed = dominant(optimizer.first_rule, sizes)
    share = memory if directed.has(FIRST_MOMENT) else HALF
    return share - 1 - size, sizes


def batch_row(optimizer: Optimizer, betas: Betas, decay: Decay) -> tuple[AxisRow, str | None]:
    """One layer's exponents x of B^-x, and the sentence that says which betas they are for where that matters."""
    rule = optimizer.first_rule
    averages = rule.has(FIRST_MOMENT, SECOND_MOMENT, first, second)
    (held, held_sizes), (scaled, scaled_sizes) = (batch_rate(optimizer, memory) for memory in (HALF, S.Zero))
    if rule.has(first) and betas == "scaled":
        raise DeriveError(
            f"--betas scaled: {optimizer.name} averages a function of the gradient, whose noise is not known where "
            "1 - beta goes with the batch; use --betas constant"
        )
    agree = held == scaled and not rule.has(first)
    follows = betas == "scaled" or (betas == "published" and agree)
    c, sizes = (scaled, scaled_sizes) if follows else (held, held_sizes)
    note = None
    if held != scaled:
        chosen, other = ("1 - beta of B^1", "beta held") if follows else ("beta held", "1 - beta of B^1")
        power = text(-(held if follows else scaled))
        note = f"{optimizer.name}: c is for {chosen}; with {other} the rate goes as B^{power}"
    independent = -S.One - c
    share = DECAYS.get(decay, S.One)
    names = {symbol.name.replace("eps", "epsilon"): sizes[symbol] for symbol in optimizer.epsilon_companions}
    row = AxisRow(c=c, decay=share * independent, beta=(-S.One if follows else S.Zero) if averages else None, **names)
    return row, note


def batch_axis(
    optimizers: Mapping[Kind, Optimizer],
    betas: Betas = "published",
    decay: Decay = "independent",
    sizes: tuple[int, int] | None = None,
) -> Axis:
    """The rows of every layer kind along the batch; nothing in them depends on the kind but its optimizer."""
    found = {kind: batch_row(optimizers[kind], betas, decay) for kind in KINDS}
    rows: dict[Kind, AxisRow] = {kind: found[kind][0] for kind in KINDS}
    lines = (
        ("signal 1, noise B^-1/2", "of a gradient below the critical batch; T examples are `T/B` steps"),
        *(
            (f"c = {text(row.c)}", f"{kind}: the same path per example, `rate x RMS(U)` x share of signal = B")
            for kind, row in rows.items()
        ),
    )
    notes = dict.fromkeys(note for _, note in found.values() if note)
    return Axis("batch", "B", rows, lines, None, sizes, tuple(notes))


def tokens_axis(batch: Axis, horizon: Horizon, sizes: tuple[int, int] | None = None) -> Axis:
    """The rows along the tokens of a run: nothing moves (none), or all of it goes as B/T (sde).

    `sde` is an assumption, that of Complete(d)P (2512.22382): a run of more tokens is the same stochastic
    differential equation, its noise lowered as a larger batch would raise it.
    """
    moved = -1 if horizon == "sde" else 0
    rows: dict[Kind, AxisRow] = {}
    for kind, row in batch.rows.items():
        rows[kind] = AxisRow(
            c=moved * row.c,
            decay=moved * row.decay,
            epsilon=None if row.epsilon is None else moved * row.epsilon,
            epsilon2=None if row.epsilon2 is None else moved * row.epsilon2,
            beta=None if row.beta is None else moved * row.beta,
        )
    said = {
        "none": "nothing moves with the tokens of a run: an assumption (--horizon sde is another)",
        "sde": "everything goes as B/T, the same stochastic differential equation at every length: an assumption",
    }[horizon]
    return Axis("tokens", "T", rows, ((f"horizon {horizon}", said),), None, sizes, (said,))
