"""What was varied, read from the names of runs by a pattern such as w{width}-lr{rate}-s{seed}*."""

import re
from collections.abc import Iterable, Mapping

from derive.errors import DeriveError, shorten, unknown_name
from verify.studies.table.exports import Column
from verify.values import Json

FIELDS = ("width", "rate", "loss", "seed", "group", "depth", "batch", "tokens", "steps")
NUMBER = r"(?:\d+?(?:\.\d*?)??|\.\d+?)(?:[eE][+-]?\d+?)??"
"""As short as the text beside it allows: in "w64.0.1" the pattern w{width}.{rate} has 64 and 0.1."""
WHOLE = r"(?![\d]|\.\d|[eE][+-]?\d)"
"""Before *, which would take the rest of a number: 0 of 0.001."""
FROM_START = r"(?<!\d)(?<!\d\.)"
"""Behind *, which would take its start."""


def read_pattern(given: str) -> re.Pattern[str]:
    """The pattern as a regular expression with a group per field; * is anything, all else around fields is literal.

    Raises DeriveError for one that has no field, one twice, an unknown one, or two with nothing between them.
    """
    parts = re.split(r"\{(\w+)\}", given)
    unknown = [field for field in parts[1::2] if field not in FIELDS]
    if unknown:
        raise unknown_name("field of --names", unknown[0], FIELDS)
    if len(parts) == 1 or len(set(parts[1::2])) < len(parts[1::2]):
        raise DeriveError(f"--names {shorten(given)} has no field, or one twice; write it as w{{width}}-lr{{rate}}")
    if "" in parts[2:-1:2]:
        raise DeriveError(f"--names {shorten(given)} has two fields with nothing between them; write what is there")
    text = []
    for place, part in enumerate(parts):
        if place % 2 == 0:
            text.append(re.escape(part).replace(r"\*", ".*?"))
        elif part == "group":
            text.append("(?P<group>.+?)")
        else:
            before = FROM_START if parts[place - 1].endswith("*") else ""
            after = WHOLE if parts[place + 1].startswith("*") else ""
            text.append(f"{before}(?P<{part}>{NUMBER}){after}")
    return re.compile("".join(text))


def from_names(named: re.Pattern[str], names: Iterable[Json], kept: Mapping[str, Column]) -> dict[str, Column]:
    """`kept` and a column per field of the pattern; DeriveError for a name that is not so."""
    found: dict[str, list[Json]] = {field: [] for field in named.groupindex}
    for name in names:
        matched = named.fullmatch(str(name))
        if matched is None:
            raise DeriveError(
                f"the run's name {shorten(str(name))} is not as --names says; change the pattern, where * is anything"
            )
        for field, value in matched.groupdict().items():
            found[field].append(value)
    return {**kept, **found}
