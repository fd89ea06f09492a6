"""Every format of every triple of the table is read back by its own reader, and emitted code runs."""

import csv
import io
import itertools
import re
import sys
import types
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import pytest

from derive.cli import app
from derive.emit import FORMATS, Scale
from derive.emit_code import as_python
from derive.emit_optax import OPTAX_RULES, as_optax
from derive.emit_torch import TORCH_RULES
from derive.emit_torch_muon import as_torch
from derive.explain import as_latex as explained_latex
from derive.explain import as_text as explained_text
from derive.parameterizations import parameterization
from derive.registry import REGISTRY
from derive.solve import Prescription, prescribe

TRIPLES = list(itertools.product(("sgd", "adam", "adafactor"), ("sp", "ntk", "mup", "mfp"), ("full", "none")))
KINDS = ("embedding", "hidden", "readout")


@pytest.fixture(params=TRIPLES, ids="-".join)
def answer(request: pytest.FixtureRequest) -> Prescription:
    return prescribe(*request.param)


def executed(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(code, "emitted", "exec"), names)  # noqa: S102
    return names


def applied(answer: Prescription) -> dict[str, bool]:
    """What is to be said where layers have multipliers."""
    return {"multipliers_applied": True} if any(layer.a != 0 for layer in answer.layers) else {}


def names_of(answer: Prescription) -> list[str]:
    return ["embedding", "hidden.0", "readout"] if answer.per_layer else list(KINDS)


def test_csv_and_markdown_read_back(answer: Prescription) -> None:
    rows = list(csv.DictReader(io.StringIO(FORMATS["csv"](answer, None))))
    assert [row["c"] for row in rows] == [str(c) for c in answer.c]
    markdown = FORMATS["markdown"](answer, None).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown if line.startswith("|")]
    column = cells[0].index("rate c")
    assert [row[column] for row in cells[2:]] == [str(c) for c in answer.c]


def test_the_terminal_table_has_the_numbers(answer: Prescription) -> None:
    lines = FORMATS["table"](answer, Scale(64, 1024, 0.1)).splitlines()
    for name, layer in zip(names_of(answer), answer.layers, strict=True):
        shown = [line.split() for line in lines if line.split()[:1] == [name]]
        assert shown[1][3] == str(layer.c)
        assert float(shown[0][1]) == pytest.approx(0.1 * 16.0 ** -float(layer.c), rel=1e-5)


def latex_number(cell: str) -> Fraction:
    match = re.fullmatch(r"\$(-)?(?:(\d+)/(\d+)|(\d+))\$", cell.strip())
    assert match, cell
    value = Fraction(int(match[4])) if match[4] else Fraction(int(match[2]), int(match[3]))
    return -value if match[1] else value


def test_latex_reads_back(answer: Prescription) -> None:
    blocks = FORMATS["latex"](answer, None).split(r"\end{tabular}")
    body = next(block for block in blocks if "$c$" in block) + r"\end{tabular}"
    rows = [line.removesuffix(r" \\").split(" & ") for line in body.splitlines() if line.endswith(r"\\")]
    column = rows[0].index("$c$")
    assert [latex_number(row[column]) for row in rows[1:]] == [Fraction(str(c)) for c in answer.c]
    assert balanced(body)


def balanced(latex: str) -> bool:
    begun, ended = re.findall(r"\\begin\{(\w+)\}", latex), re.findall(r"\\end\{(\w+)\}", latex)
    plain = latex.replace(r"\{", "").replace(r"\}", "")
    return sorted(begun) == sorted(ended) and plain.count("{") == plain.count("}") and plain.count("$") % 2 == 0


def test_the_derivation_ends_at_the_rates(answer: Prescription) -> None:
    text, latex = explained_text(answer), explained_latex(answer)
    for index, c in enumerate(answer.c, 1):
        assert re.search(rf"c_{index} = .*= {re.escape(str(c))}(\s|$)", text)
        assert re.search(rf"c_\{{{index}\}} = ", latex)
    assert balanced(latex)


def test_python_runs_and_scales(answer: Prescription) -> None:
    emitted = executed(as_python(answer))
    scaled = emitted["scale"](1024, 64, 0.1)
    for name, layer in zip(names_of(answer), answer.layers, strict=True):
        assert emitted["EXPONENTS"][name]["rate"] == Fraction(str(layer.c))
        assert scaled[name]["rate"] == pytest.approx(0.1 * 16.0 ** -float(layer.c))
        assert scaled[name]["init"] == pytest.approx(16.0 ** -float(layer.b))
        assert scaled[name]["multiplier"] == pytest.approx(16.0 ** -float(layer.a))


