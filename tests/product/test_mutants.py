"""The list of what is planted where stays true; no fault is planted here."""

import tomllib

import pytest

from tests.helpers.paths import ROOT

LISTED = tomllib.loads((ROOT / "tests" / "mutants.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", LISTED)
def test_what_is_listed_is_there(path: str) -> None:
    """Tests by name, and every reviewed line as it stands in its module, with a change and a reason."""
    lines = {line.strip() for line in (ROOT / path).read_text(encoding="utf-8").splitlines()}
    for test in LISTED[path]["tests"]:
        file, _, name = test.removeprefix("--deselect=").partition("::")
        assert f"def {name}" in (ROOT / file).read_text(encoding="utf-8"), test
    for reviewed in LISTED[path].get("equivalent", ()):
        assert reviewed.keys() == {"line", "becomes", "why"}
        assert reviewed["line"] in lines, f"{path} no longer has: {reviewed['line']}"
        assert reviewed["becomes"] != reviewed["line"] and reviewed["why"]
