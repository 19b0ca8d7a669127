"""What the fields of a dataclass hold, from their annotations: the schema of a file that is read back into it."""

import dataclasses
from dataclasses import dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

Fraction = Annotated[float, "in [0, 1]"]


@dataclass(frozen=True)
class FieldType:
    """What one field holds: values of `types`, a fraction in [0, 1]. default: MISSING where there is none."""

    types: tuple[type, ...]
    fraction: bool
    default: Any

    @property
    def plain(self) -> bool:
        """Whether it is a text or a number."""
        return {*self.types} <= {str, int, float, type(None)}


@cache
def field_types(of: type) -> dict[str, FieldType]:
    """The kind of each field of a dataclass, by its name."""
    hints, by_name = get_type_hints(of), {}
    for field in dataclasses.fields(of):
        hint = hints[field.name]
        parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        types = tuple(get_origin(part) or part for part in parts)
        types += (int,) if float in types else ()  # a whole number is a real one, too
        by_name[field.name] = FieldType(types, "Fraction" in str(field.type), field.default)
    return by_name


def check_field_types(instance: Any) -> None:
    """Raises ValueError when a field of a dataclass's instance holds a value of another kind; names the first."""
    of: type = type(instance)
    values = vars(instance)
    bad = _of_other_types(of, tuple(map(type, values.values())))
    bad = bad or [name for name in _fractions(of) if not 0 <= (values[name] or 0) <= 1]
    if bad:
        raise ValueError(f"{bad[0]} is {values[bad[0]]!r}")


@cache  # there are few combinations, and many evaluations
def _of_other_types(of: type, held: tuple[type, ...]) -> list[str]:
    """Fields of a dataclass that cannot hold a value of the type that they hold, one a field."""
    pairs = zip(field_types(of).items(), held, strict=True)
    return [name for (name, field_type), its in pairs if its is bool or not issubclass(its, field_type.types)]


@cache
def _fractions(of: type) -> list[str]:
    return [name for name, field_type in field_types(of).items() if field_type.fraction]
