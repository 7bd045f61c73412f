import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from terminal import Seen

from phronesis.cli import main as main_module
from phronesis.cli.main import COMMANDS, main
from phronesis.cli.output import table
from phronesis.errors import TrainingError

Run = Callable[..., Seen]


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",), ("help",)])
def test_help_names_every_command_and_shows_examples(run: Run, words: tuple[str, ...]):
    seen = run(*words)
    assert seen.code == 0 and seen.err == ""
    for name, about in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(about)}$", seen.out, re.MULTILINE)
    assert "phronesis train quickstart --seed 3 steps=60" in seen.out


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_teaches_by_example(run: Run, command: str):
    seen = run(command, "--help")
    assert seen.code == 0
    examples = [line.strip() for line in seen.out.partition("Examples:")[2].splitlines() if line.strip()]
    assert examples and any(line.startswith(f"phronesis {command}") for line in examples)


def test_version(run: Run):
    assert re.fullmatch(r"phronesis \d+\.\d+\.\d+\S*\n", run("--version").out)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("trian", "quickstart"), "error: unknown command 'trian'; did you mean 'train'?"),
        (("xyz",), "error: unknown command 'xyz'; known: algorithms, "),
        (("play", "ledgr"), "error: unknown environment 'ledgr'; did you mean 'ledger'?"),
        (("play", "guess", "siez=3"), "unknown argument of environment 'guess' 'siez'"),
        (("play", "guess", "nonsense"), "override 'nonsense' has no '='"),
        (("play", "guess", "--split", "helodut"), "error: unknown split 'helodut'; did you mean 'heldout'?"),
        (("play", "guess", "--task", "-1"), "--task -1: split 'train' of 'guess' has tasks 0 to"),
        (("play", "absent_pkg.env:make"), "error: no module 'absent_pkg' (from 'absent_pkg.env:make')"),
        (("play", "math:tau"), "'math:tau' is 'float', expected a function that returns an EnvSpec"),
        (("env", "chekc", "guess"), "No such command 'chekc'"),
        (("env", "check", "gues"), "error: unknown environment 'gues'; did you mean 'guess'?"),
        (("play", "guess", "--sede", "3"), "No such option: --sede"),
        (("play", "guess", "--seed", "three"), "Invalid value for '--seed'"),
        (("play",), "Missing argument"),
        (("report", "runs/absent"), "error: no run folder 'runs/absent'; phronesis train RECIPE --out FOLDER makes one"),
        (("replay", "runs/absent", "x"), "error: no run folder 'runs/absent'"),
        (("eval", "runs/absent"), "error: no run or model folder 'runs/absent'"),
        (("eval", ".", "--tasks", "0"), "--tasks and --samples must be at least 1, got 0 and 1"),
        (("eval", ".", "--temperature", "-1"), "temperature must be at least 0, got -1.0"),
        (("doctor", "template", "absent"), "error: 'absent' is not a directory"),
        (("train", "quikstart"), "error: unknown recipe 'quikstart'; did you mean 'quickstart'"),
        (("train", "quickstart", "learner.schedule.wramup=1"), "did you mean 'learner.schedule.warmup'?"),
        (("train", "quickstart", "lr=1"), "unknown field 'lr'; did you mean"),
        (("train", "quickstart", "steps=many"), "error: steps: expected int, got 'many'"),
        (("train", "quickstart", "steps"), "'steps' is neither a setting (path=value) nor a config file (*.toml)"),
        (("train", "absent.toml"), "error: no config file 'absent.toml'"),
        (("train", "quickstart", "absent.toml"), "error: no config file 'absent.toml'"),
        (("train", "quickstart", "env.name=ledgr"), "unknown environment 'ledgr'; did you mean 'ledger'?"),
        (("train", "quickstart", "group_size=1", "credit.type=trajectory"), "group_size"),
        (("train", "quickstart", "sampling.temperature=0"), "temperature 0 in training"),
        (("train", "quickstart", "--resume"), "there is no run in 'runs/quickstart-seed0' to resume; leave out --resume"),
    ],
)  # fmt: skip
def test_bad_input_is_named_on_standard_error_with_code_2(run: Run, words: tuple[str, ...], message: str):
    seen = run(*words)
    assert seen.code == 2
    assert message in seen.err
    assert "Traceback" not in seen.err and seen.out == ""


