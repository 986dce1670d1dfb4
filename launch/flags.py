"""Flags of the commands: absl flags from the attrs sections of ``Config``, and a ``Config`` from the flags.

Every command starts with ``run``. This module imports no torch: ``--help`` is quick, and ``run`` sets environment
variables before torch reads them.
"""

import os
import re
import shlex
import sys
import typing
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import attrs
from absl import app, flags

from ds2f.config import Config, resolve, sections
from ds2f.config.settings import OneOf, build
from ds2f.errors import InputError
from ds2f.text import shown
from launch import flag_effects, flag_help, flagfiles, guard
from launch.flag_values import Parser, Serializer, text_of
from launch.other_names import meant, meant_value

Main = Callable[[list[str]], int | None]
T = TypeVar("T")


class _Setting(NamedTuple):
    section: str  # empty for the fields of Config itself
    field: "attrs.Attribute[Any]"

    @property
    def flag(self) -> str:
        return f"{self.section}.{self.field.name}" if self.section else self.field.name

    def value_in(self, cfg: Config) -> Any:
        return getattr(getattr(cfg, self.section) if self.section else cfg, self.field.name)


def _settings() -> Iterator[_Setting]:
    """Every setting that has a flag, in the order of ``Config``."""
    classes = sections()
    for field in attrs.fields(Config):
        members = attrs.fields(classes[field.name]) if field.name in classes else [field]
        section = field.name if field.name in classes else ""
        yield from (_Setting(section, member) for member in members if not member.metadata["derived"])


def is_setting(flag: str) -> bool:
    """Whether a flag is a setting of ``Config``."""
    return any(setting.flag == flag for setting in _settings())


def define(*, only: Collection[str] | None = None) -> None:
    """Registers the flags of ``Config`` with absl. A command calls it at module level.

    Args:
      only: sections (``"data"``) and single flags (``"training.seed"``, ``"device"``) to register; None: all. A setting
        without a flag keeps its default.
    """
    for name, cls in sections().items():
        flag_help.name_section(name, cls)
    for setting in _settings():
        wanted = only is None or setting.flag in only or setting.section in only
        if wanted and setting.flag not in flags.FLAGS:
            _define(setting)


def define_section(name: str, cls: type) -> None:
    """Registers the flags ``--name.field`` of a section outside ``Config``, such as ``lm``."""
    flag_help.name_section(name, cls)
    for field in attrs.fields(cls):
        _define(_Setting(name, field))


def section_from_flags(name: str, cls: type[T]) -> T:
    """The values of a section that ``define_section`` registered.

    Raises:
      InputError: settings contradict each other.
    """
    settings = [_Setting(name, field) for field in attrs.fields(cls)]  # type: ignore[arg-type]
    section = build(cls, {one.field.name: flags.FLAGS[one.flag].value for one in settings}, prefix=f"{name}.")
    flag_effects.require(
        {one.flag: one.field for one in settings}, lambda flag: getattr(section, flag.removeprefix(f"{name}."))
    )
    return section


def section_text(name: str, section: Any) -> str:
    """All flags of such a section that have an effect, as on a shell's command line."""
    values = {f"{name}.{field.name}": getattr(section, field.name) for field in attrs.fields(type(section))}
    idle = {
        f"{name}.{field.name}"
        for field in attrs.fields(type(section))
        for each in field.metadata["needs"]
        if not each.met(getattr(section, each.setting.removeprefix(f"{name}.")))
    }
    return " ".join(shlex.quote(f"--{flag}={text_of(value)}") for flag, value in values.items() if flag not in idle)


