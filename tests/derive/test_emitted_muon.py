"""Emitted groups for torch.optim.Muon and AdamW side by side step as the rules say, whatever the shape of a kernel."""

import math
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from derive.cli import app
from derive.emit_torch_muon import as_torch
from derive.errors import DeriveError
from derive.scale import MATCHED, Scale
from derive.solve import prescribe
from tests.derive.test_emitted import executed, stub_torch, written  # noqa: F401

SHAPES = {"square": (64, 64), "up": (256, 64), "down": (64, 256), "kernel": (64, 64, 3, 3)}
WIDTHS = ("--base-width", "16", "--width", "64", "--base-rate", "0.01")
MIXED = ("--optimizer", "adamw,hidden=muon", "--parameterization", "mup", *WIDTHS, "--format", "torch")


def kind(name: str, _: Any = None) -> str:
    return {"readout": "readout", "table": "embedding", "bias": "embedding"}.get(name, "hidden")


def stubs() -> dict[str, Any]:
    shapes = {**SHAPES, "readout": (10, 64), "table": (10, 64), "bias": (64,)}
    return {name: SimpleNamespace(shape=shape, ndim=len(shape)) for name, shape in shapes.items()}


@pytest.mark.usefixtures("stub_torch")
def test_groups_are_by_rule_layer_and_shape(capsys: pytest.CaptureFixture[str]) -> None:
    """Bare Muon: torch's own factor sqrt(max(1, rows / columns)) is taken out of the rate and put into the decay."""
    emitted = written(capsys, *MIXED)
    named = stubs()
    groups = emitted["param_groups"](named.items(), kind, {"adamw": 0.01, "muon": 0.02}, weight_decay=0.1)
    by_name = {name: g for name, each in named.items() for g in groups if any(each is p for p in g["params"])}
    assert {name: g["rule"] for name, g in by_name.items()} == {
        name: "muon" if name in SHAPES else "adamw" for name in named
    }
    lr = {name: g["lr"] for name, g in by_name.items()}
    assert lr["square"] == lr["down"] == lr["kernel"] == pytest.approx(0.02)
    assert lr["up"] == pytest.approx(0.02 / 2)
    assert lr["table"] == pytest.approx(0.01) and lr["readout"] == pytest.approx(0.01 / 4)
    assert all(by_name[name]["lr"] * by_name[name]["weight_decay"] == pytest.approx(0.002) for name in SHAPES)
    assert by_name["bias"]["weight_decay"] == 0
    assert all(isinstance(g[key], float) for g in groups for key in ("lr", "eps", "weight_decay"))


@pytest.mark.usefixtures("stub_torch")
def test_what_is_no_matrix_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    emitted = written(capsys, *MIXED)
    with pytest.raises(ValueError, match=r"takes matrices, and bias of shape \(64,\) is not one"):
        emitted["param_groups"](stubs().items(), lambda *_: "hidden")
    with pytest.raises(ValueError, match="Muon in torch"):
        sys.modules["torch"].__version__ = "2.8"  # type: ignore[attr-defined]
        emitted["optimizers"]({"square": stubs()["square"]}.items(), kind)


@pytest.mark.usefixtures("stub_torch")
@pytest.mark.parametrize("rule", MATCHED)
def test_a_matched_rate_gives_adamw_s_rms_at_the_base_and_the_rule_s_power_above(rule: str) -> None:
    """polar(m) of a full-rank n x m matrix has RMS 1/sqrt(max(n, m)); AdamW's update has 0.2."""
    answer = prescribe({"embedding": "adamw", "hidden": rule, "readout": "adamw"}, "sp")
    emitted = executed(as_torch(answer, Scale(16, 16, 0.01, {"hidden": rule})))
    torch_factor = {
        "muon-rms": lambda rows, columns: 0.2 * max(rows, columns) ** 0.5,
    }.get(rule, lambda rows, columns: max(1, rows / columns) ** 0.5)
    for ratio in (1, 4):
        for rows, columns in ((16, 16), (64, 16), (16, 64)):
            shape = (rows * ratio, columns * ratio)
            named = {"w": SimpleNamespace(shape=shape, ndim=2)}
            (group,) = emitted["param_groups"](named.items(), {"w": "hidden.0"}, 0.01, 16 * ratio, 16, weight_decay=0.1)
            step = group["lr"] * torch_factor(*shape)
            assert step / max(rows, columns) ** 0.5 == pytest.approx(0.2 * 0.01)  # the rate of polar(m) is n^0
            wanted = 0.01 * 0.1 * ratio ** -float(answer.layers[1].c + answer.layers[1].decay)
            assert group["lr"] * group["weight_decay"] == pytest.approx(wanted)


