"""The studies that tables and figures are made from: a `verify` command each, on a CPU and on an accelerator."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from derive.registry import REGISTRY

Scale = Literal["cpu", "gpu"]

_TRANSFER = "transfer --optimizer adam,sgd,adafactor --parameterization sp,ntk,mup,mfp"
_BATCH = (
    "transfer --axis batch --optimizer adam,sgd --alignment global,rule --hold tokens --widths 64 "
    "--base-rate adam=0.001953125,sgd=0.0625"
)
_RESIDUAL = "transfer --axis depth --optimizer adam,sgd --residual 1/2,1 --alignment global,full"
_EQUIVALENCE = "transfer --optimizer adam,sgd --parameterization sp,ntk,mup,mfp --alignment full"
_PHASE = "phase --optimizer adam --widths 64,128,256,512 --seeds 2 --steps 10 --batch 128"
_PHASE_GPU = "phase --optimizer adam --widths 64,128,256,512,1024,2048,4096 --seeds 3 --steps 10 --batch 128"

_BY_RANK = ("scion", "normuon", "adamuon", "dion", "polargrad", "grafted-shampoo", "muon-hyperball")
_UPDATES = f"updates --optimizer {','.join(row.name for row in REGISTRY if row.trainable and row.name not in _BY_RANK)}"
_UPDATES_BY_RANK = f"updates --optimizer {','.join(_BY_RANK)} --batch 16"


def _alignments(optimizer: str, parameterization: str, alignment: str) -> Mapping[Scale, str]:
    made = f"exponents --optimizer {optimizer} --parameterization {parameterization} --alignment {alignment}"
    return {
        "cpu": f"{made} --widths 64,128,256,512,1024 --seeds 3 --steps 100 --batch 64 --context 8",
        "gpu": f"{made} --widths 64,128,256,512,1024,2048,4096 --seeds 5 --steps 1000 --batch 256 --context 8",
    }


_DEPTH = "exponents --axis depth"
_NEW_TEXT = "--rates 9 --disjoint --stop-above 1.2"
_WIDTHS: Mapping[Scale, str] = {
    "cpu": "--widths 32,64,128,256 --base-width 64 --seeds 3",
    "gpu": "--widths 64,128,256,512,1024,2048 --seeds 3",
}
_ADAM = f"transfer --optimizer adam --base-rate adam=0.015625 --parameterization sp,mup {_NEW_TEXT}"
_HORIZONS = f"{_ADAM} --alignment full,none,global"
_FACTORED = (
    "transfer --optimizer adafactor,adam-ps --base-rate adafactor=0.03125,adam-ps=0.03125 --parameterization sp,mup "
    f"--alignment full,none --steps 150 {_NEW_TEXT}"
)
_EPSILONS = (
    "transfer --optimizer adam,adam-atan2 --base-rate adam=0.015625,adam-atan2=0.015625 --parameterization sp,mup "
    "--alignment full --epsilon 1e-2,1e-3,1e-4,1e-5,1e-6,1e-8 --epsilon-rule scaled,constant --rates 9 --halvings 0 "
    "--steps 150 --disjoint --stop-above 1.5"
)
_SCALES: tuple[Scale, ...] = ("cpu", "gpu")

STUDIES: Mapping[str, Mapping[Scale, str]] = {
    "transfer_mlp": {
        "cpu": f"{_TRANSFER} --alignment global,full,none,prior --widths 64,128,256,512 --seeds 5 --steps 150 "
        "--base-rate adam=0.015625,sgd=0.25,adafactor=0.03125",
        "gpu": f"{_TRANSFER} --alignment global,full,none,prior --widths 64,128,256,512,1024,2048,4096 --seeds 5 "
        "--steps 500 --base-rate adam=0.015625,sgd=0.25,adafactor=0.03125",
    },
    "transfer_transformer": {
        "cpu": "transfer --model transformer --optimizer adam --parameterization sp,mup,ntk,mfp "
        "--alignment full,global,prior,none --widths 32,64,128,256 --seeds 2 --rates 7 --base-rate 0.015625 "
        "--steps 100 --batch 8 --head-dimension 16",
        "gpu": "transfer --model transformer --optimizer adam --parameterization sp,mup,ntk,mfp "
        "--alignment full,global,prior,none --widths 64,128,256,512,1024 --seeds 3 --rates 9 --base-rate 0.015625 "
        "--steps 1000 --batch 32 --head-dimension 32",
    },
    "horizons_mlp": {
        "cpu": f"{_HORIZONS} {_WIDTHS['cpu']} --steps 150,1500",
        "gpu": f"{_HORIZONS} {_WIDTHS['gpu']} --steps 150,1500,15000",
    },
    "transfer_depth": {
        "cpu": f"{_RESIDUAL} --depths 2,4,8,16,32 --widths 32 --head-dimension 16 --seeds 3 --rates 5 "
        "--base-rate adam=0.0078125,sgd=0.25 --steps 60 --batch 8 --context 16",
        "gpu": f"{_RESIDUAL} --depths 2,4,8,16,32,64 --widths 256 --seeds 5 --rates 9 "
        "--base-rate adam=0.0078125,sgd=0.25 --steps 1000 --batch 32 --context 128",
    },
    "tuned_mlp": {
        "cpu": f"{_HORIZONS} {_WIDTHS['cpu']} --steps 150 --tune-constants 200",
        "gpu": f"{_HORIZONS} {_WIDTHS['gpu']} --steps 150,1500 --tune-constants 800",
    },
    "decay_1e-4_mlp": {
        scale: f"{_ADAM} --alignment full --weight-decay 1e-4 {_WIDTHS[scale]} --steps 150" for scale in _SCALES
    },
    "factored_mlp": {scale: f"{_FACTORED} {_WIDTHS[scale]}" for scale in _SCALES},
    "epsilon_rates": {scale: f"{_EPSILONS} {_WIDTHS[scale]}" for scale in _SCALES},
    "transfer_batch": {
        "cpu": f"{_BATCH} --batches 16,64,256,1024 --seeds 3 --rates 5 --steps 1280 --evaluation 1024",
        "gpu": f"{_BATCH} --batches 16,64,256,1024,4096 --seeds 5 --rates 9 --steps 10240 --evaluation 2048",
    },
    "equivalence": {
        "cpu": f"{_EQUIVALENCE} --widths 16,32,64,128,256 --seeds 2 --rates 3 --halvings 0 --steps 200 "
        "--base-rate adam=0.015625,sgd=0.25 --train-equivalents",
        "gpu": f"{_EQUIVALENCE} --widths 64,128,256,512,1024 --seeds 3 --rates 3 --halvings 0 --steps 500 "
        "--base-rate adam=0.015625,sgd=0.25 --train-equivalents",
    },
    **{
        f"exponents_adam_{scheme}_full_4096": {
            "cpu": f"exponents --optimizer adam --parameterization {scheme} --widths 128,256,512,1024,2048,4096 "
            "--seeds 3 --steps 5 --batch 128",
            "gpu": f"exponents --optimizer adam --parameterization {scheme} --widths 128,256,512,1024,2048,4096 "
            "--seeds 8 --steps 10 --batch 128",
        }
        for scheme in ("sp", "mup")
    },
    "alignments_adam_sp": _alignments("adam", "sp", "full"),
    "alignments_adam_sp_global": _alignments("adam", "sp", "global"),
    "alignments_adam_mup": _alignments("adam", "mup", "full"),
    "alignments_adam_mup_global": _alignments("adam", "mup", "global"),
    "alignments_sgd_mup": _alignments("sgd", "mup", "full"),
    "epsilon": {
        "cpu": "epsilon --dtype float32 --widths 64,128,256,512,1024",
        "gpu": "epsilon --dtype float32 --widths 64,128,256,512,1024,2048,4096",
    },
    "phase_adam_sp": {"cpu": f"{_PHASE} --parameterization sp", "gpu": f"{_PHASE_GPU} --parameterization sp"},
    "phase_adam_mup": {"cpu": f"{_PHASE} --parameterization mup", "gpu": f"{_PHASE_GPU} --parameterization mup"},
    "phase_adam_sp_frozen": {
        "cpu": f"{_PHASE} --parameterization sp --c-embedding 1",
        "gpu": f"{_PHASE_GPU} --parameterization sp --c-embedding 1",
    },
    "epsilon_bfloat16": {
        "cpu": "epsilon --dtype bfloat16 --widths 64,128,256,512",
        "gpu": "epsilon --dtype bfloat16 --widths 64,128,256,512,1024,2048,4096",
    },
    "update_exponents_sgd": {
        "cpu": "updates --optimizer sgd,momentum,nesterov --seeds 32 --steps 1",
        "gpu": "updates --optimizer sgd,momentum,nesterov --seeds 32 --steps 1 --widths 128,256,512,1024,2048,4096",
    },
    "decay": {"cpu": "decay", "gpu": "decay --widths 64,128,256,512,1024,2048"},
    "decay_weak": {
        "cpu": "decay --parameterization sp --decay independent --widths 64,128,256 --weight-decay 0.15625 "
        "--steps 3200",
        "gpu": "decay --parameterization sp --decay independent --widths 64,128,256,512,1024 --weight-decay 0.15625 "
        "--steps 3200",
    },
    **{
        f"check_{example}": {
            "cpu": f"check examples.{example}:make --widths 64,128,256,512 {cost}",
            "gpu": f"check examples.{example}:make --widths 64,128,256,512,1024,2048 --seeds 4 --drift-steps 300",
        }
        for example, cost in (
            ("equinox_mlp", "--seeds 4 --drift-steps 80"),
            ("gated_mlp", "--seeds 4 --drift-steps 80"),
            ("nnx_transformer", "--seeds 3 --drift-steps 60"),
        )
    },
    **{
        f"depth_{optimizer}": {
            "cpu": f"{_DEPTH} --depths 2,8,32 --widths 32 --batch 8 --context 16 --steps 5 {given}",
            "gpu": f"{_DEPTH} --depths 2,4,8,16,32,64 --widths 256 {given}",
        }
        for optimizer in ("adam", "muon", "sgd")
        for given in (f"--optimizer {optimizer} --residual {'1/2' if optimizer == 'sgd' else '1'}",)
    },
    "update_exponents": {
        "cpu": f"{_UPDATES} --widths 128,256,512,1024,2048",
        "gpu": f"{_UPDATES} --widths 128,256,512,1024,2048,4096",
    },
    "update_exponents_rank": {
        "cpu": f"{_UPDATES_BY_RANK} --widths 128,256,512,1024",
        "gpu": f"{_UPDATES_BY_RANK} --widths 128,256,512,1024,2048,4096",
    },
}
"""By the name of the folder under data/ that holds the result."""

_PLAN = "plan --devices 8,64,512 --remat --steps 50000"

PLANS: Mapping[str, str] = {
    "paper_figures/data/plan/plan.json": f"{_PLAN} --format json",
    "docs/plan.md": f"{_PLAN} --format markdown",
}
"""By the file, the command of `verify` that prints it; it takes seconds, and is no study."""


def arguments(study: str, scale: Scale, folder: Path) -> list[str]:
    """The arguments of `verify` that make the study, or go on with it, in that folder."""
    return [*shlex.split(STUDIES[study][scale]), "--out", str(folder)]


def command(study: str, scale: Scale, folder: Path) -> str:
    """The same as a user types it."""
    return f"verify {shlex.join(arguments(study, scale, folder))}"
