"""The coordinate check in torch: a CSV of right sizes passes, every planted power is caught, broken files are named."""

import csv
import math
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from derive.errors import DeriveError
from tests.helpers.extras import need_torchax
from verify.commands.model.check import check as check_command
from verify.model.prescribe import prescribe
from verify.model.prescription import ModelPrescription
from verify.torch.measured import COLUMNS, check_as_torch, judge_measured, ops_of

WIDTHS, SEEDS = (8, 16, 32, 64), 3
NAMES = {"first": "embedding", "middle": "hidden", "last": "readout"}


@pytest.fixture(scope="module")
def answer() -> ModelPrescription:
    """Named as torch names them; no torch is needed to judge."""

    def make(width: int) -> Any:
        draws = np.random.default_rng(0)

        def linear(fan_in: int, fan_out: int) -> dict[str, Any]:
            weight = draws.normal(size=(fan_out, fan_in)) / fan_in**0.5
            return {"weight": weight.astype(np.float32), "bias": np.full(fan_out, 0.1, np.float32)}

        params = {"first": linear(3, width), "middle": linear(width, width), "last": linear(width, 2)}

        def apply(p: Any, x: Any) -> Any:
            for name in ("first", "middle"):
                with jax.named_scope(f"module {name}"), jax.named_scope("linear"):
                    x = x @ p[name]["weight"].T + p[name]["bias"]
                x = jnp.tanh(x)
            with jax.named_scope("module last"), jax.named_scope("linear"):
                return x @ p["last"]["weight"].T + p["last"]["bias"]

        return params, apply, np.ones((4, 3), np.float32)

    return prescribe(make, base_width=WIDTHS[0], width=WIDTHS[-1], optimizer="adamw")


def powers(answer: ModelPrescription) -> dict[tuple[str, str], float]:
    """x of every size n^-x as predicted, by layer and quantity."""
    found: dict[tuple[str, str], float] = {}
    for op in answer.ops:
        row = answer.row(op.path)
        update, fan = float(row.c + row.s), (0.0 if op.kind == "embedding" else 1.0)
        found |= {
            (op.name, "weight"): float(row.b),
            (op.name, "delta_w"): update,
            (op.name, "output"): float(op.size or 0),
            (op.name, "input"): 0.0,
            (op.name, "delta_input"): 0.0,
            (op.name, "term_alpha"): update - float(op.alpha) * fan,
            (op.name, "term_omega"): float(row.b) - float(op.omega) * fan,
            (op.name, "term_u"): update - float(op.u) * fan,
            (op.name, "delta_output"): float(op.r),
        }
    for row in answer.parameters:
        at = f"parameter {row.path}"
        found |= {
            (at, "weight"): float(row.b),
            (at, "delta_w"): float(row.c + row.s),
            (at, "decay"): float(row.c + row.decay),
            (at, "entries"): -1.0,
        }
    return found


