"""Where a multiplier has to stand so that a branch of a stream has it: at the term's way into the sum."""

from collections.abc import Collection, Iterator, Mapping

from derive.errors import DeriveError, shorten
from verify.model.depth.program import CARRY, LOOP, Address, Program, Value
from verify.model.depth.sums import PASSING, SUMS, Signature, Sum, Terms, factor_of

Place = tuple[Address, int]
"""One operand of one equation of the program."""


def named(kind: Signature) -> str:
    """The branches of one kind, by all parameters that they are made of."""
    return ", ".join(sorted(kind))


def places(program: Program, branches: Collection[str]) -> dict[Place, str]:
    """The operands by which the branches of those names enter the sums of the program.

    DeriveError where one is not there, and where it cannot be multiplied on its way into the sum alone.
    """
    found: dict[Place, str] = {}
    terms = Terms(program)
    for each in terms.largest():
        if {named(kind) for kind in each.counted()} & set(branches):
            found |= _of_sum(each, branches)
    gone = set(branches) - {*found.values()}
    if gone:
        raise DeriveError(
            f"there is no sum with the branch {shorten(min(gone))} in this function; prescribe for the function that "
            "is trained"
        )
    return found


def _of_sum(total: Sum, branches: Collection[str]) -> dict[Place, str]:
    by_value = {term.value: named(total.signature(term)) for term in total.parts}
    within, found = dict.fromkeys([total.value]), dict[Place, str]()
    waiting = [total.value]
    while waiting:
        value = waiting.pop()
        for position, source in _summed(value):
            name = by_value.get(source)
            if name is None:
                if source.operation != CARRY and source not in within:
                    within[source] = None
                    waiting.append(source)
            elif name in branches:
                if not value.address or value.operation == LOOP:
                    raise _impossible(name, "begins a loop")
                found[value.address, position] = name
    _refuse_seen_elsewhere(total, within, by_value, branches)
    return found


def _summed(value: Value) -> Iterator[tuple[int, Value]]:
    """What `Terms` adds up to make the value, with its place among the operands."""
    if value.operation in ("mul", "div"):
        constant = factor_of(value)
        sources = value.sources if constant is None else (constant[1],)
        yield from ((value.sources.index(source), source) for source in sources)
    elif value.operation in (*SUMS, *PASSING):
        yield from enumerate(value.sources)
    elif value.operation == LOOP:
        yield from enumerate(value.sources[:2])  # what it begins with, and what a turn makes


def _refuse_seen_elsewhere(
    total: Sum, within: Collection[Value], by_value: Mapping[Value, str], branches: Collection[str]
) -> None:
    """DeriveError where a sum of branches alone, such as W x + b, is also used by what adds nothing to the stream."""
    takers: dict[Value, list[Value]] = {}
    for value in total.terms.program.values:
        for source in value.sources:
            takers.setdefault(source, []).append(value)
    waiting = []
    for value in within:
        names = [by_value.get(term.value) for term in total.terms.of(value)]  # None for what a loop carries
        if value is not total.value and all(name in branches for name in names):
            waiting.append((value, str(names[0])))
    while waiting:
        value, name = waiting.pop()
        if value in total.terms.program.results:
            raise _impossible(name, "is a result too")
        for taker in takers.get(value, ()):
            if taker in within or taker.operation in SUMS:
                continue
            if taker.operation not in PASSING:
                raise _impossible(name, f"is used by {taker.operation} too")
            waiting.append((taker, name))


def _impossible(name: str, why: str) -> DeriveError:
    return DeriveError(
        f"no multiplier can be put on the branch with {shorten(name, 80)}, which {why}; multiply what it adds to the "
        "stream in the model's code, and leave --residual out"
    )
