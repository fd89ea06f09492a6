"""What the packages offer by name: every name is there, is what its module has, and costs nothing before it is used."""

import subprocess
import sys
from importlib import import_module
from typing import Any

import pytest

import derive
import verify
from tests.helpers.paths import ROOT

DATA = ROOT / "paper_figures" / "data"
PUBLIC: Any = [derive, verify]


@pytest.mark.parametrize("package", PUBLIC, ids=lambda package: package.__name__)
def test_every_public_name_is_that_of_its_home(package: Any) -> None:
    prefix = "derive." if package is derive else ""
    homes = {name: f"{prefix}{home}" for home, names in package._HOMES.items() for name in names}
    assert homes.keys() == {*package.__all__} - {"__version__"}
    assert sorted(package.__all__) == sorted({*package.__all__}), "no name twice"
    for name, home in homes.items():
        assert getattr(package, name) is getattr(import_module(home), name), name
    with pytest.raises(AttributeError, match="has no attribute 'absent'"):
        package.absent  # noqa: B018


def test_the_names_that_the_house_gives_are_public() -> None:
    looks = {"trace", "roles", "measure", "backward", "slope", "judge", "optimum"}
    rules = {"scale_by_adam_atan2", "adam_atan2", "scale_by_shampoo", "scale_by_soap"}
    assert {*verify.__all__} >= looks | rules | {"prescribe", "STUDIES", "Study", "read", "UserError"}


def alone(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    return done.stdout.strip()


def test_importing_loads_nothing_heavy() -> None:
    heavy = "{'jax', 'numpy', 'sympy', 'matplotlib', 'typer'}"
    assert alone(f"import sys, derive, verify; print({heavy} & sys.modules.keys())") == "set()"


@pytest.mark.parametrize(
    "folder",
    [
        "depth_sgd",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("decay_weak", "phase_adam_sp", "update_exponents_sgd")
        ),
    ],
)
def test_a_committed_study_is_read_without_jax(folder: str) -> None:
    code = f"import sys, verify; print(type(verify.read({str(DATA / folder)!r})).__name__, 'jax' in sys.modules)"
    names = {"decay_weak": "DecayResult", "phase_adam_sp": "PhaseResult", "depth_sgd": "DepthStudy"}
    assert alone(code) == f"{names.get(folder, 'UpdatesResult')} False"


def test_a_folder_without_a_study_is_said(tmp_path: Any) -> None:
    with pytest.raises(verify.UserError, match="holds no study of exponents, "):
        verify.read(tmp_path)
