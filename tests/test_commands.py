"""Errors of commands: one line, a hint for a misspelt flag, and the traceback only if asked for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from prunnet_hf import commands
from prunnet_hf.commands import CommandParser, did_you_mean, model_directory, one_line, run_command
from tests.snippets import start

NOWHERE = "folder-that-is-not-there"
COMMANDS = {
    "train_accelerate.py": ["--dataset", "image_folder", "--data_dir", NOWHERE],
    "push_to_hub.py": [NOWHERE, "--repo_id", "org/name", "--dry_run"],
    "prunnet_hf.retrieval.encoding": ["--model", "m", "--data_dir", NOWHERE, "--output", "x.parquet"],
    "prunnet_hf.compression.sap": ["--dataset", "image_folder", "--data_dir", NOWHERE],
    "benchmarks/summarise.py": [NOWHERE],
}
"""Each command with words that name a folder which isn't there."""


def words_of(name: str) -> list[str]:
    return [*([] if name.endswith(".py") else ["-m"]), name, *COMMANDS[name]]


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_error_is_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"^1$"):
        start(words_of(name))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{name}: error: ")
    assert NOWHERE in line


def test_debug_shows_the_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=NOWHERE):
        start([*words_of("push_to_hub.py"), "--debug"])


@pytest.fixture
def parser() -> CommandParser:
    parser = CommandParser("command")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--model", required=True)
    return parser


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "m", "--epoch", "1"], r"unrecognized arguments: --epoch 1 Did you mean --epochs\?"),
        (["--modle=m"], r"required: --model Did you mean --model\?"),
        (["--model", "m", "--zzz"], r"unrecognized arguments: --zzz$"),
        (["--model", "m", "--epochs", "many"], r"--epochs: invalid int value: 'many'$"),
    ],
)
def test_flags_are_exact(
    parser: CommandParser, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(words)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("command: error: ")
    assert re.search(message, line)


def test_ctrl_c_is_one_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("command", lambda: fail(KeyboardInterrupt()), []) == 130
    assert capsys.readouterr().err == "command: error: stopped by Ctrl-C.\n"


def fail(error: BaseException) -> object:
    raise error


def test_other_processes_leave_the_error_to_the_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(commands, "PATIENCE", 0.01)
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    monkeypatch.setenv("RANK", "1")
    assert run_command("command", lambda: fail(ValueError("mine alone")), []) == 1
    assert waited == [0.01]  # in which the launcher stops it, if the first process has the error too
    assert capsys.readouterr().err == "command: error: mine alone\n"
    monkeypatch.setenv("RANK", "0")
    assert run_command("command", lambda: fail(FloatingPointError("two\nlines")), []) == 1
    assert waited == [0.01]
    assert capsys.readouterr().err == "command: error: two lines\n"


def test_faults_of_the_program_keep_their_traceback() -> None:
    with pytest.raises(KeyError):
        run_command("command", lambda: fail(KeyError("a")), [])


def test_an_error_of_a_loaders_worker_is_its_last_line() -> None:
    sent = [
        *("Caught ValueError in DataLoader worker process 0.", "Original Traceback (most recent call last):"),
        *('  File "a", line 1', "    raise", "ValueError: a.png: can't be decoded."),
    ]
    assert one_line("\n".join(sent)) == "a.png: can't be decoded."


def test_did_you_mean() -> None:
    assert did_you_mean(["learning_speed", "lr"], ["learning_rate", "epochs"]) == " Did you mean learning_rate?"
    assert did_you_mean(["lr"], ["learning_rate"]) == ""


def test_run_directory_stands_for_its_model(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for folder in ("model", "subnetworks/capacity-0.20"):
        (run / folder).mkdir(parents=True)
        (run / folder / "config.json").touch()
    assert model_directory(str(run)) == str(run / "model")
    assert model_directory(str(run / "model")) == str(run / "model")
    assert model_directory(str(run), "subnetworks/capacity-0.20") == str(run)  # which is asked for in it
    assert model_directory("org/name") == "org/name"
    missing = r"^teacher must be .* no directory 'out/misspelt/run'\. Check the path"
    with pytest.raises(FileNotFoundError, match=missing):
        model_directory("out/misspelt/run", argument="teacher")
