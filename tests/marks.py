"""Cases that run always, and those that only `make test-all` runs."""

from collections.abc import Iterable
from typing import Any

import pytest


def slow_but(cases: Iterable[Any], *quick: Any) -> list[Any]:
    """All cases, those that are not quick marked as slow: they repeat on other inputs what the quick ones show."""
    return [case if case in quick else pytest.param(case, marks=pytest.mark.slow) for case in cases]
