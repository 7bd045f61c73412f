"""`phronesis gateway` as a process: serves a model folder, records what agents do, ends when told to."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import openai
import pytest

from phronesis.cli.main import main
from phronesis.models import checkpoint
from phronesis.models.tiny import TinyModel, tiny
from phronesis.models.tokenizer import save_tokenizer, train_tokenizer
from phronesis.store import Run
from phronesis.store.index import Where
from phronesis.train.batching import verify

COMMAND = str(Path(sys.executable).with_name("phronesis"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tokenizer = train_tokenizer(["price of fig", "it costs five"] * 3, 300)
    sizes = TinyModel(width=32, layers=1, heads=2, kv_heads=1, head_dim=16, mlp_width=32, max_positions=128)
    checkpoint.save(tiny(sizes, len(tokenizer), 0), folder)
    save_tokenizer(tokenizer, folder)
    return folder


def test_a_model_folder_is_served_and_what_agents_do_is_recorded(model, tmp_path):
    out = tmp_path / "recorded"
    words = [COMMAND, "gateway", str(model), "--port", "0", "--json", "--out", str(out), "limits.max_turn_tokens=8"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            ready = json.loads(process.stdout.readline())
            address = ready["address"]
            assert address.startswith("http://127.0.0.1:") and ready["folder"] == str(out)
            episode = httpx.post(f"{address}/episodes", json={"task": "fig"}).json()
            beside = httpx.post(f"{address}/episodes", json={"task": "kiwi", "split": "heldout"}).json()
            for one in (episode, beside):
                with openai.OpenAI(base_url=one["base_url"], api_key="any") as client:
                    client.chat.completions.create(model="any", messages=[{"role": "user", "content": "price of fig"}])
            httpx.post(f"{address}/episodes/{episode['id']}/finish", json={"reward": 1.0}).raise_for_status()
            process.send_signal(signal.SIGTERM)
            output, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0, errors
    assert json.loads(output.splitlines()[-1])["episodes"] == 2
    with Run.open(out) as run:
        (record,) = run.episodes(Where(kind="gateway"))
        (open_still,) = run.episodes(Where(kind="heldout"))
        assert [e.kind for e in run.events()] == ["gateway", "gateway"]
    verify(record, tuple((1.0,) * len(t.completion) for t in record.turns))
    assert (record.task.id, record.reward.value, len(record.turns)) == ("fig", 1.0, 1)
    assert (open_still.task.id, open_still.reward, open_still.stop.value) == ("kiwi", None, "cancelled")
    assert main(["gateway", str(model), "--out", str(out)]) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gateway", "absent"], "no run or model folder 'absent'"),
        (["gateway", "{model}", "--host", "0.0.0.0"], "set PHRONESIS_GATEWAY_TOKEN to a secret"),
        (["gateway", "{model}", "gateway.prot=1"], "prot"),
        (["gateway", "{model}", "--port", "99999"], "gateway.port 99999"),
        (["train", "quickstart", "env.name=outside"], "start the run with --from-gateway"),
        (["train", "quickstart", "--from-gateway", "env.name=outside", "prime=none"], "set model.path"),
    ],
)
def test_what_cannot_be_served_is_refused_before_anything_is_written(model, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PHRONESIS_GATEWAY_TOKEN", raising=False)
    assert main([w.format(model=model) for w in words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
