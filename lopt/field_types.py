"""The types of a dataclass's fields, read from its annotations. They are the schema of the files that its instances are
read from."""

import dataclasses
from dataclasses import dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

Fraction = Annotated[float, "in [0, 1]"]


@dataclass(frozen=True)
class FieldType:
    """The type of one field.

    Attributes:
        types: the types that its value may have.
        is_fraction: whether its value must be in [0, 1].
        default: the default value, or `dataclasses.MISSING`.
    """

    types: tuple[type, ...]
    is_fraction: bool
    default: Any

    @property
    def is_plain(self) -> bool:
        """Whether the field can hold only a text, a number or None."""
        return {*self.types} <= {str, int, float, type(None)}


@cache
def field_types(dataclass_type: type) -> dict[str, FieldType]:
    """Return the type of each field of a dataclass, by the field's name."""
    hint_by_field, type_by_field = get_type_hints(dataclass_type), {}
    for field in dataclasses.fields(dataclass_type):
        hint = hint_by_field[field.name]
        alternatives = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        types = tuple(get_origin(alternative) or alternative for alternative in alternatives)
        types += (int,) if float in types else ()  # a whole number is a real number, too
        type_by_field[field.name] = FieldType(types, "Fraction" in str(field.type), field.default)
    return type_by_field


def check_field_types(instance: Any) -> None:
    """Raise a ValueError that names the field if its value has a wrong type, or is a fraction and not in [0, 1]."""
    dataclass_type: type = type(instance)
    values = vars(instance)
    bad_fields = _fields_of_wrong_type(dataclass_type, tuple(map(type, values.values())))
    bad_fields = bad_fields or [name for name in _fraction_fields(dataclass_type) if not 0 <= (values[name] or 0) <= 1]
    if bad_fields:
        raise ValueError(f"{bad_fields[0]} is {values[bad_fields[0]]!r}")


@cache  # because every evaluation is checked, and only few combinations of types occur
def _fields_of_wrong_type(dataclass_type: type, value_types: tuple[type, ...]) -> list[str]:
    """Return the fields whose values have a wrong type. `value_types` is the type of each field's value, in order."""
    pairs = zip(field_types(dataclass_type).items(), value_types, strict=True)
    return [
        name
        for (name, field_type), value_type in pairs
        if value_type is bool or not issubclass(value_type, field_type.types)
    ]


@cache
def _fraction_fields(dataclass_type: type) -> list[str]:
    return [name for name, field_type in field_types(dataclass_type).items() if field_type.is_fraction]
