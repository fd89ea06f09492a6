"""Run as a process of its own: a run on simulated devices, its numbers and what compiling it takes, as JSON.

python tests/helpers/on_mesh.py MODEL OPTIMIZER MESH [MESH ...], where MESH is 4x2, or 1 for a single device
"""

import json
import os
import re
import sys

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax

from derive.solve import prescribe, solve_kinds
from verify.training.config import Config
from verify.training.data import load_corpus
from verify.training.mesh import make_mesh, read_mesh
from verify.training.trainer import Trainer

WIDTH = 128
STEPS = 2
RATES = {"sgd": 0.1, "adam": 0.01, "muon": 0.05}
SIZES = {"mlp": {}, "transformer": {"context": 8, "blocks": 1, "scan": True, "remat": True}}


def shapes(lowered) -> list[list[int]]:
    """The shapes of all arrays in the program of one device, without axes of one."""
    found = re.findall(r"\b(?:f|bf|s|u)\d+\[([\d,]+)\]", lowered.compile().as_text())
    return [[int(size) for size in shape.split(",") if size != "1"] for shape in sorted(set(found))]


def programs(trainer, text) -> dict:
    """The shapes in each compiled function, and those of every weight."""
    params = trainer.initial()
    probe = trainer.probe(text)
    inputs = trainer.initial_inputs(params, probe)
    return {
        "shapes": {
            "draw": shapes(trainer._draw.lower(trainer.keys)),
            "initial_inputs": shapes(trainer.initial_inputs.lower(params, probe)),
            "measure": shapes(trainer.measure.lower(params, inputs, params, probe)),
        },
        "weights": [op.weight_shape for op in trainer.trace.ops],
    }


def main(model: str, optimizer: str, *meshes: str) -> None:
    text = load_corpus(None, None)
    config = Config(
        solve_kinds(prescribe(optimizer, "mup", "full").problem),
        base_width=32,
        base_rate=RATES[optimizer],
        model=model,  # type: ignore[arg-type]
        batch=16,
        probe=24,
        sizes={"vocabulary": text.vocabulary, **SIZES[model]},
    )
    found = {}
    for name in meshes:
        mesh = None if name == "1" else make_mesh(*read_mesh(name))
        trainer = Trainer(config, WIDTH, [0, 1], mesh)
        with jax.default_matmul_precision("highest"):
            run = trainer.run(text, STEPS)
        found[name] = {
            "losses": run.losses.tolist(),
            "sizes": {
                f"{each.step} {op} {quantity}": values.tolist()
                for each in run.measurements
                for op, quantities in each.values.items()
                for quantity, values in quantities.items()
            },
            **(programs(trainer, text) if model == "mlp" else {}),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
