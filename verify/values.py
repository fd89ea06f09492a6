"""What is handed around and looks different every time: trees of arrays, their leaves, documents in JSON."""

from collections.abc import Mapping
from typing import Any, TypeAlias

Tree: TypeAlias = Any
"""Arrays in dictionaries, tuples and modules of libraries, as JAX maps over them; one array is a tree too."""
Leaf: TypeAlias = Any
"""An array of JAX or numpy, traced or not, a number, or an array's shape and type alone."""
Json: TypeAlias = Any
"""What JSON has: numbers, texts, lists and documents."""
Document: TypeAlias = dict[str, Any]
"""A JSON object as it is written."""
Entries: TypeAlias = Mapping[str, Any]
"""A JSON object as it is read, or other values by name whose types go with the names."""
Style: TypeAlias = Any
"""Keywords of matplotlib: how something is drawn."""
