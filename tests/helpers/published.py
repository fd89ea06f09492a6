"""The paper's numbers, for comparison only: nothing in `derive` reads them.

Everett et al. 2024, "Scaling Exponents Across Parameterizations and Optimizers", arXiv 2407.05872, table 1
(gradients at initialisation, largest stable learning-rate exponents). Entries are (embedding, hidden, readout).
"""

RATES = {
    ("sgd", "full"): {
        "SP": ("-1/2", "1/2", "1"),
        "NTK": ("-1/2", "-1/2", "0"),
        "muP": ("0", "0", "0"),
        "MFP": ("-1", "-1", "-1"),
    },
    ("sgd", "none"): {
        "SP": ("-1/2", "0", "1/2"),
        "NTK": ("-1/2", "-1", "-1/2"),
        "muP": ("0", "-1/2", "0"),
        "MFP": ("-1", "-3/2", "-1"),
    },
    ("adam", "full"): {
        "SP": ("0", "1", "1"),
        "NTK": ("0", "1/2", "1/2"),
        "muP": ("1/2", "1", "1/2"),
        "MFP": ("0", "1/2", "0"),
    },
    ("adam", "none"): {
        "SP": ("0", "1/2", "1/2"),
        "NTK": ("0", "0", "0"),
        "muP": ("1/2", "1/2", "0"),
        "MFP": ("0", "0", "-1/2"),
    },
    ("adafactor", "full"): {
        "SP": ("0", "1/2", "1/2"),
        "NTK": ("0", "1/2", "1/2"),
        "muP": ("0", "1/2", "0"),
        "MFP": ("0", "1/2", "0"),
    },
    ("adafactor", "none"): {
        "SP": ("0", "0", "0"),
        "NTK": ("0", "0", "0"),
        "muP": ("0", "0", "0"),
        "MFP": ("0", "0", "0"),
    },
}

GRADIENTS = {
    "SP": ("1/2", "1/2", "0"),
    "NTK": ("1/2", "1", "1/2"),
    "muP": ("1/2", "1", "1/2"),
    "MFP": ("1", "3/2", "1"),
}

PARAMETERIZATIONS = {
    "SP": (("0", "0", "0"), ("0", "1/2", "1/2")),
    "NTK": (("0", "1/2", "1/2"), ("0", "0", "0")),
    "muP": (("-1/2", "0", "1/2"), ("1/2", "1/2", "1/2")),
    "MFP": (("0", "1/2", "1"), ("0", "0", "0")),
}

LARGEST_MODEL = ("26.8", 16_384)
"""Parameters in billions and width of the largest model, section 4."""

MODEL_HEADS = (1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 48, 64, 96, 128)
"""Heads of 128 units of the fourteen models; VOCABULARY is that of their tokenizer, section 4."""
MODEL_MILLIONS = (9.8, 22.7, 58, 106, 166, 325, 534, 794, 1100, 1870, 4020, 6970, 15_300, 26_800)
"""Their parameters without positions, 96 D^2 + 2 VOCABULARY D, as given."""
VOCABULARY = 32_101

DEPTH_RATES = {
    # (optimizer, delta): c of a matrix in a branch, kappa = 1
    ("adam", "1/2"): "1/2",  # Depth-muP, Yang et al. 2023, 2310.02244
    ("sgd", "1/2"): "0",  # the same
    ("adam", "1"): "0",  # CompleteP, Dey et al. 2025, 2505.01618
    ("adamw", "1"): "0",
    ("sgd", "1"): "-1",  # Qiu et al. 2025, 2512.05620: the rate grows as N
    ("muon", "1"): "0",  # the same: none
    ("shampoo", "1"): "0",  # the same with E = 1/2: none, -(1 - 2E)
}
DEPTH_EPSILONS = {("adam", "1"): "1", ("muon", "1"): "1"}
"""CompleteP and Qiu et al.: Adam's epsilon falls as 1/N."""
SHAMPOO_POWERS = {"1/8": "-3/4", "1/4": "-1/2", "3/8": "-1/4", "1/2": "0"}
"""E of sigma^(1-2E): c = -(1 - 2E) at delta = 1, Qiu et al."""
BATCH_RATES = {
    "adam": {"c": "-1/2", "epsilon": "1/2", "beta": "-1", "decay": "-1/2"},  # Malladi et al. 2022, 2205.10287
    "adamw": {"c": "-1/2", "epsilon": "1/2", "beta": "-1", "decay": "-1/2"},
    "sgd": {"c": "-1", "decay": "0"},  # Goyal et al. 2017, 1706.02677: linear
    "lion": {"c": "-1/2", "beta": "0", "decay": "-1/2"},
    "sign-sgd": {"c": "-1/2", "decay": "-1/2"},
}
HORIZON = {"c": "1/2", "epsilon": "-1/2", "beta": "1", "decay": "1/2"}
"""Adam along T under sde, Complete(d)P, 2512.22382: rate and decay (B/T)^1/2, epsilon (T/B)^1/2, 1 - beta B/T."""
