"""Runs the ``>>>`` examples in the docstrings of ds2f and launch."""

import doctest
import importlib
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for folder in ("ds2f", "launch")
    for path in (ROOT / folder).rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)
# Modules of the core whose functions people call: each shows how.
SHOWN = """
    augment config convert ctc decode.align decode.greedy features grad metrics model.deepspeech2 model.recurrent
    objective optim.base optim.optimizers optim.schedules precision rng steps text tree types
"""


@pytest.mark.parametrize("name", MODULES)
def test_examples_print_what_their_docstrings_say(name):
    module, report = importlib.import_module(name), []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    examples = [found for found in doctest.DocTestFinder(exclude_empty=True).find(module) if found.examples]
    assert examples, "the examples stand in docstrings, where doctest finds them"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for example in examples:
            runner.run(example, out=report.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(report)


def test_the_core_has_examples():
    assert {"ds2f", *(f"ds2f.{name}" for name in SHOWN.split())} - set(MODULES) == set()
