"""Corpora that ``launch.prepare`` can make: the real AN4, and a synthetic corpus that needs no download."""
