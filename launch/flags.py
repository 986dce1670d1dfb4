"""attrs sections become absl flags, flags become one Config, and every launcher starts through ``run``.

Nothing here imports torch, so that ``--help`` is quick and so that ``run`` can set the environment before torch reads
it.
"""

import errno
import os
import re
import select
import signal
import sys
import typing
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import attrs
from absl import app, flags

from ds2f.config import Config, resolve, sections
from ds2f.config.settings import Check, OneOf, Within, build
from ds2f.errors import InputError, WorkerDied

Main = Callable[[list[str]], int | None]
T = TypeVar("T")

SPEAKER = r"(?:^|/)[a-z]*\d+-(\w+)[^/]*$"  # as in an251-fash-b.wav


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


class _Parser(flags.ArgumentParser[Any]):
    """Turns a flag's text into a number, a string or a tuple of them, and holds it to the setting's check.

    absl shares parsers of equal arguments, so nothing is kept but those.
    """

    def __init__(self, kind: type, check: Check | None, *_: Any) -> None:
        self._element, self._check = (typing.get_args(kind) or (kind,))[0], check
        self._is_list = typing.get_origin(kind) is tuple
        noun = {int: "an integer", float: "a number", str: ""}[self._element]
        if self._is_list:
            noun = "a comma-separated list" + (f", each {noun}" if noun else "")
        self.syntactic_help = f"{noun} {check}" if isinstance(check, Within) else noun

    def parse(self, argument: Any) -> Any:
        value = self._convert(argument) if isinstance(argument, str) else argument
        problem = self._check.problem(value) if self._check else None
        if problem:
            raise ValueError(problem)
        return value

    def _convert(self, text: str) -> Any:
        parts = text.split(",") if self._is_list and text else [text]
        try:
            values = tuple(self._element(part) for part in parts) if text or not self._is_list else ()
        except ValueError:
            raise ValueError(f"expected {self.syntactic_help}") from None
        return values if self._is_list else values[0]


class _Serializer(flags.ArgumentSerializer[Any]):
    def serialize(self, value: Any) -> str:
        return _text(value)


