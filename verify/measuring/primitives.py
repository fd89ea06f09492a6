"""JAX's primitives by what they do to sizes and changes; `verify.model.graph.rules.groups` has the rule of each set."""

from fractions import Fraction

HALF = Fraction(1, 2)

LINEAR = frozenset(
    [
        "reshape",
        "transpose",
        "squeeze",
        "expand_dims",
        "rev",
        "copy",
        "copy_p",
        "convert_element_type",
        "reduce_precision",
        "neg",
        "real",
        "imag",
        "broadcast_in_dim",
        "tile",
        "slice",
        "dynamic_slice",
        "split",
        "unstack",
        "pad",
        "roll",
        "stop_gradient",
        "optimization_barrier",
        "sharding_constraint",
        "mesh_cast",
        "reshard",
        "device_put",
        "pvary",
        "layout_constraint",
        "reduce_max",
        "reduce_min",
        "cummax",
        "cummin",
        "sort",
        "top_k",
        "approx_top_k",
        "name",
        "pmax",
        "pmin",
        "conj",
        "reduce_and",
        "reduce_or",
        "reduce_xor",
    ]
)
"""Moves entries or picks among them: sizes and changes stay."""
SUMS = frozenset(["reduce_sum", "cumsum", "reduce_window_sum", "psum"])
ADDITIVE = frozenset(
    [
        "add",
        "add_any",
        "sub",
        "max",
        "min",
        "select_n",
        "clamp",
        "concatenate",
        "stack",
        "complex",
        "nextafter",
        "dynamic_update_slice",
        "scatter",
        "scatter-add",
        "scatter_add",
        "scatter-sub",
        "scatter-min",
        "scatter_min",
        "scatter-max",
        "scatter_max",
        "select_and_gather_add",
        "reduce_window_max",
        "reduce_window_min",
        "clamp",
    ]
)
"""The change is the largest of the operands' changes."""
PRODUCTS = frozenset(["mul", "div"])
POWERS = {
    "sqrt": HALF,
    "rsqrt": -HALF,
    "cbrt": Fraction(1, 3),
    "square": Fraction(2),
    "abs": Fraction(1),
    "log": Fraction(0),
}
"""Homogeneous functions with their degree: f(tx) = t^p f(x); log(tx) is log(x) but for log(t), which counts as n^0."""
BOUNDED = frozenset(["exp", "exp2", "cos", "cosh", "acos", "logistic", "erfc", "bessel_i0e"])
"""Functions with f(0) other than 0."""
SMOOTH = frozenset(
    [
        "tanh",
        "sin",
        "tan",
        "sinh",
        "erf",
        "erf_inv",
        "log1p",
        "expm1",
        "asin",
        "atan",
        "asinh",
        "bessel_i1e",
        "atanh",
    ]
)
"""Functions of entries with f(0) = 0, without a degree."""
AT_SIZE_1 = frozenset(
    [
        "acosh",
        "atan2",
        "digamma",
        "igamma",
        "igamma_grad_a",
        "igammac",
        "lgamma",
        "polygamma",
        "pow",
        "regularized_incomplete_beta",
        "rem",
        "zeta",
    ]
)
"""Functions of one or several entries that have a pole at 0, or that go by which is the smaller."""
DISCRETE = frozenset(
    [
        "eq",
        "ne",
        "lt",
        "le",
        "gt",
        "ge",
        "is_finite",
        "sign",
        "floor",
        "ceil",
        "round",
        "argmax",
        "argmin",
        "and",
        "or",
        "not",
        "xor",
        "eq_to",
        "le_to",
        "lt_to",
        "iota",
        "shift_left",
        "shift_right_logical",
        "shift_right_arithmetic",
        "population_count",
        "clz",
        "bitcast_convert_type",
        "mulhi",
        "random_bits",
        "random_clone",
        "random_fold_in",
        "random_seed",
        "random_split",
        "random_unwrap",
        "random_wrap",
        "rng_bit_generator",
        "iota_2x32_shape",
        "philox2x32",
        "philox4x32",
        "threefry2x32",
        "threefry4x32",
        "create_token",
        "after_all",
        "platform_index",
        "dim_as_value",
        "dimension_size",
    ]
)
"""Functions whose value is one of few, or random bits: it does not follow small changes."""
JOINS = frozenset(["concatenate", "stack", "add", "add_any", "sub", "dynamic_update_slice", "select_n", "complex"])
"""Results that are sums of their operands in the places that these have."""
COMPARISONS = frozenset(["eq", "ne", "lt", "le", "gt", "ge"])
SCATTERS = frozenset(
    [
        "scatter",
        "scatter-add",
        "scatter_add",
        "scatter-sub",
        "scatter-min",
        "scatter_min",
        "scatter-max",
        "scatter_max",
        "scatter-mul",
        "scatter_mul",
    ]
)
EXTREMES = frozenset(["scatter-min", "scatter_min", "scatter-max", "scatter_max"])
"""Scatters that begin from a number that no entry reaches."""
FACTORISATIONS = frozenset(
    [
        "cholesky",
        "cholesky_update",
        "geqp3",
        "geqrf",
        "hessenberg",
        "ormqr",
        "symmetric_product",
        "cumprod",
        "cumlogsumexp",
        "eig",
        "eigh",
        "householder_product",
        "lu",
        "lu_pivots_to_permutation",
        "qr",
        "reduce_prod",
        "schur",
        "svd",
        "triangular_solve",
        "tridiagonal",
        "tridiagonal_solve",
    ]
)
"""Functions of several entries without a degree; only where no axis of theirs grows can it be told what they do."""
NONNEGATIVE = frozenset(["square", "abs", "exp", "exp2", "logistic", "sqrt", "rsqrt"])
BROADCAST = PRODUCTS | AT_SIZE_1 | {"add", "add_any", "sub", "max", "min"}
"""Takes operands of one entry along an axis for as many as the others have."""
ENTRYWISE = (
    BROADCAST
    | POWERS.keys()
    | BOUNDED
    | SMOOTH
    | DISCRETE
    | {"integer_pow", "select_n", "clamp", "nextafter", "scatter", "scatter-add", "scatter_add", "dynamic_update_slice"}
)
"""Gives as many entries as there were, each from one of every operand: a vector of size 1 stays one."""
