"""The rule of every primitive: what it does to sizes n^-e and changes n^-r, or why that cannot be told.

docs/primitives.md is made of this, and the walk over a program goes by it.
"""

from collections.abc import Collection, Mapping
from functools import cache
from typing import NamedTuple

from verify.measuring.jaxpr import CALLS, LABELS, RAGGED
from verify.measuring.primitives import (
    ADDITIVE,
    AT_SIZE_1,
    BOUNDED,
    DISCRETE,
    FACTORISATIONS,
    LINEAR,
    POWERS,
    PRODUCTS,
    SCATTERS,
    SMOOTH,
    SUMS,
)


class Group(NamedTuple):
    """Primitives with one rule, and what it says of sizes n^-e and changes n^-r; `refused`: why there is none."""

    members: Collection[str]
    what: str
    refused: bool = False


GROUPS: Mapping[str, Group] = {
    "call": Group(CALLS, "what its body does, once"),
    "scan": Group(["scan"], "what its body does, a turn at a time; as many turns at both widths"),
    "branches": Group(
        ["cond", "while"],
        "what its branches do, the largest of each; of a while what two turns do, where the second changes no size",
    ),
    "contraction": Group(
        [*LABELS, *RAGGED],
        "a use of the parameter, whose output starts at size 1 by its initial size; of two activations e_x + e_y, and "
        "r = min(r_x + e_y, r_y + e_x); a sum over n^f: changes align, r - f; a lookup has a fan-in of 1",
    ),
    "discrete": Group(DISCRETE, "one of few values or random bits: no change and no gradient passes"),
    "exponent": Group(["integer_pow"], "x^p, p a number: e p, r + (p - 1) e"),
    "moved": Group(LINEAR, "the same entries in another place, or some of them: e and r stay"),
    "summed": Group(SUMS, "a sum over n^f entries: e - f/2, e - f where none is negative; r - f, since changes align"),
    "transformed": Group(["fft"], "over n^f entries: e - f/2 and r - f/2, with + for the inverse"),
    "scattered": Group(SCATTERS, "written into an array, or added up over its share of the updates"),
    "added": Group(ADDITIVE, "a sum, a choice or a join: the smallest e and the smallest r"),
    "multiplied": Group(
        PRODUCTS, "x y: e_x + e_y, min(r_x + e_y, r_y + e_x); x / y: e_x - e_y, min(r_x - e_y, r_y + e_x - 2 e_y)"
    ),
    "power": Group(POWERS, "f(tx) = t^p f(x): e p, r + (p - 1) e"),
    "bounded": Group(BOUNDED, "a function with f(0) other than 0: e = 0, r stays; asks for r >= e of what enters"),
    "smooth": Group(SMOOTH, "a function with f(0) = 0: e and r stay, e >= 0; asks for r >= e of what enters"),
    "at size 1": Group(AT_SIZE_1, "of entries of size 1: e = 0, r stays; pow by a number as integer_pow; else refused"),
    "of several": Group(FACTORISATIONS, "of entries whose number stays: e = 0, r stays; else refused"),
    "silent": Group(
        ["debug_callback", "debug_print", "inspect_sharding", "check", "dce_sink", "shape_assertion"],
        "no result, or none that a value depends on",
    ),
    "devices": Group(
        [
            "all_gather",
            "all_gather_done",
            "all_gather_invariant",
            "all_gather_reduced",
            "all_gather_reduced_start",
            "all_gather_start",
            "all_to_all",
            "all_to_all_done",
            "all_to_all_start",
            "axis_index",
            "pbroadcast",
            "pbroadcast_done",
            "pbroadcast_start",
            "ppermute",
            "ppermute_done",
            "ppermute_start",
            "precv",
            "preduced",
            "psend",
            "psum_done",
            "psum_invariant",
            "psum_invariant_start",
            "psum_start",
            "ragged_all_to_all",
            "reduce_scatter",
            "reduce_scatter_done",
            "reduce_scatter_start",
            "reduced_vary_cast_p",
            "shard_alike",
            "shard_map",
            "unreduced_psum",
            "unreduced_psum_start",
            "unreduced_reduce_scatter",
            "unreduced_reduce_scatter_start",
            "vary_unreduced_cast_p",
        ],
        "passes values between devices by hand: give the function as it is on one, which jit shards",
        refused=True,
    ),
    "in place": Group(
        [
            "accum_grad_in_ref",
            "addupdate",
            "box_get",
            "box_set",
            "create_linear",
            "empty_ref",
            "free_ref",
            "freeze",
            "get",
            "log_extend",
            "log_read",
            "new_box",
            "new_log",
            "new_ref",
            "pin",
            "run_state",
            "swap",
            "unpin",
        ],
        "reads or writes an array in place: return the new value instead",
        refused=True,
    ),
    "outside": Group(
        [
            "buffer_callback",
            "call_exported",
            "call_hi_primitive",
            "call_hi_primitive_linearized",
            "core_map",
            "cudnn_fusion",
            "custom_partitioning",
            "ffi_call",
            "io_callback",
            "pallas_call",
            "pure_callback",
            "run_scoped",
            "tpu_custom_call",
            "xla_metadata_value",
        ],
        "is computed outside JAX's programs, and what it does is not to be seen: prescribe for the plain function",
        refused=True,
    ),
    "fused": Group(
        [
            "dot_product_attention_bwd",
            "dot_product_attention_bwd_wrapper",
            "dot_product_attention_fp8_bwd",
            "dot_product_attention_fp8_bwd_wrapper",
            "dot_product_attention_fp8_fwd",
            "dot_product_attention_fp8_fwd_wrapper",
            "dot_product_attention_fwd",
            "dot_product_attention_fwd_wrapper",
            "scaled_dot",
            "scaled_matmul",
            "scaled_matmul_wrapper",
        ],
        "is a kernel of one device: prescribe for the plain products, such as attention with implementation='xla'",
        refused=True,
    ),
    "own function": Group(
        [
            "reduce",
            "reduce_window",
            "linear_call",
            "custom_linear_solve",
            "remat_opt",
            "eval_jaxpr",
            "compute_on",
            "custom_vmap_call",
        ],
        "takes a function whose way back, or whose repetition, is not in the program",
        refused=True,
    ),
    "derivative": Group(
        ["select_and_scatter", "select_and_scatter_add", "custom_lin", "zeros_like", "unreachable"],
        "stands in derivatives: give the function that is differentiated",
        refused=True,
    ),
}
"""The rules in the order in which they are looked for; a name in none of them is refused."""


@cache
def group_of(name: str) -> str | None:
    """The rule of a primitive; None for one that has none."""
    return next((group for group, found in GROUPS.items() if name in found.members), None)
