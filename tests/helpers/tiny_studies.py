"""The smallest study of every command that trains unit by unit: two units, but for epsilon's five."""

SMALL = ["--widths", "8,16", "--seeds", "2", "--context", "2", "--batch", "8"]
MLP = [*SMALL, "--depth", "1"]
COMMANDS = {
    "exponents": ["exponents", *MLP, "--steps", "1"],
    "exponents --axis depth": [
        *("exponents", "--axis", "depth", "--widths", "8", "--depths", "1,2"),
        *("--seeds", "2", "--context", "2", "--batch", "8", "--steps", "1"),
    ],
    "updates": ["updates", *MLP, "--steps", "1", "--optimizer", "sgd,momentum"],
    "decay": ["decay", *MLP, "--parameterization", "sp", "--decay", "sqrt", "--steps", "20", "--evaluation", "64"],
    "phase": ["phase", *MLP, "--steps", "1", "--c-hidden", "1", "--c-readout", "1"],
    "epsilon": [
        *("epsilon", *MLP, "--steps", "2", "--evaluation", "32", "--epsilon", "1e-2", "--base-rate", "0.01"),
        *("--processes", "1", "--parameterization", "sp"),
    ],
}
"""By the study's name."""
INSIDE = {"epsilon": "float32"}
"""The folder within --out that holds it, of a command that makes several."""
