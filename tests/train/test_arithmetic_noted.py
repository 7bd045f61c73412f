"""Which arithmetic a run sampled with is written down, can be chosen, and a change in between is told."""

import logging

from msgspec.structs import replace

from phronesis.engine.embedded import EngineConfig
from phronesis.models.tiny import TinyModel
from phronesis.rollout.limits import Limits
from phronesis.store import Run
from phronesis.train import job
from phronesis.train.config import EnvChoice, EvalConfig, ModelConfig, RunConfig


def noted(folder):
    with Run.open(folder) as run:
        return [e.fields["arithmetic"] for e in run.events() if e.kind == "engine"]


def test_an_engine_of_another_kind_is_noted_and_told(tmp_path, caplog, monkeypatch):
    small = TinyModel(width=16, layers=1, heads=1, kv_heads=1, head_dim=16, mlp_width=16)
    config = RunConfig(
        name="noted",
        env=EnvChoice(name="probe-bandit"),
        model=ModelConfig(tiny=small, vocab_size=300),
        limits=Limits(max_turns=1, max_turn_tokens=3),
        engine=EngineConfig(native=False),
        steps=1,
        groups=1,
        group_size=2,
        evaluation=EvalConfig(tasks=0),
    )
    job.run(replace(config, engine=EngineConfig()), tmp_path / "free")
    job.run(config, tmp_path / "run")
    assert noted(tmp_path / "run") == ["pytorch"] and noted(tmp_path / "free")[0].startswith("native-")
    job.run(config, tmp_path / "run", resume=True)
    assert noted(tmp_path / "run") == ["pytorch"] and not caplog.records
    monkeypatch.setattr("phronesis.engine.embedded.EmbeddedEngine.arithmetic", "native-4")
    with caplog.at_level(logging.WARNING):
        job.run(config, tmp_path / "run", resume=True)
    assert noted(tmp_path / "run") == ["pytorch", "native-4"]
    assert "sampled with pytorch so far and goes on with native-4" in caplog.text