def test_bad_input_leaves_nothing_behind(run: Run, tmp_path: Path):
    run("train", "quickstart", "steps=many")
    run("train", "quickstart", "env.name=ledgr")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (TrainingError("loss is nan at step 3"), "error: loss is nan at step 3 (traceback in "),
        (ZeroDivisionError("division by zero"), "error: ZeroDivisionError: division by zero (traceback in "),
    ],
)
def test_what_is_not_the_users_fault_is_one_line_and_a_saved_traceback(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, line: str
):
    def broken(_: list[str]) -> int:
        raise error

    monkeypatch.setattr(main_module, "_run", broken)
    seen = run("train")
    assert seen.code == 1 and seen.err.startswith(line) and seen.err.count("\n") == 1
    saved = Path(seen.err.partition("traceback in ")[2].strip().removesuffix(")"))
    assert "def broken" not in saved.read_text() and type(error).__name__ in saved.read_text()
    saved.unlink()


def test_interruption(run: Run, monkeypatch: pytest.MonkeyPatch):
    def stopped(_: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(main_module, "_run", stopped)
    assert run("play") == Seen(130, "", "error: interrupted\n")


def test_a_person_who_presses_control_c_while_playing_gets_130(tmp_path: Path):
    command = [sys.executable, "-c", "from phronesis.cli.main import main; raise SystemExit(main())", "play", "guess"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    assert process.stdout is not None
    assert "Find the hidden number" in process.stdout.readline()
    process.stdout.readline()
    os.kill(process.pid, signal.SIGINT)
    process.wait(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in process.communicate()[1]


def test_help_does_not_import_torch_and_playing_neither():
    script = (
        "import sys; from phronesis.cli.main import main; main(sys.argv[1:]); print('torch' in sys.modules, file=sys.stderr)"
    )
    for words in (["--help"], ["env", "list"], ["play", "guess"]):
        done = subprocess.run(
            [sys.executable, "-c", script, *words], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=True
        )
        assert done.stderr.strip() == "False", words


def test_a_closed_pipe_is_no_error(tmp_path: Path):
    program = f"{sys.executable} -c 'from phronesis.cli.main import main; raise SystemExit(main())'"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {program} env list | true"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.stderr == ""


def test_the_current_folder_can_be_imported_from(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "path", sys.path[:])
    (tmp_path / "my_world_for_cli.py").write_text(
        "class Door:\n"
        "    def reset(self, **row):\n"
        "        self.open = False\n"
        "        return 'Open the door.'\n"
        "    def knock(self, times: int) -> str:\n"
        '        """Knocks.\n\n        Args:\n            times: How often.\n        """\n'
        "        self.open = times == 3\n"
        "        return 'it opens' if self.open else 'silence'\n"
        "    def get_reward(self) -> float:\n"
        "        return float(self.open)\n"
    )
    seen = run("play", "my_world_for_cli:Door", "--json", stdin="knock 1\nknock 3\n/quit\n")
    assert seen.code == 0, seen.err
    assert '"it opens"' in seen.out and '"reward":1.0' in seen.out
    sys.modules.pop("my_world_for_cli", None)


def test_main_reads_the_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(sys, "argv", ["phronesis", "--version"])
    assert main() == 0 and capsys.readouterr().out.startswith("phronesis ")


def test_tables_line_up():
    assert table([["a", "long text"], ["bcd", "x"]], ["name", "about"]).split("\n") == [
        "name  about",
        "a     long text",
        "bcd   x",
    ]
