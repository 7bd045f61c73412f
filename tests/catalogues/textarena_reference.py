"""Runs in TextArena's environment: plays recorded moves with the package alone and prints what it pays."""

import json
import os
import random
import sys

import textarena

told = os.fdopen(os.dup(1), "w")
sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - games print
for line in sys.stdin:
    game = json.loads(line)
    random.seed(game["seed"])
    env = textarena.make(game["name"] + "-raw")
    env.reset(num_players=game["players"], seed=game["seed"])
    done, players = False, []
    for _, text in game["moves"]:
        player, _ = env.get_observation()
        players.append(player)
        done, _ = env.step(text)
    rewards = {str(k): float(v or 0) for k, v in (env.close()[0] or {}).items()} if done else None
    told.write(json.dumps({"done": done, "rewards": rewards, "players": players}) + "\n")
