#!/usr/bin/env python3
"""figures.py -- measures what the README quotes: start-up, memory, engine, serving.

    bench/figures.py [--rounds N] [--requests N] [--out DIR] [--binary FILE] [--model FILE]

Each figure is the median of N rounds; the disaggregated and the aggregated server take turns in every
round, so that a machine whose speed drifts does not favour one. Writes DIR/figures.csv (every round)
and DIR/figures.md (the tables), and prints the tables.
"""

import argparse
import csv
import datetime
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import time
import urllib.request

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
CACHE = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
MODEL = os.path.join(CACHE, "weir", "SmolLM2-135M-Instruct.Q4_1.gguf")
CONCURRENCY = (1, 4, 8, 16)
PROMPT, OUTPUT = 200, 64


def run(command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


class Server:
    """A `weir serve` on a free port; ready when it is entered."""

    def __init__(self, options, *flags):
        self.command = [options.binary, "serve", "--model", options.model, "--port", "0",
                        "--log-level", "warn", *flags]

    def __enter__(self):
        started = time.monotonic()
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        found = re.search(r"http://\S+?:\d+", line)
        if not found:
            raise RuntimeError(f"no server: {' '.join(self.command)}")
        self.url = found.group(0)
        while True:
            try:
                urllib.request.urlopen(self.url + "/health", timeout=5).read()
                break
            except OSError:
                time.sleep(0.005)
        self.ready_s = time.monotonic() - started
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()

    def pids(self):
        """(name, pid) of the gateway and its workers."""
        found = [("gateway", self.process.pid)]
        children = run(["ps", "--ppid", str(self.process.pid), "-o", "pid=,args="])
        for line in children.splitlines():
            pid, args = line.strip().split(None, 1)
            found.append((re.search(r"--role (\w+)", args).group(1), int(pid)))
        return found

    def rss_mib(self):
        rss = {}
        for name, pid in self.pids():
            with open(f"/proc/{pid}/status") as f:
                rss[name] = int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1)) / 1024
        return rss

    def metric(self, name, role):
        text = urllib.request.urlopen(self.url + "/metrics", timeout=10).read().decode()
        total = 0.0
        for line in text.splitlines():
            if line.startswith(name + "{") and f'role="{role}"' in line:
                total += float(line.rsplit(" ", 1)[1])
        return total


def evict(path):
    """Drops a file from the page cache."""
    with open(path, "rb") as f:
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class Table:
    """Every measurement, by what was measured."""

    def __init__(self):
        self.rows = []

    def add(self, round_, what, case, unit, value):
        self.rows.append((round_, what, case, unit, value))

    def median(self, what, case):
        values = [r[4] for r in self.rows if r[1] == what and r[2] == case]
        return statistics.median(values) if values else float("nan")


def measure_start(options, table, round_):
    for case in ("cold", "warm"):
        if case == "cold":
            evict(options.model)
            evict(options.binary)
        with Server(options) as server:
            table.add(round_, "ready", case, "s", server.ready_s)
            for name, mib in server.rss_mib().items():
                table.add(round_, "rss at start", name, "MiB", mib)


def measure_engine(options, table, round_):
    out = run([options.binary, "bench", "engine", "--model", options.model, "--prompt", "512",
               "--gen", "64", "--batch", "1,16", "--repeat", "1", "--json"])
    for line in out.splitlines():
        case = json.loads(line)
        if "tokens_per_second" in case:
            table.add(round_, "engine", f"{case['phase']} batch {case['batch']}", "tokens/s",
                      case["tokens_per_second"])


def measure_serve(options, table, round_):
    modes = (("disaggregated", ["--local-prefill-max", "0"]), ("aggregated", ["--aggregated"]))
    for mode, flags in modes if round_ % 2 == 0 else reversed(modes):
        with Server(options, *flags) as server:
            for concurrency in CONCURRENCY:
                result = json.loads(run(
                    [options.binary, "bench", "serve", "--url", server.url, "--concurrency",
                     str(concurrency), "--requests", str(options.requests * concurrency),
                     "--prompt-tokens", str(PROMPT), "--max-tokens", str(OUTPUT), "--seed",
                     str(1000 * round_ + concurrency), "--json"]))
                case = f"{mode} {concurrency}"
                table.add(round_, "requests/s", case, "1/s", result["requests_per_second"])
                table.add(round_, "output tokens/s", case, "1/s",
                          result["output_tokens_per_second"])
                for name in ("ttft", "tpot", "e2e"):
                    for p in ("p50", "p95"):
                        table.add(round_, f"{name} {p}", case, "ms", result[f"{name}_ms"][p])
                table.add(round_, "failed", case, "requests", result["failed"])
            time.sleep(1.5)  # the workers' last numbers arrive within a second
            for name, mib in server.rss_mib().items():
                table.add(round_, "rss after load", f"{mode} {name}", "MiB", mib)
            if mode == "disaggregated":
                handed = server.metric("weir_handoffs_total", "prefill")
                table.add(round_, "kv bytes a request", mode, "bytes",
                          server.metric("weir_kv_bytes_received_total", "decode") / handed)
                exposed = server.metric("weir_kv_exposed_seconds_sum", "prefill")
                table.add(round_, "kv exposed a request", mode, "ms", 1e3 * exposed / handed)