def _text(value: Any) -> str:
    """What to write behind ``--name=`` so that the flag parses back to ``value``."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def define(*, only: Collection[str] | None = None) -> None:
    """Registers the flags of ``Config`` with absl; call it where a launcher is imported.

    Args:
      only: the sections (``"data"``) and single flags (``"training.seed"``, ``"device"``) that this launcher takes;
        None takes all. A setting without a flag keeps its default.
    """
    for setting in _settings():
        wanted = only is None or setting.flag in only or setting.section in only
        if wanted and setting.flag not in flags.FLAGS:
            _define(setting)


def define_section(name: str, cls: type) -> None:
    """Registers the flags ``--name.field`` of a section that is no part of ``Config``, such as ``lm``."""
    for field in attrs.fields(cls):
        _define(_Setting(name, field))


def section_from_flags(name: str, cls: type[T]) -> T:
    """What the command line asks for in a section that ``define_section`` registered.

    Raises:
      InputError: settings that contradict each other.
    """
    values = {field.name: flags.FLAGS[f"{name}.{field.name}"].value for field in attrs.fields(cls)}  # type: ignore[arg-type]
    return build(cls, values, prefix=f"{name}.")


def section_text(name: str, section: Any) -> str:
    """All flags of such a section, as one writes them on a command line."""
    settings = [_Setting(name, field) for field in attrs.fields(type(section))]
    return " ".join(f"--{one.flag}={_text(getattr(section, one.field.name))}" for one in settings)


def _define(setting: _Setting) -> None:
    name, kind, default = setting.flag, setting.field.type or str, setting.field.default
    text, check = setting.field.metadata["help"], setting.field.metadata["check"]
    program = sys.argv[0]  # absl's name for the main module, whose flags --help lists
    if isinstance(default, bool):
        flags.DEFINE_boolean(name, default, text, module_name=program)
    elif isinstance(check, OneOf):
        flags.DEFINE_enum(name, str(default), check.choices, text, module_name=program)
    else:
        flags.DEFINE(_Parser(kind, check), name, default, text, serializer=_Serializer(), module_name=program)


def config_from_flags(base: Config | None = None) -> Config:
    """The configuration that the command line asks for.

    Args:
      base: a stored run's configuration, whose settings the command line changes. It was resolved when the run
        began and is not resolved again: its labels stay what the model was trained with, wherever their file is now.
        None: the defaults, and the result goes through ``config.resolve``.

    Raises:
      InputError: settings that contradict each other, or a labels file that cannot be read.
    """
    start = base or Config()
    chosen: dict[str, dict[str, Any]] = {}
    for setting in _settings():
        if setting.flag in flags.FLAGS and flags.FLAGS[setting.flag].present:
            chosen.setdefault(setting.section, {})[setting.field.name] = flags.FLAGS[setting.flag].value
    arguments = attrs.asdict(start, recurse=False) | chosen.pop("", {})
    for name, values in chosen.items():
        stored = attrs.asdict(getattr(start, name), recurse=False)
        arguments[name] = build(sections()[name], stored | values, prefix=f"{name}.")
    cfg = build(Config, arguments)
    return cfg if base else resolve(cfg)


def flagfile_text(cfg: Config) -> str:
    """A flagfile that repeats the run: every flag of ``Config``, one ``--name=value`` per line."""
    return "".join(f"--{setting.flag}={_text(setting.value_in(cfg))}\n" for setting in _settings())


def flagfile_name(argv: list[str] | None = None) -> str | None:
    """The stem of the last ``--flagfile`` of a command line (default: this program's), or None without one."""
    name = None
    arguments = iter(sys.argv[1:] if argv is None else argv)
    for argument in arguments:
        if argument == "--":
            break
        option, equals, value = argument.partition("=")
        if option in ("--flagfile", "-flagfile"):
            name = value if equals else next(arguments, None)
    return Path(name).stem if name else None


def run(main: Main, *, positional: bool = False) -> None:
    """Parses the flags, calls ``main`` with the program's name and its positional arguments, and exits.

    Mistakes that the user can mend end with their message alone and status 1; Ctrl-C ends with status 130, an output
    that nobody reads to its end, as before ``head``, with status 141.
    torch's automatic loading of device back ends is turned off for this process and its children: with torch_npu
    installed and CANN absent, ``import torch`` would fail. And their threads wait for each other awake for a tenth of a
    millisecond rather than for several, unless the environment says how they wait: a thread that has to share its
    processor, with a loader process or another rank, would otherwise cost the others all of theirs as well.

    Args:
      main: what the launcher does; torch is imported inside it or by modules that it imports. Its result is the exit
        status, None being 0.
      positional: whether arguments that are not flags are welcome.
    """
    os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # of libgomp, which torch brings; it reads it when loaded
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # what ends a process group is said in our own words
    app.run(lambda argv: _guarded(main, argv), flags_parser=lambda argv: _parse(argv, positional=positional))


def _parse(argv: list[str], *, positional: bool) -> list[str]:
    try:
        rest = flags.FLAGS(argv)
    except flags.CantOpenFlagFileError as error:
        return _refuse(f"cannot read the flagfile: {error.__context__ or error}")
    except flags.Error as error:
        return _refuse(str(error))
    except UnicodeDecodeError as error:
        return _refuse(f"cannot read the flagfile, it is not text: {error}")
    except SystemExit:  # --help and its kin, which absl ends with status 1
        sys.exit(0)
    if rest[1:] and not positional:
        return _refuse(f"unexpected argument {rest[1]!r}; a flag reads --name=value, a boolean one --name or --noname")
    return rest


def _refuse(problem: str) -> typing.NoReturn:
    print(f"FATAL Flags parsing error: {problem}\nPass --help to see the flags.", file=sys.stderr)
    sys.exit(1)


def _guarded(main: Main, argv: list[str]) -> int | None:
    try:
        status = main(argv)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        if not _reader_has_left():
            raise
        return 128 + signal.SIGPIPE
    except (InputError, WorkerDied) as error:
        print(f"{Path(argv[0]).stem}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"{Path(argv[0]).stem}: {_out_of_space(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        print(f"{Path(argv[0]).stem}: {str(error) or 'interrupted'}", file=sys.stderr)
        return 130


def _reader_has_left() -> bool:
    """Whether the output goes to a process that reads no more, as ``head`` does; then what is left is thrown away."""
    output = sys.stdout.fileno()
    poll = select.poll()
    poll.register(output, 0)
    if not poll.poll(0):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)  # or Python would complain of it at the end
    return True


def _out_of_space(error: OSError) -> str:
    run_dir = flags.FLAGS["run_dir"].value if "run_dir" in flags.FLAGS else ""
    message = f"no space left for {error.filename or run_dir or Path.cwd()}; free some and start again."
    if "checkpointing.load_auto_checkpoint" in flags.FLAGS:
        message += (
            " Nothing up to the last checkpoint is lost: --checkpointing.load_auto_checkpoint with the same --run_dir "
            "goes on from there."
        )
    return message


def output_file(flag: str) -> Path | None:
    """The file that a flag says to write; None where it says none.

    Raises:
      InputError: when it is a folder, or lies in none that exists.
    """
    given = flags.FLAGS[flag].value
    path = Path(given) if given else None
    if path and (path.is_dir() or not path.parent.is_dir()):
        raise InputError(f"--{flag}={path}: give a file in a folder that exists")
    return path


def define_speaker() -> None:
    """Registers ``--speaker``; call it where a launcher is imported."""
    flags.DEFINE_string(
        "speaker",
        SPEAKER,
        "Regular expression whose group, found in a recording's path, names the speaker, as in an251-fash-b.wav.",
        module_name=sys.argv[0],
    )


def speaker() -> re.Pattern[str]:
    """What names the speaker, by its only group.

    Raises:
      InputError: when it is no regular expression, or has another number of groups.
    """
    text = flags.FLAGS.speaker
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise InputError(f"--speaker={text}: not a regular expression: {error}") from error
    if pattern.groups != 1:
        raise InputError(f"--speaker={text}: {pattern.groups} groups; put what names the speaker, alone, in ( )")
    return pattern