def _define(setting: _Setting) -> None:
    name, kind, default = setting.flag, setting.field.type or str, setting.field.default
    text, check = setting.field.metadata["help"], setting.field.metadata["check"]
    program = sys.argv[0]  # absl's name for the main module, whose flags --help lists
    if isinstance(default, bool):
        flags.DEFINE_boolean(name, default, text, module_name=program)
    elif isinstance(check, OneOf) and isinstance(default, str):
        flags.DEFINE_enum(name, str(default), check.choices, text, module_name=program)
    else:
        flags.DEFINE(Parser(kind, check), name, default, text, serializer=Serializer(), module_name=program)


def config_from_flags(base: Config | None = None, *, run_dir: str = "") -> Config:
    """The configuration of the command line.

    A flagfile may hold what a run made from its other settings, such as the global batch size. Such a value gives way
    to the setting from which it was made, if that one is on the command line.

    Args:
      base: the configuration of a stored run, which the command line changes. It was resolved when the run began and is
        not resolved again: the model keeps the labels of its training, even if their file is gone. None: the defaults;
        the result goes through ``config.resolve``.
      run_dir: the folder of a run without ``--run_dir``.

    Raises:
      InputError: settings contradict each other, a flag has no effect, or the labels file cannot be read.
    """
    start = base or Config()
    chosen: dict[str, dict[str, Any]] = {}
    for setting in _settings():
        yields = flag_effects.typed(setting.field.metadata["yields_to"]) and not flag_effects.typed(setting.flag)
        if flag_effects.present(setting.flag) and not yields:
            chosen.setdefault(setting.section, {})[setting.field.name] = flags.FLAGS[setting.flag].value
    arguments = attrs.asdict(start, recurse=False) | chosen.pop("", {})
    arguments["run_dir"] = arguments["run_dir"] or run_dir
    for name, values in chosen.items():
        stored = attrs.asdict(getattr(start, name), recurse=False)
        arguments[name] = build(sections()[name], stored | values, prefix=f"{name}.")
    cfg = build(Config, arguments)
    flag_effects.require({one.flag: one.field for one in _settings()}, lambda flag: _value(cfg, flag))
    return cfg if base else resolve(cfg)


def _value(cfg: Config, flag: str) -> Any:
    """The value of a setting or of a section's property."""
    section, _, name = flag.rpartition(".")
    return getattr(getattr(cfg, section) if section else cfg, name)


def flagfile_text(cfg: Config) -> str:
    """The text of a flagfile with every flag of ``Config``, one ``--name=value`` per line."""
    return "".join(f"--{one.flag}={flagfiles.quoted(text_of(one.value_in(cfg)))}\n" for one in _settings())


def run(main: Main, *, positional: bool = False, output_matters: bool = True) -> None:
    """Parses the flags, calls ``main`` with the program name and the positional arguments, and exits.

    Exit status: the result of ``main``; 1 after ``InputError`` and ``WorkerDied``, whose message is printed without a
    traceback; 130 after Ctrl-C; 141 if the reader of the output has closed it, as ``head`` does, and the output is the
    purpose of the command.

    Environment of this process and its children, unless set already:

    - ``TORCH_DEVICE_BACKEND_AUTOLOAD=0`` (always): torch loads no device back end by itself. With torch_npu installed
      and CANN absent, ``import torch`` would fail.
    - ``GOMP_SPINCOUNT``: OpenMP threads spin for 0.1 ms before they sleep (default: several ms). Spinning threads take
      processor time from loader processes and other ranks.

    Args:
      main: the command. It imports torch itself. Its result is the exit status; None is 0.
      positional: whether positional arguments are allowed.
      output_matters: whether the output is the purpose of the command. Otherwise the command goes on without what
        cannot be written to standard output and error, and its status does not depend on it.
    """
    guard.prepare(output_matters=output_matters)
    os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # libgomp, which torch contains, reads it when loaded
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # ds2f reports lost ranks itself
    with guard.ending_with_reader():
        app.run(
            lambda argv: guard.run(main, argv, resumes=not positional),  # files as arguments: no command that trains
            flags_parser=lambda argv: parse(argv, positional=positional),
        )


