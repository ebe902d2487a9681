"""A chat server whose one model plays lead and subagents by a script: no weights, real HTTP."""

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from wideseek.tools import corpus_file
from wideseek.tools.outcome import Page

QUESTION = "List all countries of Test Land with capital."
CAPITALS = {"Aland": "Ayville", "Beland": "Beeton", "Celand": "Ceeburg"}

Message = dict[str, Any]
Script = Callable[[list[Message]], Message]


def write_corpus(path: Path) -> Path:
    """A page a country."""
    pages = [
        Page(name, f"https://atlas.test/{name.lower()}", f"{name}\nA country.\ncapital: {capital}")
        for name, capital in CAPITALS.items()
    ]
    corpus_file.write(path, pages, {})
    return path


def environment(**extra: str) -> dict[str, str]:
    """Of a child process that imports what this one can."""
    paths = os.pathsep.join(path for path in sys.path if path)
    return os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"} | extra


def call(name: str, arguments: dict[str, Any]) -> Message:
    function = {"name": name, "arguments": json.dumps(arguments)}
    calls = [{"id": f"{name}-1", "type": "function", "function": function}]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def say(text: str) -> Message:
    return {"role": "assistant", "content": text}


def good_lead(messages: list[Message]) -> Message:
    """One subagent a country, then the table of their reports."""
    if messages[-1]["role"] == "user":
        return call("create_sub_agents", {"sub_agents": [{"prompt": name} for name in CAPITALS]})
    rows = [line for line in messages[-1]["content"].splitlines() if " | " in line]
    table = ["| country | capital |", "| --- | --- |", *(f"| {row} |" for row in rows)]
    return say("\n".join(["```markdown", *table, "```"]))


def good_sub(messages: list[Message]) -> Message:
    """Search the country, open its page, report its capital."""
    country = messages[1]["content"].split("Subtask: ")[1].split("\n")[0]
    match len(messages):
        case 2:
            return call("search", {"queries": [{"query": country}]})
        case 4:
            return call("access", {"urls": [{"url": f"https://atlas.test/{country.lower()}"}]})
    page = messages[-1]["content"]
    return say(f"{country} | {page.split('capital: ')[1].split(chr(10))[0]}")


class QuietServer(ThreadingHTTPServer):
    """A client that leaves is no news."""

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), BrokenPipeError | ConnectionResetError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


@contextmanager
def team(lead: Script = good_lead, sub: Script = good_sub, status: int = 200) -> Iterator[str]:
    """Serve the scripts; the base URL. `status`: of every completion."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(200, {"data": [{"id": "scripted"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            names = [tool["function"]["name"] for tool in body.get("tools", ())]
            script = lead if "create_sub_agents" in names else sub
            message = script(body["messages"])
            usage = {"prompt_tokens": 100, "completion_tokens": 10}
            choice = {"message": message, "finish_reason": "stop"}
            told = {"choices": [choice], "usage": usage}
            self._answer(status, told if status == 200 else {"error": {"message": "refused"}})

        def _answer(self, status: int, body: Any) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with QuietServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
