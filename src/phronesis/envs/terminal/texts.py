"""Families of tasks about text: reading logs, joining tables, merging settings. Each solution is a pipeline of old tools."""

from __future__ import annotations

import random
from collections import Counter, defaultdict

from phronesis.envs.terminal.job import Check, Job, unchanged

SERVICES = ("auth", "billing", "cart", "mail", "search", "stock", "upload", "video")
"""Names that occur in logs."""
PEOPLE = ("ada", "bea", "carl", "dora", "emil", "fay", "gus", "hana", "ivo", "jana", "kai", "lena")
"""Users and customers."""
CITIES = ("Bergen", "Cadiz", "Delft", "Graz", "Lund", "Porto", "Turin", "Varna")
"""Where customers live."""


def log_lines(source: random.Random, count: int, day: int) -> list[str]:
    """Lines ``time level service user status milliseconds``, in order of time."""
    minutes = sorted(source.randrange(24 * 60) for _ in range(count))
    return [
        f"2024-03-{day:02d}T{m // 60:02d}:{m % 60:02d} {source.choice(('INFO', 'INFO', 'WARN', 'ERROR'))} "
        f"{source.choice(SERVICES)} {source.choice(PEOPLE)} {source.choice((200, 200, 204, 404, 500, 503))} "
        f"{source.randrange(3, 900)}"
        for m in minutes
    ]


def logs(source: random.Random, difficulty: int) -> Job:
    """A question over log files, answered in a file."""
    files = {
        f"logs/app.log.{day}" if day < difficulty else "logs/app.log": "\n".join(log_lines(source, 12 + 10 * difficulty, day))
        + "\n"
        for day in range(1, difficulty + 1)
    }
    rows = [line.split() for text in files.values() for line in text.splitlines()]
    kind = source.choice(("errors", "slowest", "failing", "hours", "users"))
    match kind:
        case "errors":
            counts = Counter(row[2] for row in rows if row[1] == "ERROR")
            answer = [f"{name} {counts[name]}" for name in sorted(counts)]
            asked = "the number of ERROR lines of each service that has any, as `service count`, in order of the service"
            made = "cat logs/* | awk '$2 == \"ERROR\" {n[$3]++} END {for (s in n) print s, n[s]}' | sort"
        case "slowest":
            most: dict[str, int] = defaultdict(int)
            for row in rows:
                most[row[2]] = max(most[row[2]], int(row[5]))
            answer = [f"{name} {most[name]}" for name in sorted(most)]
            asked = "the longest time (last column) of each service, as `service milliseconds`, in order of the service"
            made = "cat logs/* | awk '$6 > m[$3] {m[$3] = $6} END {for (s in m) print s, m[s]}' | sort"
        case "failing":
            bar = 1 + difficulty
            failed = Counter(row[3] for row in rows if int(row[4]) >= 500)
            answer = [name for name in sorted(failed) if failed[name] >= bar]
            asked = f"the users with at least {bar} lines of status 500 or more (fifth column), one on a line, in order"
            made = f"cat logs/* | awk '$5 >= 500 {{n[$4]++}} END {{for (u in n) if (n[u] >= {bar}) print u}}' | sort"
        case "hours":
            level = source.choice(("WARN", "ERROR"))
            hours = Counter(row[0][11:13] for row in rows if row[1] == level)
            answer = [f"{hour} {count}" for hour, count in sorted(hours.items(), key=lambda h: (-h[1], h[0]))[:1]]
            asked = f"the hour (two digits) with most {level} lines, the earliest of several, and their number, as `hour count`"
            made = (
                f"cat logs/* | awk '$2 == \"{level}\" {{print substr($1, 12, 2)}}' | sort | uniq -c | sort -k1,1nr -k2,2 "
                "| head -n 1 | awk '{print $2, $1}'"
            )
        case _:
            service = source.choice(sorted({row[2] for row in rows}))
            answer = sorted({row[3] for row in rows if row[2] == service})
            asked = f"every user of the service {service}, each once, one on a line, in alphabetical order"
            made = f"cat logs/* | awk '$3 == \"{service}\" {{print $4}}' | sort -u"
    text = (
        "The files in logs/ hold lines `time level service user status milliseconds`. Write into answer.txt, over all of "
        f"them: {asked}. Leave logs/ as it is."
    )
    return Job(
        family="logs",
        text=text,
        files=files,
        tests=(
            Check(name="answer", kind="text", before=False, path="answer.txt", text="\n".join(answer)),
            unchanged("logs are as they were", "logs", files),
        ),
        solution=(f"{made} > answer.txt",),
        product="answer.txt",
    )


