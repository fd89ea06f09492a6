"""Answers with three symbols: seconds and bytes of every optimizer's, at 1, 3, 8 and 20 hidden layers.

    python -m benchmarks.symbols [--rounds 1]

The floor of the time is the same answer in numbers, which is found and proved; that of the size is its table.
"""

import statistics
import time

from benchmarks.results import arguments, report
from derive import emit
from derive.registry import REGISTRY
from derive.solve import prescribe

SYMBOLS, NUMBERS = "alpha=x,omega=y,u=z", "alpha=4/5,omega=3/5,u=9/10"
LAYERS = (1, 3, 8, 20)


def measured(optimizer: str, alignment: str, layers: int, rounds: int, global_rate: bool = False) -> tuple[float, int]:
    """(median seconds, bytes) of the answer as a table."""
    seconds, written = [], ""
    for _ in range(rounds):
        start = time.perf_counter()
        written = emit.as_table(prescribe(optimizer, "sp", alignment, hidden_layers=layers, global_rate=global_rate))
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), len(written.encode())


def row(optimizer: str, layers: int, rounds: int, global_rate: bool = False) -> dict[str, float | str]:
    """One answer beside its floor."""
    floor, plain = measured(optimizer, NUMBERS, layers, rounds, global_rate)
    seconds, size = measured(optimizer, SYMBOLS, layers, rounds, global_rate)
    return {
        "optimizer": optimizer + (", one global rate" if global_rate else ""),
        "layers": layers,
        "seconds": seconds,
        "numbers_s": floor,
        "over_numbers": seconds / floor,
        "bytes": size,
        "numbers_bytes": plain,
        "size_over_numbers": size / plain,
    }


def main() -> None:
    options = arguments(__doc__, rounds=1).parse_args()
    measured("adam", SYMBOLS, 1, 1)  # imports
    rows = [row(each.name, layers, options.rounds) for each in REGISTRY for layers in LAYERS]
    rows += [row(name, layers, options.rounds, True) for name in ("sgd", "adam", "adafactor") for layers in LAYERS]
    report("symbols", {"rows": rows}, options.out)


if __name__ == "__main__":
    main()
