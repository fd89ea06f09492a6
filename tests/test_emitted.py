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

from derive.emit import FORMATS, Scale
from derive.emit_code import OPTAX_RULES, TORCH_RULES, as_optax, as_python, as_torch
from derive.explain import as_latex as explained_latex
from derive.explain import as_text as explained_text
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
    match = re.fullmatch(r"\$(- ?)?(?:\\frac\{(\d+)\}\{(\d+)\}|(\d+))\$", cell.strip())
    assert match, cell
    value = Fraction(int(match[4])) if match[4] else Fraction(int(match[2]), int(match[3]))
    return -value if match[1] else value


def test_latex_reads_back(answer: Prescription) -> None:
    body = FORMATS["latex"](answer, None)
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
        transform = emitted["optimizer"](0.1, width, 64, labels, epsilon=1e-12)
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
    optimizers = {name: Recorder for name, _, _ in TORCH_RULES.values()}
    torch.optim = types.SimpleNamespace(**optimizers)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", torch)
    yield


@pytest.mark.usefixtures("stub_torch")
def test_torch_groups_have_the_prescribed_rates(answer: Prescription) -> None:
    emitted = executed(as_torch(answer))
    parameters = {name: [object()] for name in names_of(answer)}
    groups = emitted["optimizer"](parameters, 0.1, 1024, 64).groups
    for name, group, layer in zip(names_of(answer), groups, answer.layers, strict=True):
        assert group["params"] == parameters[name]
        assert group["lr"] == pytest.approx(0.1 * 16.0 ** -float(layer.c))
        if layer.epsilon is not None:
            eps = group["eps"] if isinstance(group["eps"], float) else group["eps"][0]
            default = 1e-30 if isinstance(group["eps"], tuple) else 1e-8
            assert eps == pytest.approx(default * 16.0 ** -float(layer.epsilon))


@pytest.mark.parametrize("name", OPTAX_RULES)
def test_every_emitted_optax_optimizer_takes_a_step(name: str) -> None:
    pytest.importorskip("optax")
    import jax.numpy as jnp

    emitted = executed(as_optax(prescribe(name, "mup")))
    labels = {kind: kind for kind in names_of(prescribe(name, "mup"))}
    params = {kind: jnp.arange(1.0, 13.0).reshape(3, 4) / 10 for kind in labels}

    def updates_with(**keywords: float) -> dict[str, Any]:
        transform = emitted["optimizer"](lambda step: 0.1 / (1 + step), 256, 64, labels, **keywords)
        return transform.update(params, transform.init(params), params)[0]

    updates = updates_with()
    decayed = updates_with(weight_decay=0.1)
    assert all(bool(jnp.any(decayed[kind] != updates[kind])) for kind in labels)
    assert all(bool(jnp.all(jnp.isfinite(update)) and jnp.any(update != 0)) for update in updates.values())


@pytest.mark.parametrize("name", TORCH_RULES)
def test_every_emitted_torch_optimizer_takes_a_step(name: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not a dependency; the stub above covers the code")
    emitted = executed(as_torch(prescribe(name, "mup")))
    parameters = {kind: [torch.nn.Parameter(torch.ones(3, 4))] for kind in names_of(prescribe(name, "mup"))}
    optimizer = emitted["optimizer"](parameters, 0.1, 256, 64)
    torch.stack([(parameter**2).sum() for (parameter,) in parameters.values()]).sum().backward()
    optimizer.step()
    assert all(bool((parameter != 1).any()) for (parameter,) in parameters.values())


def test_code_names_are_registry_names() -> None:
    assert {*OPTAX_RULES, *TORCH_RULES} <= {row.name for row in REGISTRY}