def write(path: Path, sizes: dict[tuple[str, str], float], setup: str = "prescribed") -> Path:
    draws = np.random.default_rng(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for (layer, quantity), power in sizes.items():
            for width in WIDTHS:
                for seed in range(SEEDS):
                    value = 0.1 * width**-power * math.exp(0.01 * draws.normal())
                    writer.writerow([setup, 1, layer, quantity, width, seed, value])
    return path


def test_right_sizes_pass(answer: ModelPrescription, tmp_path: Path):
    check, _, missing = judge_measured(answer, write(tmp_path / "sizes.csv", powers(answer)))
    assert check.measured["prescribed"].verdict == "passes" and not missing
    assert check.widths == WIDTHS and check.seeds == SEEDS


@pytest.mark.parametrize(
    ("layer", "quantity", "by", "named"),
    [
        ("last.weight", "output", -0.5, "last.weight"),
        ("middle.weight", "delta_output", -0.5, "middle.weight"),
        ("parameter first.bias", "weight", 0.5, "parameter first.bias"),
        ("parameter first.bias", "delta_w", -0.5, "parameter first.bias"),
        ("parameter middle.weight", "decay", 1.0, "parameter middle.weight"),
    ],
)
def test_a_planted_power_is_caught(
    answer: ModelPrescription, tmp_path: Path, layer: str, quantity: str, by: float, named: str
):
    sizes = powers(answer)
    sizes[layer, quantity] += by
    check, *_ = judge_measured(answer, write(tmp_path / "sizes.csv", sizes))
    assert [row.layer for row in check.measured["prescribed"].failures] == [named]


def test_the_model_as_it_is_gets_advice_and_unseen_ops_are_named(answer: ModelPrescription, tmp_path: Path):
    sizes = {key: x for key, x in powers(answer).items() if key[0] != "first.weight"}
    sizes["parameter last.weight", "weight"] = sizes["last.weight", "weight"] = 0.5
    sizes["last.weight", "output"] = 0.0
    check, _, missing = judge_measured(answer, write(tmp_path / "sizes.csv", sizes, "own"))
    assert missing == ["first.weight"]
    assert len(check.advice) == 1 and check.advice[0].startswith("last.weight (readout): initial size n^-0.5")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: [lines[0].replace("quantity", "what"), *lines[1:]], "has no column quantity"),
        (lambda lines: lines[:1], "has no rows"),
        (lambda lines: [*lines[:4], lines[4].replace(lines[4].split(",")[-1], "text"), *lines[5:]], "line 5: .*text"),
        (lambda lines: lines[:-1], "11 rows for 4 widths and 3 seeds"),
        (lambda lines: [lines[0], *(each for each in lines[1:] if ",8," in each)], "has 1 width"),
        (
            lambda lines: [each for each in lines if "parameter last.bias" not in each],
            "no sizes of parameter last.bias",
        ),
        (
            lambda lines: [each.replace("prescribed", "mine") for each in lines],
            "own or prescribed, not 'mine'",
        ),
    ],
)
def test_a_broken_file_is_one_line(answer: ModelPrescription, tmp_path: Path, change: Any, said: str):
    path = write(tmp_path / "sizes.csv", powers(answer))
    path.write_text("\n".join(change(path.read_text(encoding="utf-8").splitlines())) + "\n", encoding="utf-8")
    with pytest.raises(DeriveError, match=said) as caught:
        judge_measured(answer, path)
    assert "\n" not in str(caught.value)
    with pytest.raises(DeriveError, match="cannot read"):
        judge_measured(answer, tmp_path / "none.csv")


def test_the_file_is_python_and_names_every_op_s_module(answer: ModelPrescription):
    text = check_as_torch(answer, "net.py:build", None, "net.py:loss", WIDTHS, SEEDS, 2, 1e-3)
    compile(text, "check.py", "exec")
    assert "from net import build as build\nfrom net import example as example\nfrom net import loss as loss" in text
    assert not any(line.startswith(("import jax", "from verify", "from derive")) for line in text.splitlines())
    assert ops_of(answer) == {f"{name}.weight": (name, "weight") for name in NAMES}
    with pytest.raises(DeriveError, match="give --example module:function"):
        check_as_torch(answer, "net:build", "4x3", None, WIDTHS, SEEDS, 2, 1e-3)


NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.table, self.conv = nn.Embedding(11, width), nn.Conv1d(width, width, 1)
        self.out = nn.Linear(width, 11, bias=False)
        self.out.weight = self.table.weight

    def forward(self, tokens):
        return self.out(torch.tanh(self.conv(torch.tanh(self.table(tokens)).mT)).mT)

def build(width):
    return Net(width)

def example(width):
    return lambda step: torch.randint(0, 11, (16, 5), generator=torch.Generator().manual_seed(step))
"""


def test_measured_in_torch_and_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """A tied table whose readout has its multiplier by a hook: right as prescribed, wrong as it is."""
    pytest.importorskip("torch", reason="PyTorch is an extra; install scaling-exponents[torch]")
    need_torchax()
    (tmp_path / "tied_net.py").write_text(NET, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    given: dict[str, Any] = {"widths": "16,32,64,128", "optimizer": "adamw", "framework": "torch", "steps": 1}
    check_command("tied_net:build", **given, seeds=3, output_format="torch")
    names: dict[str, Any] = {"__name__": "emitted"}
    exec(compile(capsys.readouterr().out, "emitted.py", "exec"), names)  # noqa: S102

    def make(setup: str, model: Any, width: int) -> Any:
        return names["optimizers_of"](setup, model, width, 1e-3, 0.1)

    sizes = names["measure"](
        names["scaling"],
        names["OPS"],
        names["build"],
        names["example"],
        names["default_loss"],
        make,
        [16, 32, 64, 128],
        (3, 1),
    )
    names["write_sizes"](sizes, "sizes.csv")
    capsys.readouterr()
    check_command("tied_net:build", **given, measured=Path("sizes.csv"))
    shown = capsys.readouterr().out
    assert "prescribed: passes" in shown and "own: FAILS" in shown
    with pytest.raises(DeriveError, match="trains nothing"):
        check_command("tied_net:build", **given, measured=Path("sizes.csv"), drift_steps=3)
    sys.modules.pop("tied_net")
