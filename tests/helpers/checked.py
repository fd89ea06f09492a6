"""Annotations that are checked at every call: shapes and dtypes by jaxtyping, all others by beartype."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float to a type checker
