"""What the pages for users show, checked against what the code does: their Python is run, their commands are parsed.

The rules of a page:

- Python blocks run in order, in one namespace. A comment behind a top-level `print(...)` is what it prints.
- A block that ends in an error is followed by a `text` block with that error. There `...` stands for anything, such as
  a library's own words, and `/home/me` is the working directory.
- Commands, in `bash` blocks and in text, are parsed by the parser of the script they start. A command that ends in an
  error, which a `text` block behind it says, is run.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import io
import re
import runpy
import shlex
import sys
import tokenize
import tomllib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
COMMANDS = (
    *("accelerate ", "python ", "make ", "torchrun ", "train_accelerate.py ", "push_to_hub.py ", "pip ", "prunnet "),
)
PLACEHOLDERS = {"K": "2", "S": "0.1"}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, and the line it begins in."""

    language: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```(\w+)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    return [Block(match[1], match[2], text.count("\n", 0, match.start()) + 2) for match in found]


def run_page(page: Path) -> dict[str, object]:
    """Run the Python of a page as a reader would type it, and the commands that end in an error.

    Returns:
        The names that the page has defined.
    """
    namespace: dict[str, object] = {}
    for block, stated in with_errors(page):
        if block.language == "python":
            error = _run_block(block, f"{page.name}:{block.line}", namespace)
        elif block.language == "bash" and stated is not None:
            error = _error_of(block.text)
        else:
            continue
        if not is_as_stated(error, stated):
            raise AssertionError(f"{page.name}:{block.line}: ends with {error!r}; the page says {stated!r}")
    return namespace


def with_errors(page: Path) -> list[tuple[Block, str | None]]:
    """The blocks of a page, each with the error that directly follows it, if one does."""
    found = blocks(page)
    errors = {block.line: block.text for block in found if block.language == "text"}
    return [(block, errors.get(block.line + block.text.count("\n") + 3)) for block in found]


def _run_block(block: Block, where: str, namespace: dict[str, object]) -> str | None:
    """Run a block, compare what it prints, and return the error that it ends with."""
    stated = _stated_results(block.text)
    for statement in ast.parse(block.text).body:
        code = compile(ast.Module([statement], []), where, "exec")
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                exec(code, namespace)
        except (OSError, TypeError, ValueError) as error:
            return f"{type(error).__name__}: {error}"
        if _is_print(statement):
            line = f"{where} + {statement.lineno - 1}"
            said, result = stated.get(statement.end_lineno), printed.getvalue().strip()
            assert result == said, f"{line}: prints {result!r}; the page says {said!r}"
    return None


def _is_print(statement: ast.stmt) -> bool:
    call = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "print"


def _stated_results(code: str) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    return {token.start[0]: token.string[2:].strip() for token in tokens if token.type == tokenize.COMMENT}


def is_as_stated(error: str | None, stated: str | None) -> bool:
    """Whether an error is what the page says; line ends don't count."""
    if error is None or stated is None:
        return error is stated
    parts = [re.escape(" ".join(part.split())) for part in stated.replace("/home/me", str(Path.cwd())).split("...")]
    return re.fullmatch(" ?.* ?".join(parts), " ".join(error.split())) is not None


def commands(page: Path) -> list[tuple[int, str]]:
    """The commands of a page that are to work, with their lines: those of bash blocks, and those in running text."""
    found = []
    for block, error in with_errors(page):
        if block.language == "bash" and error is None:
            joined = re.sub(r"\\\n\s*", lambda match: " " * len(match[0]), block.text)
            lines = [(block.line + number, line) for number, line in enumerate(joined.splitlines())]
            found += [(number, line) for number, line in lines if line.strip() and not line.lstrip().startswith("#")]
    text = _without_blocks(page)
    for match in re.finditer(r"`([^`]+)`", text):
        command = " ".join(match[1].split())
        if command.startswith(COMMANDS):
            found.append((text.count("\n", 0, match.start()) + 1, command))
    return found


def check_commands(page: Path) -> None:
    """Raise unless every command of a page would be understood."""
    for line, command in commands(page):
        try:
            check_command(command)
        except (AssertionError, OSError, TypeError, ValueError, SystemExit) as error:
            raise AssertionError(f"{page.name}:{line}: {command}: {error!r}") from error


def flags(page: Path) -> set[str]:
    """The flags that a page names by themselves, as in `--capacities 0.1 0.2`."""
    return set(re.findall(r"`(--[\w-]+)", _without_blocks(page)))


def named_files(page: Path) -> set[str]:
    """The files and folders of the repository that a page names."""
    text = page.read_text(encoding="utf-8")
    folders = "|".join(["recipes", "model_cards", "benchmarks", "tests", "examples", "docs", "prunnet_hf"])
    return {name.rstrip(".") for name in re.findall(rf"(?<![\w/.-])(?:{folders})/[\w./-]+(?![\w./*-])", text)}


def named_objects(page: Path) -> set[str]:
    """The modules, classes and functions that a page names by their full name."""
    return set(re.findall(r"\bprunnet_hf(?:\.\w+)+", page.read_text(encoding="utf-8")))


def exists(name: str) -> bool:
    """Whether a dotted name is that of a module, or of something in one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def _without_blocks(page: Path) -> str:
    text = page.read_text(encoding="utf-8")
    return re.sub(r"^```.*?^```$", lambda match: "\n" * match[0].count("\n"), text, flags=re.DOTALL | re.MULTILINE)


class ArgumentsAreRightError(Exception):
    """A script got as far as reading its arguments, and found them right."""


def check_command(command: str) -> None:
    """Parse a command as the program would that it starts; raises if that doesn't take it."""
    words = [PLACEHOLDERS.get(word, word) for word in shlex.split(command, comments=True)]
    while re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    if words[0].endswith(".py"):
        check_script(words)
    elif words[0] in CHECKS:
        CHECKS[words[0]](words[1:])
    else:
        others = ("hf auth login", "bash .ci/run", "npm install --prefix ort onnxruntime-web")
        assert command in others, f"no parser is known for {command!r}"


def _check_accelerate(words: list[str]) -> None:
    from accelerate.commands.launch import launch_command_parser

    assert words[0] == "launch"
    if not any(word.endswith(".py") or word == "-m" for word in words):
        words = [*words, "train_accelerate.py"]
    launched = launch_command_parser().parse_args(words[1:])
    check_script([*(["-m"] if launched.module else []), launched.training_script, *launched.training_script_args])


def _check_torchrun(words: list[str]) -> None:
    from torch.distributed.run import get_args_parser

    launched = get_args_parser().parse_args(words)
    check_script([launched.training_script, *launched.training_script_args])


def _check_make(words: list[str]) -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert {word for word in words if "=" not in word} <= {*targets}, f"Makefile has {targets}"


def _check_pip(words: list[str]) -> None:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for extras in re.findall(r"\[([\w,]+)\]", " ".join(words)):
        assert {*extras.split(",")} <= {*known}, f"the extras are {list(known)}"


def check_script(words: list[str]) -> None:
    """Parse the arguments of a Python script or, behind `-m`, of a module."""
    script, arguments = (words[1], words[2:]) if words[0] == "-m" else (words[0], words[1:])
    if script == "train_accelerate.py":
        _parse_training(arguments)
        return
    if script == "push_to_hub.py":
        _parse_publishing(arguments)
        return
    if script == "prunnet_hf.compression.sap":
        from prunnet_hf.compression.sap_arguments import parse_sap_arguments

        parse_sap_arguments(_with_present_config(arguments))
        return
    assert all(any(ROOT.glob(word)) for word in arguments if "*" in word), f"{arguments}: no such files"
    if words[0] != "-m" and "argparse" not in (ROOT / script).read_text(encoding="utf-8"):
        assert arguments == [], f"{script} takes no arguments"
        return
    with pytest.raises(ArgumentsAreRightError):
        start(words, parse_only=True)


def _parse_training(arguments: list[str]) -> None:
    from prunnet_hf.runs.arguments import parse_arguments

    if "--help" not in arguments:
        parse_arguments(_with_present_config(arguments))


def _parse_publishing(arguments: list[str]) -> None:
    from prunnet_hf.cli.push import parse_arguments

    if "--help" not in arguments:
        parse_arguments(arguments)


def _check_prunnet(words: list[str]) -> None:
    import typer

    from prunnet_hf.cli.main import app

    handed_on = {"train": _parse_training, "evaluate": _parse_training, "push": _parse_publishing}
    if words[0] in handed_on:
        handed_on[words[0]](words[1:])
    elif words[0] == "embed":
        check_script(["-m", "prunnet_hf.retrieval.encoding", *words[1:]])
    else:
        typer.main.get_command(app).commands[words[0]].make_context(words[0], words[1:])


def _with_present_config(arguments: list[str]) -> list[str]:
    """A recipe that a run has yet to write stands for any."""
    return ["recipes/demo.yaml" if word.startswith("out/") and word.endswith(".yaml") else word for word in arguments]


def start(words: list[str], *, parse_only: bool = False) -> None:
    """Run a script or, behind `-m`, a module in this process as if it had been started.

    Raises:
        ArgumentsAreRightError: In place of doing its work, if `parse_only`.
    """
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser: argparse.ArgumentParser, args=None, namespace=None):
        raise ArgumentsAreRightError(parse(parser, args, namespace))

    stopping = patch.object(argparse.ArgumentParser, "parse_args", parse_and_stop)
    is_module = words[0] == "-m"
    argv = words[1:] if is_module else words
    path = [*sys.path] if is_module else [str((ROOT / argv[0]).parent), *sys.path]
    with (
        patch.object(sys, "argv", argv),
        patch.object(sys, "path", path),
        warnings.catch_warnings(action="ignore", category=RuntimeWarning),  # the module is known already
        stopping if parse_only else contextlib.nullcontext(),
    ):
        if is_module:
            runpy.run_module(argv[0], run_name="__main__")
        else:
            runpy.run_path(str(ROOT / argv[0]), run_name="__main__")


def _error_of(command: str) -> str:
    """What a command ends with: its last line on stderr, or the error it raises."""
    said = io.StringIO()
    words = shlex.split(command, comments=True)
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            start(words[1:])
    except SystemExit:
        return said.getvalue().strip().splitlines()[-1]
    except (OSError, TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    raise AssertionError(f"{command} didn't fail")


def known_flags() -> set[str]:
    """All flags of the project's commands, and those of `accelerate launch`."""
    from accelerate.commands.launch import launch_command_parser

    scripts = [*ROOT.glob("*.py"), *ROOT.glob("benchmarks/*.py"), *ROOT.glob("prunnet_hf/**/*.py")]
    found = {flag for script in scripts for flag in re.findall(r'"(--[\w-]+)"', script.read_text(encoding="utf-8"))}
    fields = [name for kind in _argument_classes() for name in kind.__dataclass_fields__]
    launch = {option for action in launch_command_parser()._actions for option in action.option_strings}
    return found | launch | _flags_of_verbs() | {f"--{name}" for name in fields}


def _flags_of_verbs() -> set[str]:
    import typer

    from prunnet_hf.cli.main import app

    options = [option for verb in typer.main.get_command(app).commands.values() for option in verb.params]
    return {flag for option in options for flag in (*option.opts, *option.secondary_opts)}


def _argument_classes() -> list[type]:
    from prunnet_hf.compression.sap_arguments import SapArguments
    from prunnet_hf.runs.arguments import DataArguments, ModelArguments, TrainArguments

    return [ModelArguments, DataArguments, TrainArguments, SapArguments]


CHECKS: dict[str, Callable[[list[str]], None]] = {
    "accelerate": _check_accelerate,
    "make": _check_make,
    "pip": _check_pip,
    "prunnet": _check_prunnet,
    "python": check_script,
    "torchrun": _check_torchrun,
}
