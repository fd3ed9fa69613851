"""What all commands share: exact flags with a hint for a misspelt one, and errors in one line, printed once."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

DEBUG = "--debug"
MENDABLE = (OSError, ValueError, TypeError, RuntimeError, ArithmeticError, ImportError)
"""What bad input, full disks and memory, and missing packages raise. All else is a fault of the program."""
REPOSITORY = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
INTERRUPTED = 130
"""The status after Ctrl-C, as shells have it."""
PATIENCE = 15.0
"""Seconds that a process waits for the first one to print the same error and end, when launchers stop them."""


class CommandParser(argparse.ArgumentParser):
    """A parser of exact flags, `--debug` among them, whose errors are one line with a hint."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})
        self.add_argument(DEBUG, action="store_true", help="Show the whole traceback of an error.")
        self._words: Sequence[str] = ()

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parse as `ArgumentParser` does."""
        self._words = sys.argv[1:] if args is None else args
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Print the error in one line, with the flags that may have been meant, and leave with status 2."""
        print_error(self.prog, message + self.hint(self._words))
        self.exit(2)

    def hint(self, words: Iterable[str]) -> str:
        """`" Did you mean --epochs?"` for the flags among `words` that don't exist; else nothing."""
        flags = [word.partition("=")[0] for word in words if word.startswith("--") and word != "--"]
        known = self._option_string_actions
        return did_you_mean([flag for flag in flags if flag not in known], known)


def did_you_mean(unknown: Iterable[str], known: Iterable[str]) -> str:
    """A question that names, for each of the unknown words, the known one that it may be; empty if there is none.

    Example:
        >>> did_you_mean(["epoch"], ["epochs", "seed"])
        ' Did you mean epochs?'
    """
    choices = sorted(known)
    close = [match for word in unknown for match in difflib.get_close_matches(word, choices, n=1)]
    return f" Did you mean {', '.join(dict.fromkeys(close))}?" if close else ""


def run_command(name: str, work: Callable[[], object], words: Sequence[str] | None = None) -> int:
    """Run a command. An error that its user can mend is printed in one line.

    Args:
        name: What the line begins with: how the command is called.
        work: The command.
        words: Its words, among which `--debug` asks for the traceback; those of the command line if not given.

    Returns:
        The exit status: 0, 1 after an error, or 130 after Ctrl-C.
    """
    try:
        work()
    except (*MENDABLE, KeyboardInterrupt) as error:
        if DEBUG in (sys.argv[1:] if words is None else words):
            raise
        if isinstance(error, KeyboardInterrupt):
            print_error(name, "stopped by Ctrl-C.")
            return INTERRUPTED
        print_error(name, str(error) or type(error).__name__, after=PATIENCE)
        return 1
    return 0


def model_directory(source: str, subfolder: str = "", *, argument: str = "model") -> str:
    """Where a model is that a command was given: the `model/` of a run, if `source` is the directory of one.

    Args:
        source: A directory or a Hub repository.
        subfolder: The folder in it that was asked for.
        argument: What an error calls `source`.

    Raises:
        FileNotFoundError: If it is no directory, and can't be the name of a repository.
    """
    if not Path(source).is_dir() and not REPOSITORY.fullmatch(source):
        raise FileNotFoundError(
            f"{argument} must be the directory of a run or of a model, or a Hub repository as NAME or "
            f"ORGANISATION/NAME; there is no directory {source!r}. Check the path."
        )
    inside = Path(source) / "model"
    is_run = (inside / "config.json").is_file() and not (Path(source) / subfolder / "config.json").is_file()
    return str(inside) if is_run else source


def print_error(name: str, message: str, *, after: float = 0.0) -> None:
    """Print an error in one line, if several processes have it only once.

    The first process prints it at once, and launchers stop all others when it ends. An error that only another process
    has is printed by that one, after some seconds.

    Args:
        name: What the line begins with.
        message: Any text; of a traceback in it, as loaders' workers send, only the last line is printed.
        after: Seconds to wait in processes other than the first; 0 prints nothing there.
    """
    if int(os.environ.get("RANK", "0")) > 0:
        if not after:
            return
        time.sleep(after)
    print(f"{name}: error: {one_line(message)}", file=sys.stderr, flush=True)


def one_line(message: str) -> str:
    r"""A message without line feeds, and of a traceback in it only what it ends with.

    Example:
        >>> one_line("Caught it.\nOriginal Traceback (most recent call last):\n  File 1\nValueError: a bad\nimage")
        'a bad image'
    """
    lines = message.splitlines()
    starts = [number for number, line in enumerate(lines) if line.endswith("Traceback (most recent call last):")]
    if starts:
        ends = (number for number in range(starts[-1] + 1, len(lines)) if not lines[number].startswith(" "))
        lines = lines[next(ends, 0) :]
        lines[0] = lines[0].partition(": ")[2] or lines[0]
    return " ".join(line.strip() for line in lines if line.strip())
