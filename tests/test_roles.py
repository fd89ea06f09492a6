"""Every parameter of models written in Flax, Equinox, Haiku and plain JAX has the role that was listed by hand."""

import jax
import pytest

import verify
from tests.zoo import ZOO
from verify.graph_walk import path_name


@pytest.mark.parametrize("name", ZOO)
def test_every_parameter_has_the_role_listed_by_hand(name: str):
    model = ZOO[name]
    leaves = jax.tree_util.tree_leaves_with_path(jax.eval_shape(lambda: model.make(model.base_width)[0]))
    assert sorted(path_name(path) for path, _ in leaves) == sorted(model.roles)
    for rule in ("sgd", "adam"):
        answer = verify.prescribe(model.make, base_width=model.base_width, width=model.width, optimizer=rule)
        assert {row.path: row.role for row in answer.parameters} == model.roles
    assert not answer.multipliers
    # Under full alignment hidden and readout weights go by their fan-in, whatever stands between the layers.
    assert {row.path: row.c for row in answer.parameters} == {
        path: 0 if role == "embedding" else 1 for path, role in model.roles.items()
    }
