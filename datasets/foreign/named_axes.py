"""Axes of arrays that have names but no axes: what each of them is, the user says, or its length does."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from deepzero_sim.common.requirements import require_data
from deepzero_sim.datasets.foreign.options import CHANNEL, SIMULATION, TIME

#: Most components that a vector in space has: an axis that is no longer may be one of components.
_COMPONENTS = 3

#: Axes in space of a field of so many axes, where nobody knows them, and the other axes that a field may have.
_SPACE = {2: ("x",), 3: ("x",), 4: ("y", "x"), 5: ("y", "x")}
_OTHERS = {1: (TIME,), 2: (SIMULATION, TIME), 3: (SIMULATION, TIME, CHANNEL)}


def roles_by_name(
    shapes: Mapping[str, tuple[int, ...]], given: tuple[str, ...], may_be_constant: bool, name: str
) -> dict[str, tuple[str, ...]]:
    """Give every field the roles that the user names; one of an axis less is a field that does not change in time.

    Args:
        shapes: Shapes of the fields, by name.
        given: Roles, in order.
        may_be_constant: True if the user chose the fields.
        name: Name of the file, for messages.

    Raises:
        DataError: The roles are of another number of axes.
    """
    constant = tuple(role for role in given if role != TIME)
    may_be_constant &= any(len(shape) == len(given) for shape in shapes.values())
    roles = {}
    for field, shape in shapes.items():
        require_data(
            len(shape) == len(given) or (may_be_constant and len(shape) == len(constant)),
            f"axes [{', '.join(given)}] names {len(given)} axes, but {field} of {name} has {len(shape)}, of lengths "
            f"{shape}: name each of them{_without_simulations(shape, given)}.",
        )
        roles[field] = given if len(shape) == len(given) else constant
    return roles


def _without_simulations(shape: tuple[int, ...], given: tuple[str, ...]) -> str:
    """Say which roles are left in a file of one simulation, if as many are."""
    rest = [role for role in given if role != SIMULATION]
    return f", as in [{', '.join(rest)}] if a file is one simulation" if len(rest) == len(shape) < len(given) else ""


def roles_by_length(
    field: str, shape: tuple[int, ...], known: Mapping[str, int], counts: Collection[int], name: str, space: Sequence[str] = ()
) -> tuple[str, ...]:
    """Tell the axes of a field by their lengths, if each is the length of one known thing, and of one axis only.

    An axis that is left, the first or the last one, is that of simulations if nothing else can be.

    Args:
        field: Name of the field.
        shape: Its shape.
        known: Lengths of what is known, by role.
        counts: Lengths that an axis of simulations may have.
        name: Name of the file, for messages.
        space: Names of the axes in space that are expected, for the example of a message; empty if nobody knows.

    Raises:
        DataError: They cannot be told.
    """
    by_length: dict[int, list[str]] = {}
    for role, length in known.items():
        by_length.setdefault(length, []).append(role)
    roles = [by_length.get(length, []) for length in shape]
    left = [place for place, found in enumerate(roles) if not found]
    if len(left) == 1 and left[0] in {0, len(shape) - 1} and SIMULATION not in known and shape[left[0]] in counts:
        roles[left[0]] = [SIMULATION]
    clear = all(len(found) == 1 for found in roles) and len(set(shape)) == len(shape)
    names = tuple(found[0] for found in roles) if clear else ()
    require_data(
        TIME in names and not set(names) <= {SIMULATION, TIME, CHANNEL},
        f"what the axes of {field} of {name} are cannot be told from their lengths {shape}: name them in order by "
        f"axes, such as {_examples(len(shape), space)}.",
    )
    return names


def _examples(count: int, space: Sequence[str]) -> str:
    """Write roles that so many axes may have: with the axes in space that are expected, or of one simulation or several."""
    if space and count - len(space) in _OTHERS:
        return _example((*_OTHERS[count - len(space)], *space))
    usual = _SPACE.get(count, ("z", "y", "x"))
    example = _example((*_OTHERS.get(count - len(usual), _OTHERS[3]), *usual))
    single = _example((TIME, *("z", "y", "x")[1 - count :])) if count in {3, 4} else ""
    return f"{example}, or {single} if it is one simulation" if single else example


def _example(roles: Sequence[str]) -> str:
    return f"[{', '.join(roles)}]"


def possible_counts(
    shapes: Mapping[str, tuple[int, ...]], lists: Mapping[str, int], places: Mapping[str, int]
) -> frozenset[int]:
    """Return the lengths that an axis of simulations may have, as nothing but the number of simulations explains them.

    Several fields of one shape are channels themselves, and a list of that length holds a value for each simulation; an axis
    that is no longer than a vector in space has components may be theirs.

    Args:
        shapes: Shapes of the fields, by name.
        lists: Lengths of lists of numbers that are nothing known, by name.
        places: Lengths of lists that are positions along an axis, by name.
    """
    lengths = set.intersection(*(set(shape) for shape in shapes.values()))
    several = lengths if len(shapes) > 1 else set()
    return frozenset(n for n in several | (lengths & set(lists.values())) if n > _COMPONENTS and n not in places.values())
