"""Largest stable rates as a recursion over the layers of a chain, for exact numbers, symbols, floats and jitted arrays.

For a chain the optimum of `derive.solve` is closed-form (docs/theory.md, section 5): targets t backward, rates forward.

    t_L = max(0, omega_{L+1} - a_{L+1} - b_{L+1}),   t_{l-1} = max(0, t_l + omega_l - a_l - b_l)
    d_1 = t_1,   d_l = t_l + max(alpha_l, u_l - r_{l-1}),   d_l >= a_l + b_l where the layer is bounded
"""

from collections.abc import Sequence

from sympy import Expr, S

from derive.propagation import Chain, Extremum, Number


def least_residuals(
    a: Sequence[Number],
    b: Sequence[Number],
    omega: Sequence[Number],
    *,
    cross_entropy: bool = False,
    maximum: Extremum = max,
) -> list[Number]:
    """t_l: the least r_l with which every later layer can be r >= 0 in spite of its W dz term.

    t_{L+1} = 0 and t_{l-1} = max(0, t_l + omega_l - a_l - b_l); for cross-entropy the readout asks for nothing.
    """
    zero = a[0] * 0
    t = [zero] * len(a)
    for layer in range(len(a) - 1, 0, -1):
        free = cross_entropy and layer == len(a) - 1
        t[layer - 1] = zero if free else maximum(zero, t[layer] + omega[layer] - a[layer] - b[layer])
    return t


def largest_rates(
    a: Sequence[Number],
    b: Sequence[Number],
    s: Sequence[Number],
    alpha: Sequence[Number],
    omega: Sequence[Number],
    u: Sequence[Number],
    bounded: Sequence[bool],
    *,
    cross_entropy: bool = False,
    maximum: Extremum = max,
    minimum: Extremum = min,
) -> tuple[list[Number], list[Number]]:
    """(c, r): the largest stable rates n^-c_l and the residuals RMS(Delta z_l) = n^-r_l they leave.

    Sequences run over layers, embedding first; `bounded` layers keep d_l >= a_l + b_l, so that their updates
    do not outgrow their weights. Needs only +, -, max and min of its numbers. Everett et al. 2024, section 3,
    solved as in theory 5.
    """
    depth = len(a)
    targets = least_residuals(a, b, omega, cross_entropy=cross_entropy, maximum=maximum)
    d: list[Number] = []
    r: list[Number] = []
    for layer in range(depth):
        # r of an unbounded layer is its target: the W dz term is never smaller, since r_{l-1} >= t_{l-1}.
        own = maximum(alpha[layer], u[layer] - r[-1]) if layer else a[0] * 0
        change, residual = targets[layer] + own, targets[layer]
        if bounded[layer]:
            change = maximum(change, a[layer] + b[layer])
            residual = change - own
            if layer:
                residual = minimum(residual, a[layer] + b[layer] + r[-1] - omega[layer])
        d.append(change)
        r.append(residual)
    return [d_l - a_l - s_l for d_l, a_l, s_l in zip(d, a, s, strict=True)], r


def global_rate(chain: Chain, maximum: Extremum, minimum: Extremum) -> Expr:
    """The smallest c, the same for all layers, at which every r_l >= 0.

    r_l is the minimum of linear functions of c, kept here as {slope: smallest intercept}; d_l has two of them,
    with the gradient at initialisation and with the one that the readout's update leaves. For cross-entropy the
    readout's terms drop.
    """
    a, b = chain.a, chain.b
    readout = chain.s[-1] - b[-1]
    needed: list[Expr] = []
    before: dict[Expr, Expr] = {}

    def lowest(pieces: list[tuple[Expr, Expr]]) -> dict[Expr, Expr]:
        kept: dict[Expr, list[Expr]] = {}
        for slope, intercept in pieces:
            kept.setdefault(slope, []).append(intercept)
        return {slope: minimum(*each) if len(each) > 1 else each[0] for slope, each in kept.items()}

    last = chain.depth - 1
    for layer in range(chain.depth):
        change: list[tuple[Expr, Expr]] = [(S.One, a[layer] + chain.s[layer])]
        if chain.growth[layer] > 0:
            factor = chain.growth[layer]
            change.append((1 + factor, change[0][1] + factor * readout))
        if chain.bounded[layer]:
            needed += [(a[layer] + b[layer] - intercept) / slope for slope, intercept in change]
        if layer == last and chain.loss == "ce":
            break
        pieces = change
        if layer > 0:
            pieces = [(slope, intercept - chain.alpha[layer]) for slope, intercept in change]
            for slope, intercept in before.items():
                pieces += [(slope + own, intercept + value - chain.u[layer]) for own, value in change]
                pieces.append((slope, intercept + a[layer] + b[layer] - chain.omega[layer]))
        before = lowest(pieces)
        needed += [-intercept / slope for slope, intercept in before.items()]
    return maximum(*needed) if len(needed) > 1 else needed[0]