def join(source: random.Random, difficulty: int) -> Job:
    """Two tables of comma-separated values become one."""
    names = source.sample(PEOPLE, 4 + difficulty)
    ids = source.sample(range(100, 999), len(names))
    customers = {i: (name, source.choice(CITIES)) for i, name in zip(ids, names, strict=True)}
    unknown = [i for i in range(100, 999) if i not in customers]
    orders = [
        (k, source.choice(ids) if source.random() < 0.8 else source.choice(unknown), source.randrange(1, 90))
        for k in range(1, 6 + 6 * difficulty)
    ]
    orders += [(len(orders) + 1, ids[0], 7), (len(orders) + 2, unknown[0], 5)]
    source.shuffle(orders)
    total: dict[int, int] = defaultdict(int)
    for _, customer, amount in orders:
        total[customer] += amount
    bar = source.randrange(10, 40) if difficulty > 1 else 0
    rows = sorted((customers[i][0], customers[i][1], total[i]) for i in customers if i in total and total[i] >= bar)
    table = ["name,city,total", *(f"{name},{city},{amount}" for name, city, amount in rows)]
    files = {
        "data/customers.csv": "id,name,city\n" + "".join(f"{i},{n},{c}\n" for i, (n, c) in customers.items()),
        "data/orders.csv": "order,customer,amount\n" + "".join(f"{k},{i},{a}\n" for k, i, a in orders),
    }
    only = f" Leave out customers whose total is below {bar}." if bar else ""
    made = (
        'awk -F, \'FNR == 1 {next} NR == FNR {name[$1] = $2 "," $3; next} $2 in name {sum[$2] += $3} '
        f'END {{for (i in sum) if (sum[i] >= {bar}) print name[i] "," sum[i]}}\' data/customers.csv data/orders.csv '
        "| LC_ALL=C sort"
    )
    text = (
        "Write out/report.csv with the header `name,city,total`: one line for each customer of data/customers.csv that has "
        "orders in data/orders.csv, with the sum of their amounts, in alphabetical order of the name. Orders of unknown "
        f"customers do not count.{only} Leave data/ as it is."
    )
    return Job(
        family="join",
        text=text,
        files=files,
        tests=(
            Check(name="report", kind="text", before=False, path="out/report.csv", text="\n".join(table)),
            unchanged("data are as they were", "data", files),
        ),
        solution=("mkdir -p out", f"(echo name,city,total; {made}) > out/report.csv"),
        product="out/report.csv",
    )


KEYS = ("host", "port", "user", "debug", "cache", "retries", "theme", "limit", "colour", "proxy")
"""Names of settings."""


def settings(source: random.Random, difficulty: int) -> Job:
    """Settings in layers become one list."""
    layers = ("default", "site", "local")[: 1 + difficulty] if difficulty < 3 else ("default", "site", "team", "local")
    merged: dict[str, str] = {}
    files: dict[str, str] = {}
    for depth, layer in enumerate(layers):
        lines = [f"# settings: {layer}", ""]
        for key in source.sample(KEYS, 5 + source.randrange(3)):
            if depth and difficulty > 1 and key in merged and source.random() < 0.35:
                lines.append(f"{key} = !unset")
                merged.pop(key)
                continue
            value = str(source.randrange(1, 999))
            lines.append(f"{key}{source.choice(('=', ' = ', '  ='))}{value}")
            merged[key] = value
        lines.insert(source.randrange(1, len(lines)), f"#{source.choice(KEYS)} = {source.randrange(1000, 2000)}")
        files[f"conf/{layer}.conf"] = "\n".join(lines) + "\n"
    unset = " The value `!unset` removes a key that an earlier file has set." if difficulty > 1 else ""
    order = " ".join(f"conf/{layer}.conf" for layer in layers)
    text = (
        f"Merge the settings of {order} into conf/merged.conf: a later file overrides an earlier one.{unset} Lines that begin "
        "with # and empty lines do not count, nor do spaces around keys and values. Write `key=value` lines in alphabetical "
        "order of the key, and leave the other files as they are."
    )
    made = (
        'awk \'/^#/ || !/=/ {next} {k = $0; sub(/=.*/, "", k); v = $0; sub(/^[^=]*=/, "", v); gsub(/ /, "", k); '
        f'gsub(/ /, "", v); if (v == "!unset") delete s[k]; else s[k] = v}} END {{for (k in s) print k "=" s[k]}}\' '
        f"{order} | LC_ALL=C sort"
    )
    answer = "\n".join(f"{key}={merged[key]}" for key in sorted(merged))
    kept = [
        Check(name=f"{path} is as it was", kind="text", before=True, path=path, text=text_) for path, text_ in files.items()
    ]
    return Job(
        family="settings",
        text=text,
        files=files,
        tests=(Check(name="merged", kind="text", before=False, path="conf/merged.conf", text=answer), *kept),
        solution=(f"{made} > conf/merged.conf",),
        product="conf/merged.conf",
    )
