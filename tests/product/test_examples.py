"""Every example is prescribed for and trained as its first line says; none is longer than a page."""

from typing import Any

import jax
import optax
import pytest

import verify
from tests.helpers.paths import ROOT
from verify.model.make import build, load_make

FOLDER = ROOT / "examples"
EXAMPLES = sorted(path.stem for path in FOLDER.glob("*.py") if "def make(" in path.read_text(encoding="utf-8"))
WRAPPED = {"scan_layers": {f"dot[{turn}]" for turn in range(4)}, "tied_embeddings": {"table#2"}}
"""Products that no parameter's own size can put right: heads that grow, a table used twice."""


def test_what_was_promised_is_there():
    assert EXAMPLES == [
        "equinox_mlp",
        "equinox_residual",
        "gated_mlp",
        "nnx_transformer",
        "scan_layers",
        "tied_embeddings",
    ]


LARGE = ("gated_mlp", "nnx_transformer", "scan_layers")
"""They take longest to compile: prescribed for in every run, trained in the slow one."""


@pytest.mark.parametrize("name", LARGE)
def test_the_example_is_prescribed_for(name: str):
    answer = verify.prescribe(load_make(f"examples.{name}:make"), base_width=32, width=64, optimizer="adamw")
    assert set(answer.multipliers) == WRAPPED.get(name, set())


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in EXAMPLES]
)
def test_the_example_trains_as_prescribed(name: str):
    assert len((FOLDER / f"{name}.py").read_text(encoding="utf-8").splitlines()) < 60
    make = load_make(f"examples.{name}:make")
    answer = verify.prescribe(make, base_width=32, width=64, optimizer="adamw")
    assert set(answer.multipliers) == WRAPPED.get(name, set())
    model = build(make, 64)
    assert model.loss is not None
    loss, apply = model.loss, answer.wrap(model.apply)
    transform = answer.optimizer(3e-3, weight_decay=0.01)
    params: Any = answer.init(jax.random.key(0))
    state = transform.init(params)

    @jax.jit
    def step(params: Any, state: Any, batch: Any) -> Any:
        value, gradients = jax.value_and_grad(lambda p: loss(apply(p, batch), batch))(params)
        updates, state = transform.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    losses = []
    for turn in range(15):
        params, state, value = step(params, state, model.batch(turn % 3))
        losses.append(float(value))
    assert sum(losses[-3:]) < sum(losses[:3]) - 0.3