def cpu_name():
    with open("/proc/cpuinfo") as f:
        found = re.search(r"model name\s*:\s*(.*)", f.read())
    return found.group(1) if found else platform.machine()


def place():
    """Machine, date and commit, as results begin."""
    commit = run(["git", "-C", ROOT, "describe", "--always", "--dirty"]).strip()
    return (f"{cpu_name()}, {len(os.sched_getaffinity(0))} cores, {platform.system()} "
            f"{platform.machine()}; {datetime.date.today()}; commit {commit}")


def render(options, table):
    lines = [
        f"{place()}; medians of {options.rounds} rounds; "
        f"`bench/figures.py --rounds {options.rounds} --requests {options.requests}`", "",
        "| figure | value |", "|---|---|",
        f"| ready, cold (model and binary not in the page cache) | {table.median('ready', 'cold'):.2f} s |",
        f"| ready, warm | {table.median('ready', 'warm'):.2f} s |",
        "| RSS at start: gateway, prefill, decode | " + ", ".join(
            f"{table.median('rss at start', n):.0f}" for n in ("gateway", "prefill", "decode"))
        + " MiB |",
        "| RSS after load: gateway, prefill, decode | " + ", ".join(
            f"{table.median('rss after load', 'disaggregated ' + n):.0f}"
            for n in ("gateway", "prefill", "decode")) + " MiB |",
        f"| binary, stripped | {options.stripped / 1e6:.2f} MB |",
    ]
    for case in ("prefill batch 1", "decode batch 1", "decode batch 16"):
        lines.append(f"| engine, 512 prompt tokens: {case} | "
                     f"{table.median('engine', case):.0f} tokens/s |")
    lines += [
        f"| KV moved a request ({PROMPT} prompt tokens) | "
        f"{table.median('kv bytes a request', 'disaggregated') / 1e6:.2f} MB |",
        f"| exposed transfer time a request | "
        f"{table.median('kv exposed a request', 'disaggregated'):.1f} ms |", "",
        f"Serving, {PROMPT} prompt + {OUTPUT} output tokens a request, closed loop:", "",
        "| concurrency | mode | requests/s | output tokens/s | TTFT p50 / p95 ms | "
        "TPOT p50 / p95 ms | end to end p50 ms | failed |", "|---|---|---|---|---|---|---|---|",
    ]
    for concurrency in CONCURRENCY:
        for mode in ("disaggregated", "aggregated"):
            case = f"{mode} {concurrency}"
            m = lambda what: table.median(what, case)  # noqa: E731
            lines.append(
                f"| {concurrency} | {mode} | {m('requests/s'):.2f} | {m('output tokens/s'):.0f} | "
                f"{m('ttft p50'):.0f} / {m('ttft p95'):.0f} | {m('tpot p50'):.1f} / "
                f"{m('tpot p95'):.1f} | {m('e2e p50'):.0f} | {m('failed'):.0f} |")
    return "\n".join(lines) + "\n"


def stripped_bytes(binary):
    copy = binary + ".stripped"
    subprocess.run(["strip", "-o", copy, binary], check=True)
    size = os.path.getsize(copy)
    os.unlink(copy)
    return size


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=4, help="per unit of concurrency")
    parser.add_argument("--out", default=os.path.join(ROOT, "build", "figures"))
    parser.add_argument("--binary", default=os.path.join(ROOT, "build", "release", "weir"))
    parser.add_argument("--model", default=MODEL)
    options = parser.parse_args()
    options.stripped = stripped_bytes(options.binary)
    os.makedirs(options.out, exist_ok=True)
    table = Table()
    for round_ in range(options.rounds):
        for step in (measure_start, measure_engine, measure_serve):
            print(f"round {round_ + 1} of {options.rounds}: {step.__name__}", file=sys.stderr)
            step(options, table, round_)
    with open(os.path.join(options.out, "figures.csv"), "w", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(("round", "what", "case", "unit", "value"))
        writer.writerows(table.rows)
    text = render(options, table)
    with open(os.path.join(options.out, "figures.md"), "w") as f:
        f.write(text)
    print(text)


if __name__ == "__main__":
    main()
