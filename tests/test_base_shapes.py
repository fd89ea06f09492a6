"""Base shapes of microsoft/mup: read, compared entry by entry, ambiguity named; the recipe for PyTorch runs."""

import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from derive.cli import app as derive_app
from derive.cli import run
from derive.emit_code import as_torch
from derive.errors import DeriveError
from derive.parameterizations import MUP
from derive.solve import Prescription, prescribe, solve_kinds
from verify.base_shapes import Dims, compare, read_shapes
from verify.cli import app

BASE: dict[str, Dims] = {
    "table.weight": (None, 256),
    "layers.0.weight": (1024, 256),
    "layers.0.bias": (1024,),
    "in.weight": (256, None),
    "conv.weight": (256, 256, None, None),
    "readout.weight": (None, 256),
    "readout.bias": (None,),
}
ROLES = {"table.weight": "embedding", "readout.weight": "readout"}
RECIPE = (Path(__file__).parent.parent / "docs" / "pytorch.md").read_text(encoding="utf-8")


def derived(optimizer: str, parameterization: str = "mup", alignment: str = "full") -> Prescription:
    return solve_kinds(prescribe(optimizer, parameterization, alignment).problem)


def write(path: Path, shapes: dict[str, Any]) -> Path:
    path.write_text("# a comment\n" + json.dumps({name: list(dims) for name, dims in shapes.items()}), encoding="utf-8")
    return path


def run_verify(arguments: list[str], capsys: Any) -> tuple[int, str, str]:
    code = run(lambda: app(arguments, standalone_mode=False), "verify", (ValueError,))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_yaml_is_read_as_the_package_writes_it(tmp_path: Path):
    file = tmp_path / "base.bsh"
    file.write_text("# comment\nreadout.weight:\n- null\n- 256\nlayers.0.bias:\n- 1024\n", encoding="utf-8")
    assert read_shapes(file, "base shapes") == {"readout.weight": (None, 256), "layers.0.bias": (1024,)}


def test_roles_come_from_the_dims_and_what_they_leave_open_is_said():
    entries = {entry.name: entry for entry in compare(BASE, derived("adam"))}
    assert {name: entry.role for name, entry in entries.items()} == {
        "table.weight": None,
        "layers.0.weight": "hidden",
        "layers.0.bias": "embedding",
        "in.weight": "embedding",
        "conv.weight": "hidden",
        "readout.weight": None,
        "readout.bias": "embedding",
    }
    assert "same shape; give --role" in entries["table.weight"].why
    assert entries["table.weight"].agrees is None


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "momentum"])
@pytest.mark.parametrize("scheme", ["mup", "mfp", "mup-package"])
def test_the_package_is_mup_in_another_gauge(optimizer: str, scheme: str):
    entries = compare(BASE, derived(optimizer, scheme), ROLES)
    assert [entry.agrees for entry in entries] == [True] * len(entries)


def test_what_differs_is_named():
    entries = {entry.name: entry for entry in compare(BASE, derived("adam", "sp"), ROLES)}
    assert {name for name, entry in entries.items() if not entry.agrees} == {"readout.weight"}
    assert "a + b is 1 in the package and 1/2 in SP" in entries["readout.weight"].differs
    entries = {entry.name: entry for entry in compare(BASE, derived("adam", "mup", "none"), ROLES)}
    assert {name for name, entry in entries.items() if not entry.agrees} >= {"layers.0.weight", "readout.weight"}
    assert "the rate is n^-1 in the package and n^-1/2 here" in entries["layers.0.weight"].differs


def test_a_target_gives_numbers_that_train_alike():
    """Multiplier times initial std is gauge-free; so is, for Adam, multiplier times rate."""
    target = {
        "table.weight": (50, 1024),
        "layers.0.weight": (8192, 1024),
        "layers.0.bias": (8192,),
        "in.weight": (1024, 3),
    }
    target |= {"conv.weight": (1024, 1024, 3, 3), "readout.weight": (10, 1024), "readout.bias": (10,)}
    entries = {entry.name: entry for entry in compare(BASE, derived("adam"), ROLES, target)}
    for entry in entries.values():
        theirs, ours = entry.factors(entry.theirs), entry.factors(entry.ours)  # type: ignore[arg-type]
        assert theirs[0] * theirs[1] == pytest.approx(ours[0] * ours[1])
        assert theirs[0] * theirs[2] == pytest.approx(ours[0] * ours[2])
    assert entries["layers.0.weight"].factors(entries["layers.0.weight"].theirs)[2] == 0.25  # type: ignore[arg-type]
    assert entries["layers.0.bias"].growth == 8
    for name, dims, message in (
        ("in.weight", (128, 3), "shrinks"),
        ("in.weight", (1024,), "full shape"),
        ("other", (3,), "unknown parameter of the target 'other'"),
    ):
        with pytest.raises(DeriveError, match=message):
            compare(BASE, derived("adam"), ROLES, {**target, name: dims})
    with pytest.raises(DeriveError, match=r"no parameter 'readout\.bias'"):
        compare(BASE, derived("adam"), ROLES, {name: dims for name, dims in target.items() if name != "readout.bias"})


