"""Schedules of the learning rate: their shape by hand, and that training follows them."""

import jax.numpy as jnp
import numpy as np
import pytest

from verify.training.schedules import ScheduleError, read_schedule


def factors(text: str, total: int) -> list[float]:
    return np.asarray(read_schedule(text).factor(jnp.arange(1, total + 1), total)).tolist()  # type: ignore[arg-type]


def test_constant_is_one_and_no_array() -> None:
    assert read_schedule("constant").factor(7, 10) == 1.0 and isinstance(read_schedule("constant").factor(7, 10), float)


def test_cosine_rises_in_the_warm_up_and_falls_after_it() -> None:
    found = factors("cosine:0.2", 10)  # two steps up, eight down: (1 + cos(pi k / 8)) / 2
    expected = [0.5, 1.0, *((1 + np.cos(np.pi * k / 8)) / 2 for k in range(8))]
    assert found == pytest.approx(expected, abs=1e-6)


def test_stable_and_decay_holds_and_then_falls_in_the_last_fifth() -> None:
    assert factors("wsd:0.2", 10) == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 1, 2 / 3, 1 / 3], abs=1e-6)


@pytest.mark.parametrize("text", ["cosine", "wsd", "cosine:0", "wsd:0.5", "cosine:0.5"])
@pytest.mark.parametrize("total", [1, 3, 150])
def test_no_step_is_lost_and_none_is_above_the_rate(text: str, total: int) -> None:
    found = factors(text, total)
    assert all(0 < each <= 1 for each in found)
    assert max(found) == pytest.approx(1) or total == 1
    assert found[0] == pytest.approx(float(read_schedule(text).factor(1, total)), abs=1e-6)


@pytest.mark.parametrize("text", ["linear", "cosine:x", "cosine:0.6", "wsd:-0.1", "cosine:nan", "constant:0.1", ""])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ScheduleError, match="give constant, cosine or wsd"):
        read_schedule(text)


def test_texts_are_canonical() -> None:
    assert [read_schedule(text).text for text in ("Cosine", "WSD:0.1", "constant")] == [
        "cosine:0.05",
        "wsd:0.1",
        "constant",
    ]
