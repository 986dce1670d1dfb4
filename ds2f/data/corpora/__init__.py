"""Corpora that ``launch.prepare`` can make: the real AN4, and a synthetic one that needs no download."""