def test_the_command(tmp_path: Path, capsys: Any):
    file = str(write(tmp_path / "base.bsh", BASE))
    code, out, error = run_verify(["shapes", file], capsys)
    assert (code, error) == (0, "")
    assert "5 of 7 agree, 0 differ, 2 cannot be told from shapes alone" in out
    roles = [part for name, kind in ROLES.items() for part in ("--role", f"{name}={kind}")]
    code, out, _ = run_verify(["shapes", file, *roles, "--parameterization", "sp", "--format", "json"], capsys)
    rows = {row["parameter"]: row for row in json.loads(out)["rows"]}
    assert rows["readout.weight"]["agrees"] is False
    assert rows["layers.0.weight"]["package"] == {"a": "0", "b": "1/2", "c": "1"}


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (None, [], "cannot read the base shapes"),
        ("{", [], "not YAML"),
        ("3", [], "has no parameters"),
        ("w: 256", [], "'w' in the base shapes has '256'"),
        ("w: [0.5]", [], "whole numbers and null"),
        ("w: [4, 4]", ["--optimizer", "lion"], "has no optimizer for 'lion'"),
        ("w: [4, 4]", ["--role", "w"], "names no kind"),
        ("w: [4, 4]", ["--role", "w=readout"], "shows hidden"),
        ("w: [null, 4]", ["--role", "w=output"], "unknown layer kind 'output'"),
        ("w: [4, 4]", ["--role", "v=hidden"], "did you mean w"),
    ],
)
def test_mistakes_are_one_line(content: str | None, options: list[str], message: str, tmp_path: Path, capsys: Any):
    file = tmp_path / "base.bsh"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    code, out, error = run_verify(["shapes", str(file), *options], capsys)
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert message in error or "allowed: w" in error


def test_derive_compares_a_gauge_of_ones_own(capsys: Any):
    for arguments, expected in (
        (["equivalent", "mup", "mup-package"], "muP and mup-package train alike"),
        (["equivalent", "mup", "a=0,0,1;b=0,1/2,0", "--optimizer", "sgd"], "train alike"),
        (["equivalent", "sp", "mup-package"], "not equivalent: readout"),
    ):
        code = run(lambda arguments=arguments: derive_app(arguments, standalone_mode=False), "derive")
        assert code == 0
        assert expected in capsys.readouterr().out
    for text in ("a=0,0,1", "a=0;b=1", "a=0,0,1;b=0,1/2,__import__"):
        code = run(lambda text=text: derive_app(["equivalent", "mup", text], standalone_mode=False), "derive")
        assert code == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_the_recipe_for_pytorch_runs(monkeypatch: pytest.MonkeyPatch):
    """Every parameter has the prescribed RMS and rate, by the module that the recipe's command emits."""
    torch = pytest.importorskip("torch", reason="PyTorch is no dependency of this project")
    torch.manual_seed(0)
    code = re.findall(r"```python\n(.*?)```", RECIPE, flags=re.DOTALL)
    assert len(code) == 2
    gauge = MUP.gauge()
    module = ModuleType("scaling")
    emitted = as_torch(solve_kinds(prescribe("adamw", gauge, "full").problem))
    exec(compile(emitted, "scaling", "exec"), module.__dict__)  # noqa: S102
    monkeypatch.setitem(sys.modules, "scaling", module)
    names: dict[str, Any] = {}
    for block in code:
        exec(compile(block.replace("256, 4096", "32, 128"), "recipe", "exec"), names)  # noqa: S102
    sizes = {name: float(p.detach().square().mean().sqrt()) for name, p in names["model"].named_parameters()}
    small = {name: float(p.detach().square().mean().sqrt()) for name, p in names["small"].named_parameters()}
    for name, factor in (
        ("embedding.weight", 1),
        ("hidden.0.weight", 0.5),
        ("readout.weight", 0.25),
        ("hidden.1.bias", 1),
    ):
        assert sizes[name] == pytest.approx(small[name] * factor, rel=1e-4)
    assert [group["lr"] for group in names["step"].param_groups] == pytest.approx([3e-3, 7.5e-4, 7.5e-4])
    logits = names["model"](torch.zeros(1, 3, dtype=torch.long))
    logits.sum().backward()
    names["step"].step()
