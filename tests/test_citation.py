"""What to cite."""

import re

import pytest

import noise_equilibrium as ne
from noise_equilibrium import _citation


def printed(capsys, *objects) -> list[str]:
    ne.citation(*objects)
    return re.findall(r"@\w+\{(\w+),", capsys.readouterr().out)


def test_without_objects_the_paper_and_the_library(capsys):
    assert printed(capsys) == ["ziyin2024parameter", "noise_equilibrium"]


def test_exactly_the_methods_behind_functions_classes_and_instances(capsys):
    keys = printed(capsys, ne.gradient_noise_scale, ne.SVAG, ne.SGD(0.1, 2), ne.diagnose, ne.data.digits)
    assert keys == [
        *("ziyin2024parameter", "mccandlish2018empirical", "li2021validity", "alpaydin1998optical"),
        "noise_equilibrium",
    ]


def test_what_is_not_of_the_package_is_refused():
    with pytest.raises(ValueError, match="expected functions or classes of noise_equilibrium"):
        ne.citation("settle")


def test_every_name_exists_every_entry_is_used_and_named_by_its_key():
    assert {name for name in _citation.USES if not hasattr(ne, name)} == {"digits"}
    used = {_citation.PAPER, *(key for keys in _citation.USES.values() for key in keys)}
    assert used == _citation.ENTRIES.keys()
    for key, entry in _citation.ENTRIES.items():
        assert re.match(rf"@\w+\{{{key},\n", entry)
        assert entry.count("{") == entry.count("}")
