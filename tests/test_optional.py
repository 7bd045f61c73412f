"""What an installation without extras can do, and what it says about the rest."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from phronesis.config import importing
from phronesis.config.importing import EXTRAS

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MODULES = {path: ".".join(path.relative_to(ROOT / "src").with_suffix("").parts) for path in (ROOT / "src").rglob("*.py")}

WITHOUT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""


def without(absent: set[str], code: str) -> subprocess.CompletedProcess[str]:
    script = WITHOUT.format(absent=absent) + code
    return subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False)


def distributions(requirements: list[str]) -> set[str]:
    """Module names of requirements; the few that differ from the distribution's name do so in the hyphen."""
    return {re.split(r"[\[<>=!~ ]", r)[0].replace("-", "_") for r in requirements}


def imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names - {"phronesis"}


def test_dependencies_are_exactly_what_is_imported():
    """A package that nothing imports is not asked for; jinja2 is imported by transformers."""
    used = set().union(*(imported(path) for path in MODULES))
    assert used - set(EXTRAS) == distributions(PROJECT["dependencies"]) - {"jinja2"}


def test_every_extra_is_promised_somewhere_and_every_promise_is_kept():
    extras = PROJECT["optional-dependencies"]
    named = {name for path in MODULES for name in re.findall(r"phronesis\[(\w+)\]", path.read_text(encoding="utf-8"))}
    assert named | set(EXTRAS.values()) == set(extras) - {"dev"}
    for module, extra in EXTRAS.items():
        assert module in distributions(extras[extra])
        assert f"phronesis[{extra}]" in extras["dev"], "what the package imports is tested"
    table = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert all(f"| `{extra}` |" in table for extra in extras)


def test_only_the_adapters_need_an_extra():
    """All other modules open where no extra is installed."""
    free = sorted(name for path, name in MODULES.items() if "adapters" not in path.parts and path.stem not in ("__main__",))
    code = f"import importlib\nfor name in {free!r}: importlib.import_module(name.removesuffix('.__init__'))\nprint('all')"
    done = without(set(EXTRAS), code)
    assert done.stdout == "all\n", done.stderr[-2000:]


def test_a_world_without_its_extra_names_it():
    code = (
        "from phronesis.cli.main import main\n"
        "assert main(['env', 'list']) == 0\n"
        "raise SystemExit(main(['env', 'check', 'frozenlake']))"
    )
    done = without(set(EXTRAS), code)
    assert done.returncode == 2
    assert "needs the module 'gymnasium', which is not installed; install it with: pip install 'phronesis[gym]'" in " ".join(
        done.stderr.split()
    )
    assert "frozenlake" in done.stdout


def test_worlds_need_no_pygame():
    worlds = ["frozenlake", "taxi", "cliffwalking", "blackjack"]
    code = f"from phronesis.envs.registry import get\nfor name in {worlds!r}: print(get(name).name)"
    assert without({"pygame"}, code).stdout.split() == worlds


def test_a_module_of_no_extra_is_only_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "wants_it.py").write_text("import absent_library_abc")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(importing.ConfigError, match=r"needs the module 'absent_library_abc', which is not installed$"):
        importing.import_path("wants_it:make")
