"""Parameter groups and multipliers of a prescription in torch itself: what trains there is what was prescribed."""

import copy
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.extras import need_torchax
from tests.helpers.paths import ROOT
from verify.model.prescribe import prescribe
from verify.torch import from_torch

torch = pytest.importorskip("torch", reason="PyTorch is an extra; install scaling-exponents[torch]")
need_torchax()

import jax  # noqa: E402

from tests.helpers.torch_modules import CASES, GPT, MLP, ResNet, images, tokens  # noqa: E402
from verify.torch.emit import as_torch  # noqa: E402
from verify.torch.standalone import Times, plain  # noqa: E402

BASE, WIDTH = 8, 32
RATIO = WIDTH / BASE


def scaling_of(name: str, optimizer: str = "adamw", **keywords: Any) -> Any:
    case = CASES[name]
    make = from_torch(case.build, case.example)
    return prescribe(make, base_width=BASE, width=WIDTH, optimizer=optimizer, **keywords).torch()


@pytest.fixture(scope="module")
def mlp() -> Any:
    return scaling_of("mlp")


def groups_by_name(groups: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: group for group in groups for name in group["names"]}


def test_groups_are_plain_floats_by_name(mlp: Any):
    model = MLP(WIDTH)
    by_name = groups_by_name(mlp.param_groups(model, 1e-2, 0.1))
    wanted = {  # rate, eps, weight decay
        "layers.0.weight": (1e-2, 1e-8 / RATIO, 0.1),
        "layers.0.bias": (1e-2, 1e-8 / RATIO, 0.0),
        "layers.3.weight": (1e-2 / RATIO, 1e-8 / RATIO, 0.1 * RATIO),
        "layers.3.bias": (1e-2, 1e-8 / RATIO, 0.0),
        "layers.5.weight": (1e-2 / RATIO, 1e-8, 0.1 * RATIO),
        "layers.5.bias": (1e-2, 1e-8, 0.0),
    }
    for name, numbers in wanted.items():
        found = tuple(by_name[name][key] for key in ("lr", "eps", "weight_decay"))
        assert found == pytest.approx(numbers) and all(type(each) is float for each in found), name
    everything = groups_by_name(mlp.param_groups(model, 1e-2, 0.1, no_decay=lambda *_: False))
    assert all(group["weight_decay"] > 0 for group in everything.values())
    model.layers[0].weight.requires_grad_(False)
    assert "layers.0.weight" not in groups_by_name(mlp.param_groups(model, 1e-2))


def test_initial_sizes_are_those_of_the_base_width_times_their_powers(mlp: Any):
    make = from_torch(MLP, CASES["mlp"].example)
    small, wide = make._module(BASE), mlp.rescale_(make._module(WIDTH))
    powers = {"layers.3.weight": Fraction(1, 2), "layers.5.weight": Fraction(1)}
    base = dict(small.named_parameters())
    for name, each in wide.named_parameters():
        sizes = [float(p.detach().square().mean().sqrt()) for p in (base[name], each)]
        assert sizes[1] == pytest.approx(sizes[0] * RATIO ** -float(powers.get(name, 0)), rel=1e-4)
    with torch.no_grad():
        wide.layers[3].weight.zero_()
    with pytest.raises(ValueError, match=r"layers\.3\.weight is all zero, and at the base width"):
        mlp.rescale_(wide)


def test_another_model_or_width_is_refused(mlp: Any):
    with pytest.raises(ValueError, match=r"layers\.0\.weight has shape \(16, 7\); at width 32 it has \(32, 7\)"):
        mlp.param_groups(MLP(16), 1e-2)
    with pytest.raises(ValueError, match="prescribe for the model that is trained"):
        mlp.param_groups(ResNet(WIDTH), 1e-2)
    groups = groups_by_name(mlp.at(64).param_groups(MLP(64), 1e-2))
    assert groups["layers.3.weight"]["lr"] == pytest.approx(1e-2 / 8)


