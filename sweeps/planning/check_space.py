"""The check of a space before anything runs: a setting that its trials would refuse is an error at once."""

from lopt import methods
from lopt.config import CONFIG_FIELDS
from lopt.ranges import Choice
from lopt.registry import did_you_mean
from sweeps import samplers, stopping
from sweeps.space import Cell, Space


def check_space(space: Space) -> None:
    """Check names, every value of lists, both ends of ranges, first points, the sampler and the stopping rule.

    Raises:
        ValueError: A name is not valid; a trial would refuse a value; the sampler or the stopping rule is unknown; the
            sampler does not fit a cell; or two cells have the same trials.
    """
    stopping.get(space.stopping)
    sampler = samplers.get(space.sampler)
    cell_name_by_trials_id: dict[str, str] = {}
    for cell in space.cells:
        _check_names(space, cell)
        if cell.search:
            sampler.check(cell)
        _check_ranges(space, cell)
        _check_first_points(space, cell)
        trials_id = (
            f"{space.sample_config(cell).key} {sorted((name, str(values)) for name, values in cell.search.items())}"
        )
        if trials_id in cell_name_by_trials_id:
            raise ValueError(
                f"space {space.name}: {cell_name_by_trials_id[trials_id]} and {cell.name} have the same trials, "
                "but a trial belongs to one cell only; leave out one of the two cells"
            )
        cell_name_by_trials_id[trials_id] = cell.name


def _check_ranges(space: Space, cell: Cell) -> None:
    """Raise ValueError if TrialConfig refuses a value of a list or an end of a range."""
    for name, searched_range in cell.search.items():
        method, dot, field_name = name.rpartition(".")
        lowest_point = {**space.low_ends(cell), **({"method": method} if dot else {})}
        for value in (
            searched_range.values if isinstance(searched_range, Choice) else (searched_range.low, searched_range.high)
        ):
            point = {**lowest_point, name: value}
            if field_name == "rank":  # a rank cannot exceed the length, so the length is raised to the rank
                lowest_length = space.config(cell, lowest_point, seed=0).length
                can_raise_length = isinstance(value, int) and lowest_length is not None
                point[f"{method}{dot}length"] = max(value, lowest_length) if can_raise_length else lowest_length
            space.config(cell, point, seed=0)


def _check_first_points(space: Space, cell: Cell) -> None:
    """Raise ValueError if a point of `first` has a field that is not searched, or a value that is not valid."""
    place = f"space {space.name}, cell {cell.name}"
    for point in cell.first:
        for name, value in point.items():
            if name not in cell.search:
                raise ValueError(f"{place}: `first` gives `{name}` the value {value!r}, but `{name}` is not searched")
            if value is not None and value not in cell.search[name]:
                raise ValueError(
                    f"{place}: `first` gives `{name}` the value {value!r}, which is outside its range "
                    f"({cell.search[name]})"
                )
        space.config(cell, {**space.low_ends(cell), **point}, seed=0)


def _check_names(space: Space, cell: Cell) -> None:
    """Raise ValueError on a name that is neither a field of TrialConfig nor an option of a method."""
    place = f"space {space.name}, cell {cell.name}"
    valid_names = {*CONFIG_FIELDS, *methods.options()}
    if "max_steps" in {*cell.fixed, *cell.search}:  # the cells share rungs and budgets
        raise ValueError(f"{place}: `max_steps` must be the same for all cells; set it in `base`")
    if "metric" in cell.search:  # scores by different metrics cannot be compared
        raise ValueError(f"{place}: `metric` must be the same for all trials of a cell; set it in `fixed` or `base`")
    names_in_first_points = (name for point in cell.first for name in point)
    for name in dict.fromkeys([*space.base, *cell.fixed, *cell.search, *names_in_first_points]):
        method, dot, field_name = name.rpartition(".")
        if field_name not in valid_names or (dot and method not in methods.names()):
            raise ValueError(
                f"{place}: unknown name {name!r}; valid names are the fields of TrialConfig and the options of methods."
                f"{did_you_mean(field_name, valid_names)}"
            )
