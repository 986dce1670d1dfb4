"""The commands, one module each: python -m launch.NAME --help."""
