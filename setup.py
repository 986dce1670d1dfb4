"""The extension, which setup.cfg cannot describe; everything else is there."""

from setuptools import Extension, setup

# Without a C compiler the installation goes on, and plain torch takes the extension's place. -fno-trapping-math changes
# no result: the processor's exception flags, which nobody reads, may differ. Loops with comparisons need it to become
# vector instructions.
cell = Extension(
    "ds2f.model._lstm_cell",
    ["ds2f/model/lstm_cell.c"],
    extra_compile_args=["-O3", "-g0", "-fno-trapping-math"],
    py_limited_api=True,
    optional=True,
)

setup(ext_modules=[cell])
