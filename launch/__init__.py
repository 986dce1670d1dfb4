"""The commands, one module each: python -m launch.NAME --help."""

import sys

from launch import wrong_start

wrong_start.require_python(sys.version_info)
if sys.argv[:1] == ["-m"]:  # Python looks for the module of "python -m launch.NAME"
    wrong_start.require_packages(sys.executable)
    wrong_start.require_command(sys.orig_argv)
