"""PyTorch modules, unmodified: the same function in JAX, the rows that a person writes down, and errors by name."""

import subprocess
import sys
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from derive.errors import UserError
from tests.helpers.extras import need_torchax
from verify.commands.model.prescribe import prescribe as prescribe_command
from verify.model.prescribe import prescribe
from verify.model.prescription import ModelPrescription
from verify.torch import from_torch, load_torch
from verify.torch.inputs import example_of

torch = pytest.importorskip("torch", reason="PyTorch is an extra; install scaling-exponents[torch]")
need_torchax()

import jax  # noqa: E402

from tests.helpers.torch_modules import CASES, GPT, Case, tokens  # noqa: E402

nn = torch.nn
BASE, WIDTH = 8, 16
ADAM_MUP = {
    "embedding": (Fraction(0), Fraction(0)),
    "hidden": (Fraction(1, 2), Fraction(1)),
    "readout": (Fraction(1), Fraction(1)),
}
"""(b, c) without multipliers, as in the published table moved to a = 0."""


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def test_the_function_is_torch_s_to_1e_5_and_the_rows_are_those_by_hand(case: Case):
    make = from_torch(case.build, case.example)
    params, apply, inputs = make(BASE)
    module = make._module(BASE)
    assert {name: each.shape for name, each in params.items()} == {
        name: tuple(each.shape) for name, each in module.named_parameters()
    }
    given = torch.tensor(np.asarray(inputs))
    wanted = module(given.long() if not given.is_floating_point() else given).detach().numpy()
    np.testing.assert_allclose(jax.jit(apply)(params, inputs), wanted, rtol=1e-5, atol=1e-5)
    answer = prescribe(make, base_width=BASE, width=WIDTH, optimizer="adamw")
    for row in answer.parameters:
        role = case.role(row.path, row.shape)
        assert (row.role, (row.b, row.c)) == (role, ADAM_MUP[role]), row.path
    found = {answer.places[name].partition(": ")[0]: str(x) for name, x in answer.multipliers.items()}
    assert found == case.multipliers


