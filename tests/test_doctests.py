"""The examples in docstrings."""

import doctest
import importlib
import pkgutil

import pytest

import spangym

MODULES = [
    each.name for each in pkgutil.walk_packages(spangym.__path__[:1], "spangym.") if not each.ispkg
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name: str):
    outcome = doctest.testmod(importlib.import_module(name))
    assert outcome.failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [test for name in MODULES for test in finder.find(importlib.import_module(name))]
    assert sum(len(test.examples) for test in found) > 20
