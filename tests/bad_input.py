"""Helpers for tests of bad input: values of all kinds, and checks that a command refuses them in one line."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

# Every run tries the same examples, so a new failure is due to the change under test.
FIXED = {
    "derandomize": True,
    "deadline": None,
    "database": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
}


def fixed(example_count: int) -> settings:
    """Return Hypothesis settings that try the same `example_count` examples in every run."""
    return settings(max_examples=example_count, **FIXED)


# Every kind of character: lone surrogates, controls, right-to-left, combining, beyond 16 bits.
texts = st.text(st.characters(exclude_categories=()), max_size=12) | st.sampled_from(
    ["", " ", "\0", "\ud800", "\ufeff", "\u202egnp.exe", "e\u0301", "😀", "\x1b[31m", "a\nb", "a\u2028b", "x" * 5000,
     "~", "~no/x"]
)  # fmt: skip
numbers = (
    st.integers(-3, 3)
    | st.sampled_from([2**31, 2**32, 2**63, 2**64, 10**400, -(10**400)])
    | st.floats()
    | st.sampled_from([1e308, 1e-320, -0.0])
)
junk = st.recursive(
    st.none() | st.booleans() | numbers | texts | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts | st.integers(), inner, max_size=2),
    max_leaves=4,
)


def outcome(call: Callable[[], Any]) -> tuple[Any, str]:
    """Return the result of a call and an empty text, or None and the text of its ValueError."""
    try:
        return call(), ""
    except ValueError as error:
        return None, str(error)


def run_command(main, *argv) -> tuple[int, str, str]:
    """Run a command and return its exit code, standard output and standard error. Its exceptions are not caught."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in argv])
    return code, out.getvalue(), err.getvalue()


def error_line(code: int, out: str, err: str) -> str:
    """Return the one line with which a command refused bad input, after checking its form."""
    assert code == 2, (code, out, err)
    (line,) = err.splitlines()
    assert line.startswith(("error: ", "report: ")), line
    assert len(line) < 1100
    assert line.isprintable()
    return line


def refused(main, *argv, words=()) -> str:
    """Run a command that must refuse its input, and return its one error line, which must contain `words`."""
    line = error_line(*run_command(main, *argv))
    for word in words:
        assert word in line, (word, line)
    return line
