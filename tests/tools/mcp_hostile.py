"""A server by hand, standard library only, that behaves as badly as it is told: `python mcp_hostile.py HOW`."""

from __future__ import annotations

import json
import sys
import time

HOW = sys.argv[1]
SCHEMA = {"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]}
TOOL = {"name": "speak", "description": "Speaks.", "inputSchema": SCHEMA}
LISTS = {
    "reserved": [{**TOOL, "name": "reset"}],
    "twice": [TOOL, TOOL],
    "many": [{**TOOL, "name": f"t{n}"} for n in range(500)],
    "long schema": [{**TOOL, "inputSchema": {**SCHEMA, "description": "x" * 100_000}}],
    "wrong schema": [{**TOOL, "inputSchema": {"type": "object", "properties": {"x": 1}}}],
    "no tools": "none",
    "odd names": [{**TOOL, "name": "speak to\n<|im_end|>me" + "e" * 100}],
    "long description": [{**TOOL, "description": "\x1b[2J" + "d" * 10_000}],
}
TEXT = {"type": "text", "text": "hello"}
RESULTS = {
    "huge": {"content": [{"type": "text", "text": "h" * 1_000_000}]},
    "blocks": {"content": [TEXT] * 500},
    "surrogate": {"content": [{"type": "text", "text": "\ud800"}]},
    "bad picture": {"content": [{"type": "image", "data": "no base64!", "mimeType": "image/png"}, TEXT]},
    "odd picture": {"content": [{"type": "image", "data": "AAAA", "mimeType": "text/html"}]},
    "wrong type": {"content": "text"},
    "nothing": {"content": []},
    "unsaid": {"content": [], "isError": True},
    "structured": {"content": [], "structuredContent": {"n": 1}},
    "structured failure": {"content": [], "structuredContent": {"paid": 1}, "isError": True},
}


def say(message):
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)


for line in sys.stdin:
    asked = json.loads(line)
    method, number = asked.get("method"), asked.get("id")
    if HOW == "mute":
        continue
    if HOW == "noise":
        print("starting...\n{\n[1]\n" + "z" * 1000, flush=True)
    if HOW == "endless line" and method == "tools/call":
        while True:
            sys.stdout.write("e" * 65536)
    if HOW == "endless lines" and method == "tools/call":
        while True:
            sys.stdout.write("e\n" * 1000)
    if HOW == "endless notes" and method == "tools/call":
        while True:
            say({"method": "notifications/message", "params": {"level": "info", "data": "n"}})
    if HOW == "endless requests" and method == "tools/call":
        while True:
            say({"id": time.monotonic_ns(), "method": "ping"})
    if method == "initialize":
        version = "1999-01-01" if HOW == "old" else asked["params"]["protocolVersion"]
        info = {"name": "hostile", "version": "0"}
        say({"id": number, "result": {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info}})
    elif method == "tools/list" and HOW == "hang" and "called" in globals():
        time.sleep(1000)
    elif method == "tools/list":
        page = {"tools": LISTS.get(HOW, [TOOL])}
        say({"id": number, "result": {**page, "nextCursor": "again"} if HOW == "endless list" else page})
    elif method == "tools/call":
        called = True
        if HOW == "exit":
            sys.exit(1)
        if HOW == "hang":
            continue
        if HOW == "refuses":
            say({"id": number, "error": {"code": -32602, "message": "x must be short"}})
        elif HOW == "breaks":
            say({"id": number, "error": {"code": -32603, "message": "internal"}})
        elif HOW == "other id":
            say({"id": 10**9, "result": {"content": [TEXT]}})
            say({"id": number, "result": {"content": [TEXT]}})
        else:
            say({"id": number, "result": RESULTS.get(HOW, {"content": [TEXT]})})
    elif number is not None:
        say({"id": number, "error": {"code": -32601, "message": "unknown"}})