def test_optax_runs_and_takes_the_prescribed_steps(answer: Prescription) -> None:
    """One step from the same gradients at two widths: the updates differ by the prescribed rate factors."""
    pytest.importorskip("optax")
    import jax.numpy as jnp
    import numpy as np

    emitted = executed(as_optax(answer))
    labels = dict(zip(names_of(answer), names_of(answer), strict=True))
    params = {name: jnp.full((2, 3), 0.5) for name in labels}
    gradients = {name: jnp.array([[1.0, -2.0, 0.5], [0.3, 2.0, -1.0]]) for name in labels}

    def updates(width: int) -> dict[str, Any]:
        transform = emitted["optimizer"](labels, 0.1, width, 64, epsilon=1e-12, **applied(answer))
        return transform.update(gradients, transform.init(params), params)[0]

    base, wide = updates(64), updates(1024)
    for name, layer in zip(names_of(answer), answer.layers, strict=True):
        assert np.allclose(wide[name], base[name] * 16.0 ** -float(layer.c), rtol=1e-4)
        assert float(base[name][0, 0]) < 0


class Recorder:
    """Stands for a torch optimizer class: keeps what it was given."""

    def __init__(self, groups: list[dict[str, Any]], **keywords: Any) -> None:
        self.groups, self.keywords = groups, keywords


@pytest.fixture
def stub_torch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    torch = types.ModuleType("torch")
    optimizers = {name: Recorder for name, *_ in TORCH_RULES.values()}
    torch.optim = types.SimpleNamespace(**optimizers)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", torch)
    yield


@pytest.mark.usefixtures("stub_torch")
def test_torch_groups_have_the_prescribed_rates(answer: Prescription) -> None:
    emitted = executed(as_torch(answer))
    parameters = {f"a.{name}": types.SimpleNamespace(ndim=2) for name in names_of(answer)}
    layer_of = dict(zip(parameters, names_of(answer), strict=True))
    groups = emitted["optimizer"](parameters.items(), layer_of, 0.1, 1024, 64, **applied(answer)).groups
    for name, group, layer in zip(names_of(answer), groups, answer.layers, strict=True):
        assert group["params"] == [parameters[f"a.{name}"]]
        assert group["lr"] == pytest.approx(0.1 * 16.0 ** -float(layer.c))
        if layer.epsilon is not None:
            eps = group["eps"] if isinstance(group["eps"], float) else group["eps"][0]
            default = 1e-30 if isinstance(group["eps"], tuple) else 1e-8
            assert eps == pytest.approx(default * 16.0 ** -float(layer.epsilon))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name.startswith("muon-") else name for name in OPTAX_RULES]
)
def test_every_emitted_optax_optimizer_takes_a_step(name: str) -> None:
    pytest.importorskip("optax")
    import jax.numpy as jnp

    answer = prescribe(name, "mup")
    emitted = executed(as_optax(answer))
    labels = {kind: kind for kind in names_of(answer)}
    params = {kind: jnp.arange(1.0, 13.0).reshape(3, 4) / 10 for kind in labels}

    def updates_with(**keywords: float) -> dict[str, Any]:
        transform = emitted["optimizer"](labels, lambda step: 0.1 / (1 + step), 256, 64, **applied(answer), **keywords)
        return transform.update(params, transform.init(params), params)[0]

    updates = updates_with()
    decayed = updates_with(weight_decay=0.1)
    assert all(bool(jnp.any(decayed[kind] != updates[kind])) for kind in labels)
    assert all(bool(jnp.all(jnp.isfinite(update)) and jnp.any(update != 0)) for update in updates.values())


