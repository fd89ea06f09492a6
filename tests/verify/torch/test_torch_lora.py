"""Adapters beside a frozen base: they alone are trained, and their rates are those known for them."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.helpers.extras import need_torchax

torch = pytest.importorskip("torch", reason="PyTorch is an extra; install scaling-exponents[torch]")
need_torchax()

from derive.errors import UserError  # noqa: E402
from tests.helpers.torch_modules import GPT, tokens  # noqa: E402
from verify.model.prescribe import prescribe  # noqa: E402
from verify.model.prescription import ModelPrescription  # noqa: E402
from verify.torch import from_torch  # noqa: E402

BASE, WIDTH, RANK = 16, 64, 4


class Adapted(torch.nn.Module):
    """A linear layer that stays, and beside it B A."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer
        self.a = torch.nn.Linear(layer.in_features, RANK, bias=False)
        self.b = torch.nn.Linear(RANK, layer.out_features, bias=False)
        torch.nn.init.zeros_(self.b.weight)

    def forward(self, x: Any) -> Any:
        return self.layer(x) + self.b(self.a(x))


def by_hand(width: int) -> Any:
    model = GPT(width).requires_grad_(False)
    for block in model.h:
        block.c_attn = Adapted(block.c_attn)
    return model


def by_peft(width: int, **options: Any) -> Any:
    peft = pytest.importorskip("peft", reason="a benchmark's alone; install peft to see its adapters")
    given = {"r": RANK, "lora_alpha": 8, "target_modules": ["c_attn", "c_fc"], "lora_dropout": 0.1, **options}
    return peft.get_peft_model(GPT(width), peft.LoraConfig(**given))


def answered(build: Callable[[int], Any]) -> ModelPrescription:
    return prescribe(from_torch(build, tokens), base_width=BASE, width=WIDTH, optimizer="adamw")


@pytest.mark.parametrize(("build", "a", "b"), [(by_hand, "a.weight", "b.weight"), (by_peft, "lora_A", "lora_B")])
def test_adapters_alone_are_trained_and_b_s_rate_is_n_times_a_s(build: Callable[[int], Any], a: str, b: str):
    """A's rate goes as n^-1 and B's as n^0, from which LoRA+ takes B's larger by n (arXiv 2402.12354)."""
    answer, model = answered(build), build(WIDTH)
    trained = {row.path for row in answer.parameters if row.is_trained}
    assert trained == {name for name, each in model.named_parameters() if each.requires_grad}
    assert {row.why for row in answer.parameters if not row.is_trained} == {"frozen"}
    for row in answer.parameters:
        if row.is_trained:
            assert (a in row.path) != (b in row.path)
            assert row.c == (1 if a in row.path else 0), row.path

    scaling = answer.torch()
    scaling.rescale_(model)
    groups = scaling.param_groups(model, 1e-2)
    assert {name for group in groups for name in group["names"]} == trained
    rates = {name: group["lr"] for group in groups for name in group["names"]}
    assert all(rate == pytest.approx(1e-2 / 4 if a in name else 1e-2) for name, rate in rates.items())

    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    (step,) = scaling.optimizers(model, 1e-2)
    for _ in range(2):  # B is zero at first, so that A moves in the second
        step.zero_grad()
        model(tokens(WIDTH)).square().sum().backward()
        step.step()
    moved = {name for name, each in model.named_parameters() if not torch.equal(each.detach(), before[name])}
    assert moved == trained


def test_a_weight_asked_for_by_an_identity_is_refused():
    with pytest.raises(UserError, match=r"rows grow with the width.*DoRA") as caught:
        answered(lambda width: by_peft(width, use_dora=True))
    assert "\n" not in str(caught.value)
