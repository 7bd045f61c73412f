import ast
import json
import math
import pickle
import tempfile
import tomllib
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

import phronesis
from phronesis.config import config_hash, differences, field_docs, import_path, load, to_toml
from phronesis.config.hints import documented
from phronesis.errors import ConfigError, UnknownName


class Ppo(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="ppo_clip"):
    """Clipped ratio."""

    low: float = 0.2
    """Share."""
    high: float | None = 0.28
    """Share; None means equal to low."""


class Reinforce(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="reinforce"):
    """Plain."""

    scale: float = 1.0
    """Factor."""


class Train(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Learning."""

    lr: float = 1e-3
    """Step size."""
    steps: int = 10
    """Updates."""
    stop_at: int | None = None
    """Episodes; None means never."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Number format."""
    layers: tuple[int, ...] = ()
    """Widths."""

    def __post_init__(self) -> None:
        if self.steps == 13:
            raise ValueError("13 updates bring bad luck; use 12 or 14")


class Source(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One source."""

    path: str
    """Where."""
    weight: float = 1.0
    """Share."""


class World(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Environment."""

    name: str = "ledger"
    """Which."""
    args: dict[str, Any] = {}
    """Free."""
    mix: dict[str, float] = {}
    """Shares."""


class Run(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A run."""

    name: str = "a"
    """Name."""
    seed: int = 0
    """Seed."""
    shuffle: bool = False
    """Order."""
    env: World = World()
    """World."""
    train: Train = Train()
    """Learning."""
    loss: Ppo | Reinforce = Ppo()
    """Loss."""
    sources: tuple[Source, ...] = ()
    """Data."""
    extra_loss: Ppo | Reinforce | None = None
    """Second loss."""


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8", newline="")
    return path


def test_later_layers_win_and_tables_merge(tmp_path: Path):
    first = write(tmp_path, "a.toml", '[train]\nlr = 0.5\nsteps = 7\n[env.args]\nsize = 3\nkind = "x"\n')
    second = write(tmp_path, "b.toml", "[train]\nsteps = 8\n")
    preset = Run(seed=5, train=Train(lr=9.0, stop_at=4))
    config = load(Run, [first, second], ["env.args.size=4", "train.layers=[1, 2]"], preset)
    assert config == Run(
        seed=5, train=Train(lr=0.5, steps=8, stop_at=4, layers=(1, 2)), env=World(args={"size": 4, "kind": "x"})
    )


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("train.lr=3e-4", "train.lr", 3e-4),
        ("train.lr=.5", "train.lr", 0.5),
        ("train.lr=1", "train.lr", 1.0),
        ("train.lr=inf", "train.lr", math.inf),
        ("shuffle=true", "shuffle", True),
        ("shuffle=True", "shuffle", True),
        ("name=true", "name", "true"),
        ("name=2026-01-02", "name", "2026-01-02"),
        ("name=1.50", "name", "1.50"),
        ('name="quoted = text"', "name", "quoted = text"),
        ("name=a=b", "name", "a=b"),
        ("name=", "name", ""),
        ("name=x\ny = 3", "name", "x\ny = 3"),
        ("train.stop_at=none", "train.stop_at", None),
        ("train.stop_at=3", "train.stop_at", 3),
        ("train.steps=1_000", "train.steps", 1000),
        ("env.args.deep.er=bare", "env.args", {"deep": {"er": "bare"}}),
        ("env.args={size = 3}", "env.args", {"size": 3}),
        ("env.mix.ledger=2", "env.mix", {"ledger": 2.0}),
        ("train.dtype=bf16", "train.dtype", "bf16"),
        ("loss.high=none", "loss.high", None),
        ('sources=[{path="p"}]', "sources", (Source(path="p"),)),
    ],
)
def test_override_values(override: str, path: str, value: object):
    config: Any = load(Run, overrides=[override])
    for part in path.split("."):
        config = getattr(config, part)
    assert config == value
    assert type(config) is type(value)


def test_choosing_another_alternative_drops_the_other_ones_values():
    assert load(Run, overrides=["loss.low=0.1"]).loss == Ppo(low=0.1)
    assert load(Run, overrides=["loss.scale=2", "loss.type=reinforce"]).loss == Reinforce(scale=2.0)
    assert load(Run, overrides=["extra_loss.type=ppo_clip"]).extra_loss == Ppo()
    preset = Run(loss=Reinforce(scale=3.0))
    assert load(Run, overrides=["loss.type=reinforce"], base=preset).loss == Reinforce(scale=3.0)
    assert load(Run, overrides=["loss.type=ppo_clip"], base=preset).loss == Ppo()


@pytest.mark.parametrize(
    ("override", "kind", "message"),
    [
        ("train.lrr=1", UnknownName, "unknown field 'train.lrr'; did you mean 'train.lr'?"),
        ("lr=1", UnknownName, "unknown field 'lr'; did you mean 'train.lr'?"),
        ("zzz.a=1", UnknownName, "unknown field 'zzz'; known: env, extra_loss, loss, name, seed, shuffle, sources, train"),
        ("env.qqqq=1", UnknownName, "unknown field 'env.qqqq'; known: env.args, env.mix, env.name"),
        ("sources=[{path='p', weigth=2}]", UnknownName, "unknown field 'sources[0].weigth'; did you mean 'sources[0].weight'?"),
        ("loss.type=ppo_clop", UnknownName, "unknown loss.type 'ppo_clop'; did you mean 'ppo_clip'?"),
        ("loss.scale=1", UnknownName, "unknown field 'loss.scale'"),
        ("extra_loss.low=1", ConfigError, "extra_loss: say which one with extra_loss.type=NAME; known: ppo_clip, reinforce"),
        ("train.dtype=fp23", UnknownName, "unknown train.dtype 'fp23'; did you mean 'fp32'?"),
        ("train.lr=fast", ConfigError, "train.lr: expected float, got 'fast'"),
        ("train.steps=1.5", ConfigError, "train.steps: expected int, got 1.5"),
        ("train.stop_at=x", ConfigError, "train.stop_at: expected int | none, got 'x'"),
        ("train.layers=[1, 'x']", ConfigError, "train.layers[1]: expected int, got [1, 'x']"),
        ("env.mix.a.b=1", ConfigError, "env.mix.a: expected float, got a table {'b': 1}"),
        ("env.mix.a=x", ConfigError, "env.mix.a: expected float, got 'x'"),
        ("train.lr.x=1", ConfigError, "train.lr: expected float, got a table {'x': 1}"),
        ("train=3", ConfigError, "train: expected a table (Train) with fields 'lr'"),
        ("train.steps=13", ConfigError, "train: 13 updates bring bad luck; use 12 or 14"),
        ("sources=[{weight=2}]", ConfigError, "sources[0].path is required"),
        ("train.lr", ConfigError, "override 'train.lr' has no '='; write dotted.path=value, e.g. train.lr=3e-4"),
        ("train..lr=1", ConfigError, "empty name in its path 'train..lr'"),
    ],
)
def test_errors_name_the_dotted_path(override: str, kind: type[Exception], message: str):
    with pytest.raises(kind) as caught:
        load(Run, overrides=[override])
    assert message in str(caught.value)


def test_overrides_that_contradict_one_another():
    for pair in (["train=3", "train.lr=1"], ["train.lr=1", "train=3"]):
        with pytest.raises(ConfigError, match=r"override 'train.*whole"):
            load(Run, overrides=pair)
    assert load(Run, overrides=["seed=1", "seed=2"]).seed == 2


def test_files_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"no config file '.*absent\.toml'"):
        load(Run, [tmp_path / "absent.toml"])
    with pytest.raises(ConfigError, match="is not TOML"):
        load(Run, [write(tmp_path, "bad.toml", "a = = 1")])
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(Run, [tmp_path / "binary.toml"])
    with pytest.raises(UnknownName, match=r"'train\.lrr'"):
        load(Run, [write(tmp_path, "c.toml", "[train]\nlrr = 1\n")])


json_values = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)
names = st.text(st.characters(codec="utf-8"), max_size=8)
losses = st.builds(Ppo, low=st.floats(allow_nan=False), high=st.none() | st.floats(allow_nan=False)) | st.builds(Reinforce)
configs = st.builds(
    Run,
    name=names,
    seed=st.integers(-(2**63), 2**63 - 1),
    shuffle=st.booleans(),
    env=st.builds(World, name=names, args=st.dictionaries(names, json_values, max_size=3)),
    train=st.builds(
        Train,
        lr=st.floats(allow_nan=False),
        stop_at=st.none() | st.integers(0, 9),
        dtype=st.sampled_from(["fp32", "bf16"]),
        layers=st.lists(st.integers(0, 9), max_size=3).map(tuple),
    ),
    loss=losses,
    sources=st.lists(st.builds(Source, path=names), max_size=2).map(tuple),
    extra_loss=st.none() | losses,
)


@given(configs)
def test_toml_round_trip(config: Run):
    text = to_toml(config)
    with tempfile.TemporaryDirectory() as folder:
        again = load(Run, [write(Path(folder), "config.toml", text)])
    assert again == config
    assert to_toml(again) == text
    assert config_hash(again) == config_hash(config)


def test_none_is_left_out_only_where_it_is_the_default(tmp_path: Path):
    table = tomllib.loads(to_toml(Run(loss=Ppo(high=None))))
    assert "stop_at" not in table["train"]
    assert table["loss"] == {"type": "ppo_clip", "low": 0.2, "high": "none"}
    with pytest.raises(ConfigError, match=r"env\.args\.x: TOML cannot hold None"):
        to_toml(Run(env=World(args={"x": None})))


def test_hash_ignores_order_and_names_but_not_the_seed():
    one = Run(env=World(args={"a": 1, "b": 2}))
    other = Run(name="other", env=World(args={"b": 2, "a": 1}))
    assert config_hash(one) == config_hash(other)
    assert len(config_hash(one)) == 12 and int(config_hash(one), 16) >= 0
    assert config_hash(one) != config_hash(Run(seed=1, env=one.env))
    assert config_hash(one, ignore=("seed",)) == config_hash(Run(seed=1, env=one.env), ignore=("seed",))
    assert config_hash(one, ignore=("env.args",)) == config_hash(Run(), ignore=("env.args",))

    class Reordered(Struct, frozen=True, kw_only=True):
        b: int = 2
        a: int = 1

    class Ordered(Struct, frozen=True, kw_only=True):
        a: int = 1
        b: int = 2

    assert config_hash(Reordered()) == config_hash(Ordered())


def test_differences():
    assert differences(Run(), Run(seed=3, loss=Reinforce())) == {
        "seed": (0, 3),
        "loss.type": ("ppo_clip", "reinforce"),
        "loss.low": (0.2, None),
        "loss.high": (0.28, None),
        "loss.scale": (None, 1.0),
    }


def test_import_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert import_path("json.decoder:JSONDecoder.decode") is json.JSONDecoder.decode
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "needs_absent.py").write_text("import absent_library_xyz\n")
    (tmp_path / "explodes.py").write_text("1 / 0\n")
    for path, message in [
        ("json", "'json' is not an import path; write 'package.module:attribute'"),
        ("json:", "is not an import path"),
        ("a b:c", "is not an import path"),
        ("absent_library_xyz:make", "no module 'absent_library_xyz'"),
        ("json.absent:make", "no module 'json.absent'"),
        ("json:dumpz", "unknown attribute of json 'dumpz'; did you mean 'dump' or 'dumps'?"),
        ("needs_absent:make", "importing 'needs_absent' needs the module 'absent_library_xyz'"),
        ("explodes:make", "importing 'explodes' failed with ZeroDivisionError: division by zero"),
    ]:
        with pytest.raises(ConfigError) as caught:
            import_path(path)
        assert message in str(caught.value)


def test_field_docs():
    docs = field_docs(Ppo)
    assert docs == {"low": "Share.", "high": "Share; None means equal to low."}


def config_classes() -> list[tuple[str, ast.ClassDef]]:
    """Every class of the package whose fields a person may set."""
    found: list[tuple[str, ast.ClassDef]] = []
    root = Path(phronesis.__file__).parent
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and any(k.arg == "forbid_unknown_fields" for k in node.keywords):
                found.append((str(path.relative_to(root)), node))
    return found


def test_every_config_field_is_documented():
    for path, node in config_classes():
        assert ast.get_docstring(node), f"{path}: {node.name} has no docstring"
        missing = [name for name, text in documented(node.body).items() if not text]
        assert not missing, f"{path}: {node.name}.{missing} lack the string that says what they are"


def test_unknown_name_pickles_and_compares_last_parts():
    error = pickle.loads(pickle.dumps(UnknownName("field", "train.LRR", ["train.lr", "other.steps"])))
    assert str(error) == "unknown field 'train.LRR'; did you mean 'train.lr'?"
    assert error.near == ["train.lr"]
