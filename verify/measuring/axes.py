"""Which axes of a parameter are its matrix's: a product sums over some, makes others, and the rest count matrices."""

from typing import NamedTuple


class Axes(NamedTuple):
    """The axes of a parameter that its matrix's fan_in and fan_out are made of; the others count matrices."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def without(self, axis: int) -> "Axes":
        """The same with that axis counting matrices."""
        inputs, outputs = (tuple(each for each in side if each != axis) for side in self)
        return Axes(inputs, outputs)
