"""Why single rows of the zoo are off: what the networks are, by hand, or that it is not settled."""

SHARED_HEADS = (
    "not settled: keys and values that grow in no number start as readouts, and align little at these widths: their "
    "changes are mostly W dz, n^-1/2 smaller"
)

NEARER = "off by more than a small width's correction, and nearer to what is said between the two larger widths"
UNEXPLAINED = "not explained"

NOTES: dict[str, dict[str, str]] = {
    "llama": {"g,r q k v o gate up down gain_2 head": SHARED_HEADS},
    "parallel block": {"g,r norm.* k v o": SHARED_HEADS},
    "bert": {
        "g norm_2.gain norm_2.bias": "not settled: it falls toward 1 with the width; the tied logit of a token itself "
        "is likely the part that is large at these widths",
    },
    "nerf": {
        "g,s,r w_2.w late.w colour.w": "the 12 and 6 entries joined to n are larger than those, and the fan-in "
        "counts them as alike",
    },
    "vae": {
        "g log_var.w log_var.b": UNEXPLAINED,
        "g enc.? in.? mean.?": "two parts: the reconstruction's n^-1, and the divergence's n^-1/2, which rules at "
        "great widths; at these both are of one size",
    },
    "dueling": {"g gain_1.w": UNEXPLAINED},
    "flax vit": {"g FlaxBlock_1.*.key.kernel": UNEXPLAINED},
    "gnn, attention": {"s out": UNEXPLAINED},
    "seq2seq": {"s look?1?": UNEXPLAINED},
    "two inputs": {"s out": UNEXPLAINED},
    "mamba": {"g dt.w": NEARER, "g x": UNEXPLAINED},
    "film": {"s out": NEARER},
    "low-rank keys": {"g q": NEARER},
    "soft slots": {"g,s down gain slots up": NEARER},
    "switch": {"g down gain up": NEARER},
    "vq": {"g in.w": NEARER},
}
"""By model and by "QUANTITIES PATHS", such as "g,s table *.gain"."""
