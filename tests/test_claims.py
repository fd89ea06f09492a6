"""The numbers that the README gives are those of the committed studies."""

from pathlib import Path

import pytest

from verify.export import load
from verify.headline import interval, short
from verify.outcomes import SettingResult
from verify.transfer import analyse, comparisons

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
MLP = ROOT / "paper_figures" / "data" / "transfer_mlp"
SHOWN = (
    "SP full",
    "muP full",
    "SP prior",
    "SP none",
    "muP none",
    "SP global",
    "muP global",
    "NTK global",
    "MFP global",
)


@pytest.fixture(scope="module")
def results() -> list[SettingResult]:
    return analyse(load(MLP))


def rows(results: list[SettingResult]) -> list[str]:
    """The README's table: drift and best loss at the largest width, for every optimizer."""
    optimizers = list(dict.fromkeys(each.setting.optimizer for each in results))
    found = {(each.setting.optimizer, short(each.setting)): each for each in results}
    lines = []
    for name in SHOWN:
        cells = [name]
        for optimizer in optimizers:
            each = found[optimizer, name]
            cells += [interval(each.drift), f"{each.widths[-1].best_loss.value:.3f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def test_the_table_of_drifts_and_losses(results: list[SettingResult]) -> None:
    missing = [line for line in rows(results) if line not in README]
    assert not missing, "\n".join(rows(results))


def test_the_drifts_of_the_transformer() -> None:
    found = {short(each.setting): each for each in analyse(load(MLP.parent / "transfer_transformer"))}
    names = "SP full", "muP full", "SP prior", "SP none", "muP none", "MFP global", "muP global", "SP global"
    assert f"| {' | '.join(names)} |" in README
    drifts = f"| {' | '.join(interval(found[name].drift) for name in names)} |"
    assert drifts in README, drifts
    lost = {name: found[name].widths[-1].lost.value for name in names}
    text = "{:.3f} nats in SP *full*, {:.3f} in muP *full*, and {:.2f} with one raw rate in SP"
    assert text.format(lost["SP full"], lost["muP full"], lost["SP global"]) in README


def test_the_differences_to_the_best(results: list[SettingResult]) -> None:
    """Every "NAME +0.123 [0.1, 0.2]" of the README's claims, by optimizer."""
    for comparison in comparisons(results):
        (line,) = [line for line in README.splitlines() if line.startswith(f"- *{comparison.optimizer}*: ")]
        ranked = {short(each.setting): each for each in comparison.ranking}
        stated = line.removeprefix(f"- *{comparison.optimizer}*: ").split("; ")
        assert len(stated) >= 3
        for entry in stated:
            name, _, numbers = entry.rstrip(".").partition(" +")
            assert numbers == interval(ranked[name].difference), f"{name}: {interval(ranked[name].difference)}"


def test_the_size_of_the_study() -> None:
    study = load(MLP)
    assert f"{len(study.records):,} networks" in README
    assert len(study.settings) == 48 and study.conditions.steps == 150
    assert all(study.widths(name) == [64, 128, 256, 512] for name in study.settings)