def test_groups_survive_a_schedule_accumulation_and_a_checkpoint(mlp: Any, tmp_path: Path):
    """Two halves of a batch step as the whole, and what was saved half way goes on to the same numbers."""
    model = mlp.rescale_(MLP(WIDTH).eval())
    x, y = torch.randn(8, 7), torch.randn(8, 5)

    def run(module: Any, steps: int, halves: int, state: Any = None) -> Any:
        (optimizer,) = mlp.optimizers(module, 1e-2, 0.1)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        if state is not None:
            optimizer.load_state_dict(state["optimizer"])
            schedule.load_state_dict(state["schedule"])
        before = [group["initial_lr"] for group in optimizer.param_groups]
        for _ in range(steps):
            for part in range(halves):
                rows = slice(part * 8 // halves, (part + 1) * 8 // halves)
                ((module(x[rows]) - y[rows]).square().mean() / halves).backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        shares = [group["lr"] / rate for group, rate in zip(optimizer.param_groups, before, strict=True)]
        assert max(shares) == pytest.approx(min(shares))
        return {"model": module.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}

    whole, halved, kept = (copy.deepcopy(model) for _ in range(3))
    run(whole, 4, 1)
    run(halved, 4, 2)
    torch.save(run(kept, 2, 1), tmp_path / "half.pt")
    state = torch.load(tmp_path / "half.pt", weights_only=True)
    again = MLP(WIDTH).eval()
    again.load_state_dict(state["model"])
    run(again, 2, 1, state)
    for other in (halved, again):
        for one, two in zip(whole.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


def test_the_multiplier_of_a_tied_table_is_a_hook_of_the_module_that_reads_it():
    scaling = scaling_of("gpt_tied")
    make = from_torch(CASES["gpt_tied"].build, tokens)
    answer = prescribe(make, base_width=BASE, width=WIDTH, optimizer="adamw")
    model = make._module(WIDTH)
    params, apply, inputs = make(WIDTH)
    with pytest.raises(ValueError, match=r"call apply_multipliers\(model\) first"):
        scaling.param_groups(model, 1e-2)
    assert scaling.apply_multipliers(model) == []
    wanted = answer.wrap(apply)(params, inputs)
    torch.testing.assert_close(
        model(torch.tensor(inputs).long()), torch.tensor(jax.device_get(wanted)), rtol=1e-4, atol=1e-5
    )
    assert len(groups_by_name(scaling.param_groups(model, 1e-2))) == len(dict(model.named_parameters()))
    with pytest.raises(ValueError, match="already"):
        scaling.apply_multipliers(model)


def test_a_scale_inside_attention_is_a_line_to_write(capsys: pytest.CaptureFixture[str]):
    scaling = scaling_of("gpt_heads")
    lines = scaling.apply_multipliers(GPT(WIDTH, heads=2))
    assert lines == capsys.readouterr().out.splitlines()
    said = "scaled_dot_product_attention(q, k, v, scale=0.5 * q.shape[-1] ** -0.5), or the scale that it has times 0.5"
    assert lines == [f"forward of h.{index}: {said}" for index in range(2)]


@pytest.mark.parametrize("forward_only", [False, True])
def test_a_parameter_s_multiplier_is_a_parametrization(forward_only: bool):
    """gauge="own": as `wrap`, its gradient too, and names stay those of the rows."""
    case = CASES["mlp"]
    make = from_torch(case.build, case.example)
    answer = prescribe(make, base_width=BASE, width=WIDTH, optimizer="adamw", gauge="own", forward_only=forward_only)
    scaling, model = answer.torch(), make._module(WIDTH)
    params, apply, inputs = make(WIDTH)
    scaling.apply_multipliers(model)
    wanted = jax.grad(lambda p: (answer.wrap(apply)(p, inputs) ** 2).mean())(params)
    model(torch.tensor(inputs)).square().mean().backward()
    for name, each in model.named_parameters():
        gradient = torch.tensor(jax.device_get(wanted[plain(name)]))
        torch.testing.assert_close(each.grad, gradient, rtol=1e-4, atol=1e-6)
    assert groups_by_name(scaling.param_groups(model, 1e-2)).keys() == params.keys()
    assert isinstance(model.layers[5].parametrizations.weight[0], Times)
    model.load_state_dict(copy.deepcopy(model.state_dict()))


def test_muon_takes_kernels_and_adamw_the_rest():
    scaling = scaling_of("resnet", "adamw,hidden=muon-keller")
    model = scaling.rescale_(ResNet(WIDTH))
    before = copy.deepcopy(model.state_dict())
    made = {
        type(each).__mro__[0].__name__: each for each in scaling.optimizers(model, {"adamw": 1e-3, "muon-keller": 0.1})
    }
    hidden = {name for group in made["Muon"].param_groups for name in group["names"]}
    assert hidden == {name for name, _ in model.named_parameters() if "conv" in name or "down" in name}
    model(images(0)).square().mean().backward()
    for each in made.values():
        each.step()
    for name, each in model.named_parameters():
        assert each.shape == before[name].shape and (each != before[name]).any(), name
    (group,) = [g for g in made["Muon"].param_groups if "blocks.1.conv1.weight" in g["names"]]
    # fan-in 9 n, fan-out 2 n: both factors are 1
    assert group["lr"] == pytest.approx(0.1 * scaling.factor(scaling.rows["blocks.1.conv1.weight"].rate))


def test_decay_that_torch_would_couple_is_refused():
    scaling = scaling_of("mlp", "rmsprop")
    with pytest.raises(ValueError, match="is no decoupled one"):
        scaling.optimizers(MLP(WIDTH), 1e-3, 0.1)
    assert len(scaling.optimizers(MLP(WIDTH), 1e-3)) == 1
    with pytest.raises(ValueError, match=r"torch\.optim has no lion"):
        scaling_of("mlp", "lion").optimizers(MLP(WIDTH), 1e-3)


def test_the_file_is_what_the_object_is():
    case = CASES["gpt_tied"]
    answer = prescribe(from_torch(case.build, tokens), base_width=BASE, width=WIDTH, optimizer="adamw,hidden=muon")
    names: dict[str, Any] = {"__name__": "scaling"}
    exec(compile(as_torch(answer), "scaling.py", "exec"), names)  # noqa: S102
    written, ours = names["scaling"], answer.torch()
    assert {name: tuple(row) for name, row in written.rows.items()} == {
        name: tuple(row) for name, row in ours.rows.items()
    }
    assert {name: tuple(each) for name, each in written.products.items()} == {
        name: tuple(each) for name, each in ours.products.items()
    }


FSDP = """
import os, sys, torch, torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, get_model_state_dict, StateDictOptions
from scaling import scaling
from tests.helpers.torch_modules import GPT, BATCH, CONTEXT, VOCABULARY

def train(model, rank, ranks):
    # Keys' biases have no gradient but for rounding, which Adam would blow up without such an eps.
    (optimizer,) = scaling.optimizers(model, 1e-2, 0.1, eps=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    for step in range(3):
        data = torch.randint(0, VOCABULARY, (4, CONTEXT), generator=torch.Generator().manual_seed(step))
        model(data[rank::ranks]).square().mean().backward()
        optimizer.step(); schedule.step(); optimizer.zero_grad()
    return optimizer

dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(0); alone = scaling.rescale_(GPT(32)); train(alone, 0, 1)
torch.manual_seed(0); model = GPT(32)
for block in model.h:
    fully_shard(block)
fully_shard(model)
scaling.rescale_(model)
optimizer = train(model, rank, 2)
options = StateDictOptions(full_state_dict=True)
whole, state = get_model_state_dict(model, options=options), get_optimizer_state_dict(model, optimizer, options=options)
assert all(isinstance(group["lr"], float) for group in state["param_groups"]) if rank == 0 else True
if rank == 0:
    for name, each in alone.state_dict().items():
        torch.testing.assert_close(whole[name], each, rtol=2e-4, atol=2e-5)
    print("the same as alone")
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_fsdp2_on_two_processes_trains_as_one(tmp_path: Path):
    """Rescaled after sharding, groups from sharded parameters, a schedule: the same weights as on one process."""
    case = CASES["gpt"]
    answer = prescribe(from_torch(case.build, tokens), base_width=BASE, width=WIDTH, optimizer="adamw")
    (tmp_path / "scaling.py").write_text(as_torch(answer), encoding="utf-8")
    (tmp_path / "train.py").write_text(FSDP, encoding="utf-8")
    root = str(ROOT)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "train.py"]
    path = os.pathsep.join([root, str(tmp_path)])
    ran = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": path}
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "the same as alone" in ran.stdout


COMPILED = """
import copy, torch
from scaling import scaling
from tests.helpers.torch_modules import GPT, tokens

model = scaling.rescale_(GPT(32, tied=True))
scaling.apply_multipliers(model)
for backend in ("eager", "aot_eager"):
    plain, other = copy.deepcopy(model), copy.deepcopy(model)
    compiled, data = torch.compile(other, backend=backend), tokens(0)
    torch.testing.assert_close(compiled(data), plain(data), rtol=1e-4, atol=1e-5)
    for module in (compiled, plain):
        (optimizer,) = scaling.optimizers(module, 1e-2, 0.1, eps=1e-3)
        for _ in range(3):
            module(data).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    for one, two in zip(plain.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-5)
print("the same compiled")
"""


@pytest.mark.slow
def test_what_is_compiled_trains_alike_with_hooks_and_parametrizations(tmp_path: Path):
    """In a process of its own: torch.compile looks for devices that torchax has registered."""
    answer = prescribe(
        from_torch(CASES["gpt_tied"].build, tokens), base_width=BASE, width=WIDTH, optimizer="adamw", gauge="own"
    )
    (tmp_path / "scaling.py").write_text(as_torch(answer), encoding="utf-8")
    path = os.pathsep.join([str(ROOT), str(tmp_path)])
    ran = subprocess.run(
        [sys.executable, "-c", COMPILED],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "the same compiled" in ran.stdout
