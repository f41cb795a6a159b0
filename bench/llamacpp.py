"""llamacpp.py -- llama.cpp's own tools, how they are called, and what they print.

For bench/compare, which is given a folder of their binaries. Flash attention, a thread a core, a slot
for each request at once, no store of old prompts. These flags are chosen, not yet searched: measure
others on a quiet machine before calling them its best.
"""

import json
import os
import re
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

TOOLS = ("llama-batched-bench", "llama-server", "llama-perplexity")
READY_LIMIT_S = 120
RUN_LIMIT_S = 600


class Failed(Exception):
    """A program did not do what it was run for; the text is for whoever runs the comparison."""


def tail(text, lines=5):
    return "\n".join("    " + line for line in text.strip().splitlines()[-lines:])


def run(command, limit_s=RUN_LIMIT_S):
    """Standard output and error of a command that must succeed."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              errors="replace", timeout=limit_s)
    except OSError as e:
        raise Failed(f"{command[0]}: {e.strerror}") from e
    except subprocess.TimeoutExpired as e:
        raise Failed(f"still running after {limit_s} s: {' '.join(command)}") from e
    if done.returncode != 0:
        raise Failed(f"exit status {done.returncode}: {' '.join(command)}\n{tail(done.stdout)}")
    return done.stdout


def parse_batched_bench(text):
    """{sequences: (prefill tokens/s, decode tokens/s)} of JSON lines among others; of cases that
    ran several times the last, when everything is warm."""
    cases = {}
    for line in text.splitlines():
        if line.startswith("{"):
            case = json.loads(line)
            cases[case["pl"]] = (case["speed_pp"], case["speed_tg"])
    return cases


def parse_perplexity(text):
    """(perplexity, windows) of llama-perplexity's report."""
    final = re.search(r"Final estimate: PPL = ([0-9.]+)", text)
    windows = re.search(r"over (\d+) chunks", text)
    if not final or not windows:
        raise Failed(f"llama-perplexity told no perplexity:\n{tail(text)}")
    return float(final.group(1)), int(windows.group(1))


def parse_version(text):
    found = re.search(r"^version: (.+)$", text, re.MULTILINE)
    return found.group(1).strip() if found else "unknown version"


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


class LlamaCpp:
    """The binaries of one build."""

    def __init__(self, folder, threads, attention="on"):
        self.folder, self.attention = folder, attention
        self.threads = str(threads)
        missing = [t for t in TOOLS if not os.access(os.path.join(folder, t), os.X_OK)]
        if missing:
            raise Failed(f"{folder} lacks {', '.join(missing)}")

    def tool(self, name):
        return os.path.join(self.folder, name)

    def version(self):
        return parse_version(run([self.tool("llama-server"), "--version"], 60))

    def engine_command(self, model, prompt, gen, batch):
        # The prompt is computed once (-pps), but each sequence has its own copy of its keys and
        # values (--no-kv-unified). The first case warms up.
        return [self.tool("llama-batched-bench"), "-m", model, "-t", self.threads, "-fa", self.attention,
                "-b", "2048", "-ub", "512", "-npp", str(prompt), "-ntg", str(gen),
                "-npl", f"1,1,{batch}", "-pps", "--no-kv-unified",
                "-c", str(batch * (prompt + gen)), "--output-format", "jsonl"]

    def engine(self, model, prompt, gen, batch):
        """Tokens/s: prefill of one prompt, decode of one, decode of `batch` together."""
        command = self.engine_command(model, prompt, gen, batch)
        text = run(command)
        cases = parse_batched_bench(text)
        if 1 not in cases or batch not in cases:
            raise Failed(f"told no result: {' '.join(command)}\n{tail(text)}")
        return cases[1][0], cases[1][1], cases[batch][1]

    def server_command(self, model, slots, slot_tokens, port):
        return [self.tool("llama-server"), "-m", model, "-t", self.threads, "-fa", self.attention,
                "-b", "2048", "-ub", "512", "--parallel", str(slots), "--no-kv-unified",
                "-c", str(slots * slot_tokens), "--cache-ram", "0", "--no-webui",
                "--host", "127.0.0.1", "--port", str(port)]

    def perplexity_command(self, model, text, window, windows):
        return [self.tool("llama-perplexity"), "-m", model, "-t", self.threads, "-fa", self.attention,
                "-f", text, "-c", str(window), "--chunks", str(windows)]

    def perplexity(self, model, text, window, windows):
        """Of the second halves of the text's first `windows` windows."""
        with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as f:
            f.write(text)
            f.flush()
            told, count = parse_perplexity(
                run(self.perplexity_command(model, f.name, window, windows)))
        if count != windows:
            raise Failed(f"llama-perplexity made {count} windows of the text, not {windows}")
        return told


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """A running llama-server; ready when it is entered."""

    def __init__(self, llamacpp, model, slots, slot_tokens):
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.command = llamacpp.server_command(model, slots, slot_tokens, port)

    def __enter__(self):
        started = time.monotonic()
        self.log = tempfile.TemporaryFile("w+", errors="replace")
        self.process = subprocess.Popen(self.command, stdout=self.log, stderr=self.log)
        try:
            while not self.healthy():
                if self.process.poll() is not None:
                    raise Failed(self.say(f"ended with status {self.process.returncode}"))
                if time.monotonic() - started > READY_LIMIT_S:
                    raise Failed(self.say(f"not ready after {READY_LIMIT_S} s"))
                time.sleep(0.005)
        except BaseException:
            self.__exit__()
            raise
        self.ready_s = time.monotonic() - started
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()

    def healthy(self):
        try:
            with urllib.request.urlopen(self.url + "/health", timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def say(self, what):
        self.log.seek(0)
        return f"llama-server: {what}: {' '.join(self.command)}\n{tail(self.log.read())}"

    def pids(self):
        return [("server", self.process.pid)]

    def tokens(self, text):
        return post(self.url + "/tokenize", {"content": text, "add_special": True})["tokens"]
