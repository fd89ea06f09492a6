"""What a step of Adam-atan2 costs beside one of optax's Adam, and whether a public implementation takes the same steps.

    python -m benchmarks.atan2 [--rounds 31]

A step is `update` and `apply_updates` on the parameters, compiled, with parameters and state given away. The floor
reads and writes the same arrays and computes nothing to speak of: parameters, gradient and two moments in, all but
the gradient out. The public implementation is the package adam-atan2-pytorch, which is no dependency of this project.
"""

from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.measure import alternating_medians
from benchmarks.online import whole_run
from benchmarks.results import arguments, report
from verify.training.rules.atan2 import adam_atan2

TREES = {
    "a 2048 x 2048 and a 4096 x 1024 matrix": ([(2048, 2048), (4096, 1024)], 5),
    "a 256 x 256 matrix": ([(256, 256)], 200),
}
"""Shapes, and how many steps one timing takes."""
RATE = 1e-3
PEER = ("torch==2.13.0", "adam-atan2-pytorch==0.4.1")


def accumulate() -> optax.GradientTransformation:
    """The floor: two moments as running sums."""

    def init(params: Any) -> Any:
        return jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params)

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        del params
        sums = tuple(jax.tree.map(jnp.add, each, updates) for each in state)
        return jax.tree.map(lambda g: -RATE * g, updates), sums

    return optax.GradientTransformation(init, update)


def stepper(transform: optax.GradientTransformation, shapes: list[tuple[int, ...]], steps: int) -> Any:
    """An action that takes some steps, from where the last one ended."""
    keys = jax.random.split(jax.random.key(0), 2 * len(shapes))
    params = [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=False)]
    gradients = [1e-3 * jax.random.normal(key, shape) for key, shape in zip(keys[len(shapes) :], shapes, strict=True)]

    def step(params: Any, state: Any, gradients: Any) -> Any:
        updates, state = transform.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    compiled, held = jax.jit(step, donate_argnums=(0, 1)), [params, transform.init(params)]

    def action() -> Any:
        for _ in range(steps):
            held[:] = compiled(*held, gradients)
        return held

    return action


def cost(shapes: list[tuple[int, ...]], steps: int, rounds: int) -> dict[str, float]:
    """Adam is timed before and after, and its mean counts: where arrays lie in memory is worth several percent."""
    transforms = [accumulate(), optax.adam(RATE), adam_atan2(RATE), optax.adam(RATE)]
    seconds = alternating_medians([stepper(each, shapes, steps) for each in transforms], rounds)
    floor, before, atan2, after = (1e3 * each / steps for each in seconds)
    adam = (before + after) / 2
    return {
        "floor_ms": floor,
        "adam_ms": adam,
        "atan2_ms": atan2,
        "adam_after_over_before": after / before,
        "atan2_over_adam": atan2 / adam,
        "atan2_over_floor": atan2 / floor,
    }


def in_training(width: int, rounds: int) -> dict[str, float]:
    """A whole run of 150 steps as `verify transfer` trains it; Adam before and after, as in `cost`."""
    actions = [whole_run(name, "full", width)[1] for name in ("adam", "adam-atan2", "adam")]
    before, atan2, after = alternating_medians(actions, rounds)
    return {"width": width, "adam_s": (before + after) / 2, "atan2_over_adam": 2 * atan2 / (before + after)}


def against_pytorch(scale: float, steps: int = 50) -> dict[str, float]:
    """Largest difference of the weights' changes after `steps` steps, relative to their RMS, ours and theirs.

    Both are also held against the formula in double precision.
    """
    import torch  # type: ignore[import-not-found]
    from adam_atan2_pytorch import AdamAtan2  # type: ignore[import-not-found]

    b1, b2, a, b, decay = 0.9, 0.99, 1.27, 1.0, 0.1
    generator = np.random.default_rng(0)
    start = (0.01 * generator.normal(size=(64, 64))).astype(np.float32)
    gradients = (scale * generator.normal(size=(steps, 64, 64))).astype(np.float32)

    theirs = torch.nn.Parameter(torch.tensor(start))
    peer = AdamAtan2([theirs], lr=RATE, betas=(b1, b2), a=a, b=b, weight_decay=decay)
    transform = adam_atan2(RATE, b1, b2, a, b, decay)
    ours, state = jnp.asarray(start), transform.init(jnp.asarray(start))
    exact, m, v = start.astype(np.float64), np.zeros((64, 64)), np.zeros((64, 64))
    for step, gradient in enumerate(gradients, start=1):
        theirs.grad = torch.tensor(gradient)
        peer.step()
        updates, state = transform.update(jnp.asarray(gradient), state, ours)
        ours = optax.apply_updates(ours, updates)
        m, v = b1 * m + (1 - b1) * gradient, b2 * v + (1 - b2) * np.float64(gradient) ** 2
        direction = a * np.arctan2(m / (1 - b1**step), b * np.sqrt(v / (1 - b2**step)))
        exact = (1 - RATE * decay) * exact - RATE * direction
    changes = [np.asarray(each, dtype=np.float64) - start for each in (ours, theirs.detach().numpy(), exact)]
    size = float(np.sqrt(np.mean(changes[2] ** 2)))
    return {
        "scale": scale,
        "ours_against_theirs": float(np.max(np.abs(changes[0] - changes[1]))) / size,
        "ours_against_formula": float(np.max(np.abs(changes[0] - changes[2]))) / size,
        "theirs_against_formula": float(np.max(np.abs(changes[1] - changes[2]))) / size,
    }


def main() -> None:
    options = arguments(__doc__, rounds=31).parse_args()
    result: dict[str, Any] = {
        "cost": {name: cost(*tree, options.rounds) for name, tree in TREES.items()},
        "in_training": [in_training(width, max(3, options.rounds // 4)) for width in (64, 256, 512)],
    }
    if find_spec("torch") and find_spec("adam_atan2_pytorch"):
        result["against_pytorch"] = [against_pytorch(scale) for scale in (1.0, 1e-3, 1e-25, 1e25)]
    else:
        result["against_pytorch"] = f"not compared: pip install {' '.join(PEER)}, then run again"
    report("atan2", result, options.out)


if __name__ == "__main__":
    main()