def test_the_rows_are_those_of_the_same_model_in_jax():
    """The tied table too, whose second product has the same multiplier."""

    def make(width: int) -> Any:
        draws = np.random.default_rng(0)
        params = {
            "table": draws.normal(size=(13, width)).astype(np.float32),
            "w": draws.normal(size=(width, width)).astype(np.float32) / width**0.5,
            "b": np.zeros(width, np.float32),
        }

        def apply(p: Any, tokens: Any) -> Any:
            return jax.numpy.tanh(p["table"][tokens] @ p["w"].T + p["b"]) @ p["table"].T

        return params, apply, np.zeros((2, 3), np.int32)

    class Tied(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.table, self.layer = nn.Embedding(13, width), nn.Linear(width, width)

        def forward(self, tokens: Any) -> Any:
            return torch.tanh(self.layer(self.table(tokens))) @ self.table.weight.T

    ours = prescribe(make, base_width=BASE, width=WIDTH, optimizer="adamw")
    theirs = prescribe(
        from_torch(Tied, lambda _: torch.zeros(2, 3).long()), base_width=BASE, width=WIDTH, optimizer="adamw"
    )
    named = {"table": "table.weight", "w": "layer.weight", "b": "layer.bias"}
    for name, other in named.items():
        row, same = ours.row(name), theirs.row(other)
        assert (row.role, row.b, row.c, row.g, row.epsilon, row.decay) == (
            (same.role, same.b, same.c, same.g, same.epsilon, same.decay)
        )
    assert list(ours.multipliers.values()) == list(theirs.multipliers.values()) == [Fraction(1)]
    assert theirs.places["table.weight#2"].startswith(": ")


def test_the_wide_model_takes_no_memory():
    """A module of 4 * 65536^2 entries, 64 GiB, could not be built here."""
    make = from_torch(_Wide, lambda _: torch.randn(2, 3))
    answer = prescribe(make, base_width=16, width=65536, optimizer="adamw")
    assert [row.role for row in answer.parameters] == ["embedding", "hidden", "hidden", "hidden", "readout"]
    assert answer.row("layers.3.weight").shape == (65536, 65536)


class _Wide(nn.Module):
    """Layers that are tied to one another keep being so on shapes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = [3, width, width, width, width, 2]
        layers = [nn.Linear(a, b, bias=False) for a, b in pairwise(widths)]
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Any) -> Any:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x


def test_ties_buffers_and_plain_tensors_survive_on_shapes():
    class Odd(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            shared = nn.Parameter(torch.randn(width, width))
            self.a, self.b = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
            self.a.weight, self.b.weight = shared, shared
            self.register_buffer("scale", torch.full((width,), 1 / width))
            self.shift = torch.ones(width)
            self.first, self.out = nn.Linear(3, width), nn.Linear(width, 2)

        def forward(self, x: Any) -> Any:
            x = torch.tanh(self.first(x) + self.shift)
            return self.out(torch.tanh(self.b(torch.tanh(self.a(x)))) * self.scale)

    answer = prescribe(from_torch(Odd, lambda _: torch.randn(4, 3)), base_width=8, width=4096, optimizer="adamw")
    assert "b.weight" not in {row.path for row in answer.parameters}
    assert len(answer.row("a.weight").uses) == 2
    assert answer.row("out.weight").found == 1  # the buffer's n^-1, read at both widths


def test_training_mode_is_what_is_prescribed_for_and_dropout_draws_nothing():
    seen = []

    class Net(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.layer, self.drop = nn.Linear(3, width), nn.Dropout(0.9)

        def forward(self, x: Any) -> Any:
            seen.append((self.training, self.drop.training))
            return self.drop(self.layer(x))

    for train in (True, False):
        params, apply, inputs = from_torch(Net, lambda _: torch.randn(2, 3), train=train)(BASE)
        apply(params, inputs)
    assert seen == [(True, False), (False, False)]


class _Chooses(nn.Module):
    def forward(self, x: Any) -> Any:
        return x if x.sum() > 0 else -x


class _Raises(nn.Module):
    def forward(self, _: Any) -> Any:
        raise ValueError("no such thing")


class _Around(nn.Module):
    def __init__(self, width: int, inner: nn.Module) -> None:
        super().__init__()
        self.first, self.blocks = nn.Linear(3, width), nn.ModuleList([inner])

    def forward(self, x: Any) -> Any:
        return self.blocks[0](self.first(x))


@pytest.mark.parametrize(
    ("build", "example", "said"),
    [
        (
            lambda n: _Around(n, _Chooses()),
            lambda _: torch.randn(2, 3),
            r"module blocks\.0 \(_Chooses\) cannot be lowered to JAX, since it asks for",
        ),
        (lambda n: _Around(n, _Raises()), lambda _: torch.randn(2, 3), r"module blocks\.0 .*no such thing"),
        (lambda _: nn.Linear(3, 4), lambda _: torch.randn(2, 3), "widths 8 and 16 change no parameter's shape"),
        (lambda _: "text", lambda _: torch.randn(2, 3), r"returned str; it has to return a torch\.nn\.Module"),
        (lambda n: nn.Linear(3, n), lambda _: "text", "gave str; give a tensor"),
        (lambda n: nn.Linear(3, n), lambda _: torch.randn(2, 4), "module .*Linear.* cannot be lowered|the forward of"),
    ],
)
def test_what_cannot_be_done_is_one_line(build: Any, example: Any, said: str):
    with pytest.raises(UserError, match=said) as caught:
        prescribe(from_torch(build, example), base_width=BASE, width=WIDTH)
    assert "\n" not in str(caught.value)


def test_examples_in_shapes():
    first, second = example_of("8x16<256,2xwidth")(32)(0)
    assert (first.shape, first.dtype, second.shape) == ((8, 16), torch.int64, (2, 32)) and int(first.max()) < 256
    assert not torch.equal(first, example_of("8x16<256")(32)(1)[0])
    for bad in ("8x", "0x3", "8x16<0", "ax3", "", "8,,3"):
        with pytest.raises(UserError, match="is not understood; give module:function"):
            example_of(bad)


MODULE = """
import torch

def build(width):
    return torch.nn.Sequential(torch.nn.Linear(3, width), torch.nn.Tanh(), torch.nn.Linear(width, 2))

def example(width):
    return torch.randn(4, 3)

def lone(width):
    return build(width)
"""


def test_the_command_writes_a_file_that_runs_with_torch_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "net.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    prescribe_command("net:build", 8, 32, optimizer="adamw", framework="torch", output_format="torch")
    (tmp_path / "scaling.py").write_text(capsys.readouterr().out, encoding="utf-8")
    check = """
import sys, torch, net
from scaling import scaling
model = scaling.rescale_(net.build(32))
(optimizer,) = scaling.optimizers(model, 1e-2, 0.1)
for group in optimizer.param_groups:
    print(group["names"], group["lr"], group["eps"], group["weight_decay"])
assert not {"jax", "derive", "verify"} & {*sys.modules}
"""
    ran = subprocess.run([sys.executable, "-c", check], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert "['2.weight'] 0.0025 1e-08 0.4" in ran.stdout and "['0.weight'] 0.01 2.5e-09 0.1" in ran.stdout
    prescribe_command("net:lone", 8, 32, framework="torch", example="4x3")
    assert "2.weight" in capsys.readouterr().out
    with pytest.raises(UserError, match="for --framework torch"):
        prescribe_command("net:lone", 8, 32, example="4x3")
    sys.modules.pop("net")
    (tmp_path / "net.py").write_text(MODULE.replace("def example", "def examples"), encoding="utf-8")
    with pytest.raises(UserError, match=r"no function example\(width\) beside it"):
        load_torch("net:build")
    sys.modules.pop("net")


def test_places_survive_json():
    answer = prescribe(from_torch(lambda n: GPT(n, tied=True), tokens), base_width=BASE, width=WIDTH)
    assert answer.places["wte.weight#2"] == "lm_head: linear"
    assert ModelPrescription.from_json(answer.to_json()) == answer
