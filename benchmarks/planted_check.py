"""Ten mistakes of width scaling, planted one at a time: does `verify check` catch them?

python -m benchmarks.planted_check prints the table of docs/check.md. Beside it stands what a plot of mean |activation|
against width shows, the quantity of microsoft/mup's coordinate check, computed here: the slope farthest from 0.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from verify.model.check.check import Check, coordinate_check
from verify.model.check.coordinates import default_loss
from verify.model.make import build
from verify.model.prescribe import prescribe

BASE, WIDTHS, RATE = 32, (32, 64, 128, 256), 2e-3
HEAD, TOKENS = 4, 6


@dataclass(frozen=True)
class Mistake:
    """A right set-up of muP for Adam, and what is changed in it."""

    name: str = "none: the right set-up"
    readout_std: float = 1.0
    readout_multiplier: float = -1.0
    bias_std: float = 0.0
    rates: dict[str, float] = field(default_factory=dict)
    decay: float = 1.0
    epsilon: float = 1e-8
    half: bool = False
    attention: float | None = None


MISTAKES = (
    Mistake(),
    Mistake("SP used as muP: readout n^-1/2 without multiplier", -0.5, 0.0, rates={"out": -1.0}),
    Mistake("hidden rate unscaled", rates={"w": 0.0}),
    Mistake("embedding rate scaled", rates={"in": -1.0}),
    Mistake("1/sqrt(d) attention, growing heads", attention=-0.5),
    Mistake("readout multiplier missing", readout_multiplier=0.0),
    Mistake("readout multiplier twice", readout_multiplier=-2.0),
    Mistake("readout multiplier on the wrong side: divided by", readout_multiplier=1.0),
    Mistake("biases at 1/sqrt(fan_in)", bias_std=-0.5),
    Mistake("decay with the rate", decay=0.0),
    Mistake("epsilon constant in half precision", epsilon=1e-3, half=True),
    Mistake("(control) 1/d attention, growing heads", attention=-1.0),
)


def model(mistake: Mistake) -> Callable[[int], Any]:
    """make(width) with the mistake in it; the readout's start is n^0 and its multiplier 1/n."""

    def make(width: int) -> Any:
        keys = iter(jax.random.split(jax.random.key(width), 9))
        ratio = width / BASE

        def normal(std: float, *shape: int) -> Any:
            return std * jax.random.normal(next(keys), shape)

        params = {
            "in": normal(8**-0.5, 8, width),
            "b": normal(ratio**mistake.bias_std if mistake.bias_std else 0.0, width),
            "w": normal(width**-0.5, width, width),
            "out": normal(BASE**-0.5 * (ratio**mistake.readout_std if mistake.readout_std < 0 else 1), width, 4),
        }
        if mistake.attention is not None:
            params |= {"q": normal(width**-0.5, width, width), "k": normal(width**-0.5, width, width)}
        dtype = jnp.float16 if mistake.half else jnp.float32
        params = {name: leaf.astype(dtype) for name, leaf in params.items()}
        inputs = jax.random.normal(jax.random.key(1), (32, TOKENS, 8)).astype(dtype)

        def apply(p: Any, x: Any) -> Any:
            z = jnp.tanh(x @ p["in"])
            if mistake.attention is not None:
                logits = jnp.einsum("bid,bjd->bij", z @ p["q"], z @ p["k"]) * BASE**-0.5 * ratio**mistake.attention
                z = z + jax.nn.softmax(logits, axis=-1) @ z
            z = jnp.tanh(z @ p["w"] + p["b"])
            return (z @ p["out"]) * ratio**mistake.readout_multiplier

        return params, apply, inputs

    return make


def transform(mistake: Mistake) -> Callable[[int], optax.GradientTransformation]:
    """Adam with a rate and a decay per parameter, as muP has them: hidden n^-1, all others n^0 with the multiplier."""

    def at(width: int) -> optax.GradientTransformation:
        ratio = width / BASE
        powers = {"in": 0.0, "b": 0.0, "w": -1.0, "q": -1.0, "k": -1.0, "out": 0.0} | mistake.rates
        rules: dict[Any, optax.GradientTransformation] = {
            name: optax.adamw(
                RATE * ratio**power, eps=mistake.epsilon, weight_decay=0.1 * ratio ** (-power * mistake.decay)
            )
            for name, power in powers.items()
        }
        return optax.multi_transform(rules, lambda params: {name: name for name in params})

    return at


def checked(mistake: Mistake, widths: Sequence[int] = WIDTHS, seeds: int = 4, steps: int = 5) -> Check:
    """The check of the user's own optimizer on that model."""
    make = model(mistake)
    answer = prescribe(make, base_width=widths[0], width=widths[-1], optimizer="adamw")
    return coordinate_check(
        make, answer, widths, base_rate=RATE, seeds=seeds, steps=steps, transform=transform(mistake), setups=("own",)
    )


def plotted(mistake: Mistake, steps: int = 5) -> dict[str, float]:
    """What a plot of mean |activation| shows: by layer the slope that is farthest from 0, over steps 0 to `steps`."""
    found: dict[str, list[list[float]]] = {"hidden": [], "logits": []}
    for width in WIDTHS:
        made = build(model(mistake), width)
        rule = transform(mistake)(width)
        params: Any = made.params
        state = rule.init(params)
        sizes: dict[str, list[float]] = {"hidden": [], "logits": []}
        gradient = jax.jit(jax.grad(lambda p, made=made: default_loss(made.apply(p, made.batch(0)), None)))
        for step in range(steps + 1):
            # The logits are all that a function shows from outside; the hidden layer is read through its readout.
            eye = {**params, "out": jnp.eye(width, dtype=params["out"].dtype)}
            hidden = made.apply(eye, made.batch(0)) / (width / BASE) ** mistake.readout_multiplier
            sizes["hidden"].append(float(jnp.abs(hidden.astype(jnp.float32)).mean()))
            sizes["logits"].append(float(jnp.abs(made.apply(params, made.batch(0)).astype(jnp.float32)).mean()))
            if step < steps:
                updates, state = rule.update(gradient(params), state, params)
                params = optax.apply_updates(params, updates)
        for name, values in sizes.items():
            found[name].append(values)
    x = np.log(WIDTHS)
    slopes = {
        # At step 0 logits shrink with the width in muP as well.
        name: [float(np.polyfit(x, np.log(np.array(values)[:, step]), 1)[0]) for step in range(1, steps + 1)]
        for name, values in found.items()
    }
    return {name: max(values, key=abs) for name, values in slopes.items()}


def row(mistake: Mistake) -> str:
    """A row of the table."""
    (measured,) = checked(mistake).measured.values()
    first = {failure.layer: failure for failure in reversed(measured.failures)}
    named = "; ".join(f"{name}: {each.quantity} n^{-each.measured.value:+.2f}" for name, each in first.items())
    verdict = "caught" if measured.failures else measured.verdict
    seen = ", ".join(f"{name} n^{value:+.2f}" for name, value in plotted(mistake).items())
    return f"| {mistake.name} | {verdict} | {named or '-'} | {seen} |"


def main() -> None:
    """Print the table."""
    print("| planted | verify check --own | named | mean abs activation, steepest slope, steps 1 to 5 |")
    print("|---|---|---|---|")
    for mistake in MISTAKES:
        print(row(mistake), flush=True)


if __name__ == "__main__":
    main()