def test_the_table_spells_the_match_out(capsys: pytest.CaptureFixture[str]) -> None:
    app(["--optimizer", "adamw,hidden=muon", "--match", "adamw", *WIDTHS], standalone_mode=False)
    shown = " ".join(capsys.readouterr().out.split())
    assert "at 16: 0.01 x 0.2 sqrt(16) = 0.008" in shown
    assert "at 64: 0.008 x 4^-0 = 0.008" in shown
    assert "lr=0.005 with adjust_lr_fn='match_rms_adamw'" in shown
    assert re.search(r"hidden 0.008 ", shown)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--optimizer", "adam", *WIDTHS), "give --optimizer adamw,hidden=muon"),
        (("--optimizer", "adamw,readout=muon", *WIDTHS), "give --optimizer adamw,hidden=muon"),
        (("--optimizer", "adamw,hidden=muon"), "goes by the base width"),
        (("--optimizer", "adamw,hidden=muon", *WIDTHS, "--format", "optax"), "--format torch"),
    ],
)
def test_a_match_that_means_nothing_is_refused(arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(DeriveError, match=said):
        app([*arguments, "--match", "adamw"], standalone_mode=False)


@pytest.mark.parametrize("rule", MATCHED)
def test_a_step_is_that_of_the_rule(rule: str) -> None:
    """Against polar(gradient) by SVD: Newton-Schulz leaves singular values between 0.65 and 1.25."""
    torch = pytest.importorskip("torch", reason="PyTorch is not a dependency; the stubs above cover the numbers")
    torch.manual_seed(0)
    emitted = executed(as_torch(prescribe({"embedding": "adamw", "hidden": rule, "readout": "adamw"}, "sp")))
    for shape in SHAPES.values():
        weight = torch.nn.Parameter(torch.zeros(shape))
        made = emitted["optimizers"]({"w": weight}.items(), {"w": "hidden.0"}, 0.5, 16, 16)
        rows, columns = shape[0], math.prod(shape[1:])
        weight.grad = (0.05 * torch.randn(rows, columns) + torch.eye(rows, columns)).view(shape)  # none near 0
        gradient = weight.grad.flatten(1)
        made[0].step()
        left, _, right = torch.linalg.svd(gradient, full_matrices=False)
        scale = {"muon": 1.0, "muon-keller": max(1, rows / columns) ** 0.5}.get(rule, 0.2 * max(rows, columns) ** 0.5)
        singular = torch.diagonal(left.T @ (-weight.detach().flatten(1)) @ right.T) / (0.5 * scale)
        assert weight.shape == shape and singular.min() > 0.65 and singular.max() < 1.25


def test_emitted_code_needs_nothing_of_this_project(tmp_path: Path) -> None:
    """Where torch is: with the standard library and torch on the path, and neither derive nor jax."""
    pytest.importorskip("torch")
    code = as_torch(prescribe({"embedding": "adamw", "hidden": "muon", "readout": "adamw"}, "sp"), Scale(16, 64, 0.01))
    check = "import sys; assert not {'jax', 'derive', 'verify'} & {*sys.modules}\n"
    (tmp_path / "scaling.py").write_text(code + "\n" + check, encoding="utf-8")
    subprocess.run([sys.executable, "scaling.py"], cwd=tmp_path, check=True, timeout=120)
