"""Everything is in setup.cfg; this file lets older pips make an editable install."""

from setuptools import setup

setup()
