"""Sweeps along depth and batch: what is trained is what derive prescribes, and nothing of the width's has changed."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

from verify.sweeps.engines import Task, perform
from verify.sweeps.records import Batch, Conditions, Record, Setting
from verify.sweeps.settings.along import along_batch, along_depth
from verify.training.data import Corpus, load_corpus, next_token, sequence
from verify.training.networks import Scaling, loss
from verify.training.networks.mlp import MLP
from verify.training.networks.transformer import Transformer

PLAIN = Scaling(8, 8, (0, 0, 0), (0, 0, 0))
BLOCKS = Conditions(
    "transformer",
    {"vocabulary": 256, "context": 8, "width": 8, "head_dimension": 8},
    base_width=1,
    steps=5,
    batch=4,
    evaluation=16,
    corpus="the default",
    code="code",
    axis="depth",
)
BATCHES = Conditions(
    "mlp",
    {"vocabulary": 256, "context": 4, "hidden_layers": 1, "width": 8},
    base_width=4,
    steps=8,
    batch=4,
    evaluation=16,
    corpus="the default",
    code="code",
    axis="batch",
    held="tokens",
)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return load_corpus()


def trained(conditions: Conditions, setting: Setting, size: int, rate: float, corpus: Corpus) -> Record:
    """The record of one run of that size."""
    return perform(Task(0, conditions, setting, Batch(setting.name, size, (rate,), (1,))), corpus)[0]


def by_hand(model: Any, transform: Any, corpus: Corpus, targets: Any, batch: int, context: int, steps: int) -> float:
    """The held-out loss after training with optax alone."""
    params = model.init(jax.random.key(1))
    state = transform.init(params)

    @jax.jit
    def advance(params: Any, state: Any, inputs: Any, wanted: Any) -> Any:
        gradients = jax.grad(lambda p: loss(model.apply(p, inputs), wanted))(params)
        updates, state = transform.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    with jax.default_matmul_precision("highest"):
        for step in range(1, steps + 1):
            pair = corpus.batch("train", batch, context, step, 1, targets)
            params, state = advance(params, state, *map(jnp.asarray, pair))
        inputs, wanted = map(jnp.asarray, corpus.batch("held_out", 16, context, 0, 0, targets))
        return float(loss(model.apply(params, inputs), wanted))


RATE = 0.02
DEPTHS = {
    # At 4 times the base depth: (multiplier, what writes is drawn by, rate in a branch, rate of what writes).
    ("adam", "1/2", "full"): (0.5, 1.0, 0.5, 0.5),
    ("adam", "completep", "full"): (0.25, 1.0, 1.0, 1.0),
    ("adam", "1/2", "none"): (0.5, 1.0, 1.0, 1.0),
    ("adam", "init", "full"): (1.0, 0.5, 0.5, 0.25),
    ("sgd", "1", "full"): (0.25, 1.0, 4.0, 4.0),
    ("sgd", "1", "global"): (0.25, 1.0, 1.0, 1.0),
}


FAST = {("adam", "init", "full"), ("sgd", "1", "full")}


@pytest.mark.parametrize(
    ("optimizer", "residual", "alignment"),
    [each if each in FAST else pytest.param(*each, marks=pytest.mark.slow) for each in DEPTHS],
)
def test_a_run_of_a_depth_is_a_plain_loop_of_blocks(
    optimizer: str, residual: str, alignment: str, corpus: Corpus
) -> None:
    multiplier, drawn, inside, out = DEPTHS[optimizer, residual, alignment]
    model = Transformer(
        PLAIN, context=8, blocks=4, head_dimension=8, branch_multiplier=multiplier, out_factor=drawn
    )  # a block after the other, not scanned
    labels = model.labels(model.init(jax.random.key(0)))
    for block in labels["blocks"].values():
        block["o"] = block["down"] = "out"
    rule: Any = {"adam": lambda rate: optax.adam(rate, eps=1e-12), "sgd": optax.sgd}[optimizer]
    scale = {"embedding": 1.0, "hidden": inside, "out": out, "readout": 1.0}
    transform = optax.multi_transform({name: rule(RATE * factor) for name, factor in scale.items()}, labels)
    setting = along_depth(optimizer, residual, alignment).setting
    conditions = BLOCKS if optimizer == "sgd" else Conditions(**{**vars(BLOCKS), "epsilon": 1e-12})
    expected = by_hand(model, transform, corpus, sequence, 4, 8, 5)
    assert trained(conditions, setting, 4, RATE, corpus).loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("optimizer", "rule", "held", "horizon", "factor", "steps"),
    [
        ("sgd", "rule", "tokens", "none", 4.0, 2),
        ("sgd", "global", "tokens", "none", 1.0, 2),
        pytest.param("adam", "rule", "tokens", "none", 2.0, 2, marks=pytest.mark.slow),
        pytest.param("sgd", "rule", "steps", "none", 4.0, 8, marks=pytest.mark.slow),
        ("adam", "rule", "steps", "sde", 1.0, 8),
    ],
)
def test_a_run_of_a_batch_is_a_plain_loop_of_as_many_tokens_or_steps(
    optimizer: str, rule: str, held: Any, horizon: Any, factor: float, steps: int, corpus: Corpus
) -> None:
    model = MLP(PLAIN, context=4, hidden_layers=1)
    own: Any = {"adam": lambda rate: optax.adam(rate, eps=1e-12), "sgd": optax.sgd}[optimizer]
    conditions = Conditions(**{**vars(BATCHES), "held": held, "epsilon": None if optimizer == "sgd" else 1e-12})
    setting = along_batch(optimizer, rule, held, horizon).setting
    found = trained(conditions, setting, 16, RATE, corpus)
    assert found.loss == pytest.approx(by_hand(model, own(RATE * factor), corpus, next_token, 16, 4, steps), rel=1e-5)
    assert found.curve[-1][0] == steps
