"""Runs in Inspect's environment: an evaluation of 20 samples with a mock model; each is judged in a box of its own."""

import json
import os
import sys
import tempfile

from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import ModelOutput, ModelUsage, get_model
from inspect_ai.scorer import Score, accuracy, scorer
from inspect_ai.solver import generate
from inspect_ai.util import sandbox


@scorer(metrics=[accuracy()])
def runs():
    async def score(state, target):
        await sandbox().write_file("answer.py", state.output.completion)
        ran = await sandbox().exec(["python3", "answer.py"], timeout=20)
        other = await sandbox().exec(["cat", "/etc/shadow"])
        found = await sandbox().read_file("answer.py")
        try:
            await sandbox().read_file("absent")
            missing = False
        except FileNotFoundError:
            missing = True
        right = ran.stdout.strip() == target.text and found == state.output.completion
        return Score(value=float(right), metadata={"shadow": other.success, "missing": missing, "uid": ran.stderr})

    return score


def output(text: str) -> ModelOutput:
    made = ModelOutput.from_content("mockllm/model", text)
    made.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
    return made


samples = [Sample(input=f"Print {n} squared.", target=str(n * n)) for n in range(20)]
outputs = [output(f"print({n} ** {2 if n % 2 == 0 else 3})") for n in range(20)]
task = Task(dataset=samples, solver=generate(), scorer=runs(), sandbox="phronesis")
with tempfile.TemporaryDirectory() as folder:
    model = get_model("mockllm/model", custom_outputs=outputs)
    (log,) = eval(task, model=model, display="none", log_dir=folder, max_connections=1, max_samples=1)
    if log.status != "success":
        sys.exit(str(log.error))
    scores = [s.scores["runs"] for s in log.samples]
told = {"values": [s.value for s in scores], "metadata": [s.metadata for s in scores], "home": os.path.exists("answer.py")}
print(json.dumps(told))
