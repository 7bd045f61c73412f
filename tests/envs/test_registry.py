"""Pins: environments by name, entry point and import path, and what is said when that fails."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest
from env_scripts import act, call, play, texts

from phronesis.env import EnvSpec
from phronesis.envs import registry
from phronesis.errors import ConfigError, UnknownName

BUILT_IN = [listing.name for listing in registry.names()]


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_name_makes_its_environment(name):
    spec = registry.get(name)
    assert isinstance(spec, EnvSpec)
    assert spec.name == name
    assert {"train", "heldout"} <= set(spec.sizes)
    assert spec.task("heldout", 0).env == name
    assert spec.oracle_reward is not None


def test_every_name_has_a_description_of_one_line():
    assert len(BUILT_IN) == len(set(BUILT_IN)) >= 10
    assert all(0 < len(n.description) < 90 for n in registry.names())


def test_arguments_reach_the_maker_and_are_checked():
    assert registry.get("guess", {"high": 15, "calls": 3}).task("train", 15).payload == {"secret": 15, "high": 15, "calls": 3}
    with pytest.raises(UnknownName, match=r"unknown argument of environment 'guess' 'hihg'; did you mean 'high'\?"):
        registry.get("guess", {"hihg": 3})
    with pytest.raises(ConfigError, match="argument 'high' is '9': Expected `int`, got `str`"):
        registry.get("guess", {"high": "9"})
    with pytest.raises(ConfigError, match="argument 'map_name' is '5x5'"):
        registry.get("frozenlake", {"map_name": "5x5"})
    with pytest.raises(UnknownName, match="known: max_turns, rainy"):
        registry.get("taxi", {"zzz": 1})


def test_unknown_names_suggest():
    with pytest.raises(UnknownName, match=r"unknown environment 'gues'; did you mean 'guess'\?"):
        registry.get("gues")


def test_import_paths_of_functions_specs_and_classes():
    spec = registry.get("own_envs:make", {"size": 3, "names": ["a"]})
    assert spec.sizes == {"train": 3}
    assert spec.task("train", 2).messages[0].text == "2 0.5 ['a']"
    assert registry.get("own_envs:READY").sizes == {"train": 2}
    style = registry.get("own_envs:Style", {"max_turns": 2, "turn_rewards": True})
    assert (style.name, style.max_turns) == ("Style", 2)
    played, reward = play(style, [act(call("ping"))])
    assert (texts(played.replies[0]), reward.value) == (["pong"], 1.0)


@pytest.mark.parametrize(
    ("path", "args", "message"),
    [
        ("own_envs:make", {}, "'own_envs:make' needs the argument 'size'; it takes: size, share, names"),
        ("own_envs:make", {"size": 1, "names": "a"}, "argument 'names' is 'a'"),
        ("own_envs:READY", {"size": 1}, "takes no arguments"),
        ("own_envs:wrong", {}, "returned 'str', expected phronesis.env.EnvSpec"),
        ("own_envs:NUMBER", {}, "'own_envs:NUMBER' is 'int', expected a function"),
        ("own_envs:NoTasks", {}, "has no tasks"),
        ("own_envs:mkae", {}, "mkae"),
        ("no_such_package.envs:make", {}, "no module 'no_such_package'"),
        ("own_envs:", {}, "is not an import path"),
    ],
)
def test_bad_paths_and_arguments_are_told(path, args, message):
    with pytest.raises(ConfigError, match=message):
        registry.get(path, args)


def test_entry_points_of_installed_packages(monkeypatch):
    points = [
        EntryPoint(name="theirs", value="own_envs:READY", group=registry.GROUP),
        EntryPoint(name="guess", value="own_envs:READY", group=registry.GROUP),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == registry.GROUP else [])
    assert registry.names()[-1] == registry.Listing("theirs", "own_envs:READY", "")
    assert registry.get("theirs").name == "own"
    assert registry.get("guess").name == "guess"