@pytest.mark.parametrize("name", TORCH_RULES)
def test_every_emitted_torch_optimizer_takes_a_step(name: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not a dependency; the stub above covers the code")
    emitted = executed(as_torch(prescribe(name, "mup")))
    parameters = {kind: torch.nn.Parameter(torch.ones(3, 4)) for kind in names_of(prescribe(name, "mup"))}
    optimizer = emitted["optimizer"](parameters.items(), lambda kind, _: kind, 0.1, 256, 64, multipliers_applied=True)
    torch.stack([(parameter**2).sum() for parameter in parameters.values()]).sum().backward()
    optimizer.step()
    assert all(bool((parameter != 1).any()) for parameter in parameters.values())


def test_code_names_are_registry_names() -> None:
    assert {*OPTAX_RULES, *TORCH_RULES} <= {row.name for row in REGISTRY}


def written(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """The module that the command writes, executed."""
    app([*arguments], standalone_mode=False)
    return executed(capsys.readouterr().out)


NUMBERS = ("--base-width", "64", "--width", "1024", "--base-rate", "0.1")


@pytest.mark.parametrize("scheme", ["sp", "mup"])
def test_numbers_are_the_defaults_of_code_for_a_plain_model(scheme: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Rates of the table without multipliers, with nothing more to say than the model."""
    expected = prescribe("adamw", parameterization(scheme).gauge_free())
    given = ("--optimizer", "adamw", "--parameterization", scheme, *NUMBERS, "--format")
    scaled = written(capsys, *given, "python")["scale"]()
    for name, layer in zip(KINDS, expected.layers, strict=True):
        assert scaled[name]["rate"] == pytest.approx(0.1 * 16.0 ** -float(layer.c))
        assert scaled[name]["multiplier"] == 1


@pytest.mark.usefixtures("stub_torch")
def test_torch_code_with_numbers_takes_a_model_as_it_comes(capsys: pytest.CaptureFixture[str]) -> None:
    emitted = written(capsys, "--optimizer", "adamw", "--parameterization", "mup", *NUMBERS, "--format", "torch")
    named = {
        name: types.SimpleNamespace(ndim=ndim)
        for name, ndim in (("table", 2), ("w", 2), ("bias", 1), ("readout", 2), ("gain", 1))
    }

    def layer_of(name: str, parameter: Any) -> str:
        return {"w": "hidden", "readout": "readout"}.get(name, "embedding")

    made = emitted["optimizer"](named.items(), layer_of, weight_decay=0.01, betas=(0.8, 0.9), fused=True)
    assert made.keywords == {"fused": True}
    assert [(len(group["params"]), group["lr"], group["weight_decay"]) for group in made.groups] == [
        (1, pytest.approx(0.1), pytest.approx(0.01)),
        (1, pytest.approx(0.1 / 16), pytest.approx(0.16)),
        (2, pytest.approx(0.1), 0.0),
        (1, pytest.approx(0.1 / 16), pytest.approx(0.16)),
    ]
    assert all(group["betas"] == (0.8, 0.9) for group in made.groups)
    everything = emitted["param_groups"](named.items(), layer_of, weight_decay=0.01, no_decay=lambda *_: False)
    assert all(group["weight_decay"] > 0 for group in everything)


@pytest.mark.usefixtures("stub_torch")
def test_forgotten_parameters_exchanged_widths_and_missing_multipliers_are_errors(
    capsys: pytest.CaptureFixture[str],
) -> None:
    plain = written(capsys, "--optimizer", "adamw", "--format", "torch")
    named = {"w": types.SimpleNamespace(ndim=2), "lost": types.SimpleNamespace(ndim=2)}
    with pytest.raises(ValueError, match=r"^lost: every parameter of the model is one of embedding, hidden, readout"):
        plain["param_groups"](named.items(), {"w": "hidden"}, 0.1, 1024, 64)
    with pytest.raises(ValueError, match=r"^misspelt: every parameter"):
        plain["param_groups"](named.items(), {"w": "hidden", "lost": "hidden", "misspelt": "hidden"}, 0.1, 1024, 64)
    with pytest.raises(ValueError, match="are they exchanged"):
        plain["param_groups"](named.items(), lambda *_: "hidden", 0.1, 64, 1024)
    kept = ("--parameterization", "mup", "--gauge", "1/2", "--format")
    for chosen in ("torch", "optax"):
        emitted = written(capsys, *kept, chosen)
        with pytest.raises(ValueError, match="multipliers_applied=True"):
            emitted["optimizer"]({}, {}, 0.1, 1024, 64) if chosen == "torch" else emitted["optimizer"](
                {}, 0.1, 1024, 64
            )


def test_optax_code_takes_keywords_a_mask_a_schedule_and_injected_rates(capsys: pytest.CaptureFixture[str]) -> None:
    optax = pytest.importorskip("optax")
    import jax.numpy as jnp

    emitted = written(capsys, *NUMBERS, "--format", "optax")
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    labels = {"w": "hidden", "b": "embedding"}

    def step(transform: Any, gradient: float = 0.0) -> dict[str, Any]:
        gradients = {name: jnp.full_like(leaf, gradient) for name, leaf in params.items()}
        return transform.update(gradients, transform.init(params), params)[0]

    decayed = step(emitted["optimizer"](labels, weight_decay=0.5))
    assert float(decayed["w"][0, 0]) == pytest.approx(-0.1 / 16 * 0.5 * 16)
    assert float(decayed["b"][0]) == 0
    everything = step(emitted["optimizer"](labels, weight_decay=0.5, mask={"w": True, "b": True}))
    assert float(everything["b"][0]) == pytest.approx(-0.1 * 0.5)
    scheduled = step(emitted["optimizer"](labels, lambda _: 0.2), 1.0)
    assert float(scheduled["w"][0, 0]) == pytest.approx(-0.2 / 16, rel=1e-4)
    injected = optax.inject_hyperparams(lambda base_rate: emitted["optimizer"](labels, base_rate))(base_rate=0.2)
    assert float(step(injected, 1.0)["w"][0, 0]) == pytest.approx(-0.2 / 16, rel=1e-4)
    given = emitted["optimizer"](labels, b1=0.5, b2=0.9)
    state = given.init(params)
    for gradient in (1.0, 3.0):
        updates, state = given.update(
            {name: jnp.full_like(leaf, gradient) for name, leaf in params.items()}, state, params
        )
    moment, square = (0.5 * 0.5 + 0.5 * 3) / 0.75, (0.09 + 0.1 * 9) / 0.19
    assert float(updates["b"][0]) == pytest.approx(-0.1 * moment / square**0.5, rel=1e-5)
    with pytest.raises(TypeError, match="momentum"):
        emitted["optimizer"](labels, momentum=0.5)
