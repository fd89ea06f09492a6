"""Run as a process of its own: a run on simulated devices, its numbers and what compiling it takes, as JSON.

python tests/on_mesh.py MODEL OPTIMIZER MESH [MESH ...], where MESH is 4x2, or 1 for a single device
"""

import json
import math
import os
import re
import sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np

from derive.solve import prescribe, solve_kinds
from verify.data import load_corpus
from verify.mesh import make_mesh, read_mesh
from verify.train import Config, Trainer

WIDTH = 128
STEPS = 2
RATES = {"sgd": 0.1, "adam": 0.01, "muon": 0.05}
SIZES = {"mlp": {}, "transformer": {"context": 8, "blocks": 1, "scan": True, "remat": True}}


def largest_array(compiled) -> int:
    """Entries of the largest array that the program of one device holds."""
    shapes = re.findall(r"\b(?:f|bf|s|u)\d+\[([\d,]+)\]", compiled.as_text())
    return max((math.prod(int(size) for size in shape.split(",")) for shape in shapes), default=0)


def sizes(trainer, text) -> dict:
    """Entries of the largest array of each compiled function, of the largest that a device holds, and of weights."""
    params = trainer.initial()
    probe, state = trainer.probe(text), trainer.init_state(params)
    inputs = trainer.initial_inputs(params, probe)
    programs = {
        "draw": trainer._draw.lower(trainer.keys),
        "init_state": trainer.init_state.lower(params),
        "initial_inputs": trainer.initial_inputs.lower(params, probe),
        "measure": trainer.measure.lower(params, inputs, params, probe),
    }
    held = [max(shard.data.size for shard in leaf.addressable_shards) for leaf in jax.tree.leaves((params, state))]
    return {
        "largest": {name: largest_array(program.compile()) for name, program in programs.items()},
        "held": max(held),
        "matrices": [int(np.prod(op.weight_shape)) for op in trainer.trace.ops],
    }


def main(model: str, optimizer: str, *meshes: str) -> None:
    text = load_corpus(None, None)
    config = Config(
        solve_kinds(prescribe(optimizer, "mup", "full").problem),
        base_width=32,
        base_rate=RATES[optimizer],
        model=model,  # type: ignore[arg-type]
        batch=16,
        probe=8,
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
            **(sizes(trainer, text) if model == "mlp" else {}),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
