"""microsoft/mup, asked of the same module, says what a prescription says; what differs is seen."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from tests.helpers.extras import need_torchax

torch = pytest.importorskip("torch", reason="PyTorch is an extra; install scaling-exponents[torch]")
need_torchax()
pytest.importorskip("mup", reason="a benchmark's alone; install mup to compare with it")

from benchmarks.torch_mup import compared  # noqa: E402
from tests.helpers.torch_modules import CASES, UNet, images  # noqa: E402
from verify.model.prescribe import prescribe  # noqa: E402
from verify.model.prescription import ModelPrescription  # noqa: E402
from verify.torch import from_torch  # noqa: E402

BASE, WIDTH = 16, 64


def answered(build: Any, example: Any) -> ModelPrescription:
    return prescribe(from_torch(build, example), base_width=BASE, width=WIDTH, optimizer="adamw")


@pytest.fixture(scope="module")
def mlp() -> ModelPrescription:
    return answered(CASES["mlp"].build, CASES["mlp"].example)


def test_plain_and_tied_readouts_agree(mlp: ModelPrescription):
    assert compared(CASES["mlp"].build, ["layers.5.weight"], mlp) == (6, [])
    tied = answered(CASES["gpt_tied"].build, CASES["gpt_tied"].example)
    assert compared(CASES["gpt_tied"].build, ["lm_head.weight"], tied) == (28, [])


@pytest.mark.parametrize(("name", "what"), [("b", "size"), ("c", "rate"), ("decay", "shrinks")])
def test_a_planted_exponent_is_named(name: str, what: str, mlp: ModelPrescription):
    planted = tuple(
        replace(row, **{name: getattr(row, name) + Fraction(1, 2)}) if row.path == "layers.3.weight" else row
        for row in mlp.parameters
    )
    same, apart = compared(CASES["mlp"].build, ["layers.5.weight"], replace(mlp, parameters=planted))
    assert same == 5
    assert [line.partition(": ")[0] for line in apart] == ["layers.3.weight"]
    assert f"{what} x" in apart[0]


def test_a_readout_that_is_no_linear_layer_has_no_multiplier_there():
    """The same U-Net with its last convolution written as the Linear layer that it is agrees in all."""
    _, apart = compared(UNet, ["last.weight"], answered(UNet, images))
    assert apart == ["last.weight: size x 1 there, x 0.25 here, rate x 1 there, x 0.25 here"]

    class Last(UNet):
        def __init__(self, width: int) -> None:
            super().__init__(width)
            self.last = torch.nn.Linear(width, 3)

        def forward(self, x: Any) -> Any:
            held, self.last = self.last, torch.nn.Identity()
            try:
                return held(super().forward(x).movedim(1, -1))
            finally:
                self.last = held

    assert compared(Last, ["last.weight"], answered(Last, images)) == (12, [])
