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