def parse(argv: list[str], *, positional: bool = False) -> list[str]:
    """Parses a command line with its flagfiles; a mistake ends the process with one message.

    Args:
      argv: the program and its arguments.
      positional: whether positional arguments are allowed.

    Returns:
      The program and the positional arguments.
    """
    try:
        arguments = list(flagfiles.expanded(argv[1:]))
        _answer([each.text for each in flagfiles.before_end(arguments)], program=argv[0])
        rest = flags.FLAGS([argv[0], *(each.text for each in arguments)])
    except InputError as error:
        return _refuse(str(error))
    except flags.UnrecognizedFlagError as error:
        known = meant(error.flagname, list(flags.FLAGS))
        hint = f". Did you mean: {' or '.join(f'--{name}' for name in known)} ?" if known else ""
        return _refuse(f"Unknown command line flag '{error.flagname}'{hint}")
    except flags.IllegalFlagValueError as error:
        return _refuse(f"{error}{_nearest_value(str(error))}")
    except flags.Error as error:
        return _refuse(str(error))
    _expand_homes()
    flag_effects.note(flagfiles.sources(arguments, list(flags.FLAGS)))
    if rest[1:] and not positional:
        return _refuse(f"unexpected argument {rest[1]!r}{_meant_argument(rest[1])}")
    return rest


def _answer(arguments: Iterable[str], *, program: str) -> None:
    """Prints the help or the version, and ends the process, if an argument asks for it.

    Raises:
      InputError: there is no such section of flags.
    """
    for argument in arguments:
        if argument == "--version":
            print(f"ds2f {_version()}")
            sys.exit(0)
        if (section := flag_help.asked_section(argument)) is not None:
            print(flag_help.page(program, section=section))
            sys.exit(0)


def _meant_argument(argument: str) -> str:
    """The flag that an argument without one may belong to, or how flags are written, as the end of a message."""
    path = Path(argument)
    if path.suffix == ".flags":
        return f". Did you mean --flagfile={argument} ?"
    if "run_dir" in flags.FLAGS and (path / "config.json").exists():
        return f", a run. Did you mean --run_dir={argument} ?"
    if "run_dir" in flags.FLAGS and path.suffix in (".onnx", ".pt2", ".safetensors"):
        return f", an exported model. Did you mean --run_dir={argument} ?"
    if "manifest" in flags.FLAGS and path.suffix in (".csv", ".jsonl", ".tsv"):
        return f". Did you mean --manifest={argument} ?"
    return "; a flag reads --name=value, a boolean one --name or --noname"


def _nearest_value(problem: str) -> str:
    """The values of an enumeration that a refused one may stand for, as the end of a message."""
    found = re.match(r"flag --([^=]+)=(.*): value should be one of <", problem)
    return meant_value(found[2], flag_help.choices(flags.FLAGS[found[1]])) if found else ""


def _expand_homes() -> None:
    """Expands ``~`` at the beginning of every flag's text: shells leave it where it stands behind ``--name=``."""
    for name in flags.FLAGS:
        value = flags.FLAGS[name].value
        if isinstance(value, str) and value.startswith("~"):
            with suppress(RuntimeError):  # nobody has this home
                flags.FLAGS[name].value = str(Path(value).expanduser())


def _version() -> str:
    from ds2f import __version__

    return __version__


def _refuse(problem: str) -> typing.NoReturn:
    print(f"FATAL Flags parsing error: {shown(problem, lines=True)}\nPass --help to see the flags.", file=sys.stderr)
    sys.exit(1)


def output_file(flag: str) -> Path | None:
    """The output file that a flag names; None if the flag is empty.

    Raises:
      InputError: the path is a folder, or its folder does not exist.
    """
    given = flags.FLAGS[flag].value
    path = Path(given) if given else None
    if path and (path.is_dir() or not path.parent.is_dir()):
        raise InputError(f"--{flag}={path}: give a file in a folder that exists")
    return path
