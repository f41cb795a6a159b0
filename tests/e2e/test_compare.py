#!/usr/bin/env python3
"""test_compare.py -- bench/compare: what it reads, what it measures, what it says when a peer fails.

llama.cpp's place is taken by stub_llama.py, so this holds the script to the output of one version;
weir is the real one with a tiny model.
"""
import csv
import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys

import weirtest
from weirtest import BIN, ROOT, case

BENCH = os.path.join(ROOT, "bench")
COMPARE = os.path.join(BENCH, "compare")
STUB = os.path.join(ROOT, "tests", "e2e", "stub_llama.py")
sys.path.insert(0, BENCH)
import llamacpp  # noqa: E402


def compare_module():
    loader = importlib.machinery.SourceFileLoader("compare", COMPARE)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("compare", loader))
    sys.dont_write_bytecode = True
    loader.exec_module(module)
    return module


def fails(function, *arguments):
    try:
        function(*arguments)
    except llamacpp.Failed as e:
        return str(e)
    raise AssertionError(f"{function.__name__} takes {arguments}")


def llama_folder(name, tools=llamacpp.TOOLS):
    folder = weirtest.scratch(name)
    os.makedirs(folder)
    for tool in tools:
        os.symlink(STUB, os.path.join(folder, tool))
    return folder


def compare(folder, out, **environment):
    model = weirtest.tiny_model()
    return subprocess.run(
        [COMPARE, "--llama-bin", folder, "--model", model, "--best-format", model, "--quick",
         "--rounds", "1", "--binary", BIN, "--out", out],
        env={**os.environ, "STUB_WEIR": BIN, **environment}, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, timeout=300)


@case
def reads_the_warm_case_of_each_batch():
    text = 'x\n{"pl": 1, "speed_pp": 5, "speed_tg": 6}\n{"pl": 1, "speed_pp": 7, "speed_tg": 8}\n' \
           '{"pl": 16, "speed_pp": 9, "speed_tg": 10}\nllama_perf\n'
    assert llamacpp.parse_batched_bench(text) == {1: (7, 8), 16: (9, 10)}


@case
def reads_perplexity_and_wants_one():
    text = "calculating perplexity over 14 chunks, n_ctx=512\nFinal estimate: PPL = 18.3 +/- 0.5\n"
    assert llamacpp.parse_perplexity(text) == (18.3, 14)
    assert "out of memory" in fails(llamacpp.parse_perplexity, "over 14 chunks\nout of memory\n")


@case
def a_load_run_counts_only_when_all_went_as_asked():
    parse = compare_module().parse_load
    good = {"requests": 8, "completed": 8, "failed": 0, "prompt_tokens": 1600,
            "requests_per_second": 2.5, "ttft_ms": {"p50": 10.0, "p95": 20.0}}
    assert parse("note\n" + json.dumps(good)) == (2.5, 10.0, 20.0)
    for wrong in ({"failed": 1, "completed": 7, "prompt_tokens": 1400}, {"prompt_tokens": 1592}):
        try:
            parse(json.dumps({**good, **wrong}))
        except Exception as e:
            assert type(e).__name__ == "Failed", e
        else:
            raise AssertionError(f"takes {wrong}")


@case
def measures_everything_of_everyone():
    out = weirtest.scratch("compare-out")
    done = compare(llama_folder("llama-all"), out)
    assert done.returncode == 0, done.stderr
    module = compare_module()
    with open(os.path.join(out, "llamacpp.csv"), encoding="utf-8") as f:
        rows = {(r["what"], r["case"]): float(r["value"]) for r in csv.DictReader(f)}
    for contender in (module.WEIR, module.SAME, module.BEST):
        for figure in module.FIGURES:
            assert rows[figure, contender] > 0, (figure, contender)
    assert [rows[figure, module.SAME] for figure in module.ENGINE] == [100, 10, 40]
    with open(os.path.join(out, "llamacpp.md"), encoding="utf-8") as f:
        text = f.read()
    ratio = rows[module.ENGINE[0], module.WEIR] / 100
    line = next(x for x in text.splitlines() if x.startswith(f"| {module.ENGINE[0]}, "))
    assert f"| {ratio:.2f}x | 9x | 100 | {ratio:.2f}x | 3x |" in line, line
    assert "0.5.0-dev" in text and "Failed" not in text
    assert "another vocabulary" in done.stderr


@case
def what_a_failing_peer_said_is_in_the_report():
    out = weirtest.scratch("compare-failed")
    done = compare(llama_folder("llama-failing"), out, STUB_FAIL="llama-server")
    assert done.returncode == 1, done.stderr
    assert "ended with status 3" in done.stdout and "unable to load model" in done.stdout
    assert "| server: requests, 1/s | " in done.stdout


@case
def missing_binaries_are_named():
    done = compare(llama_folder("llama-part", ["llama-server"]), weirtest.scratch("nothing"))
    assert done.returncode == 2
    assert "lacks llama-batched-bench, llama-perplexity" in done.stderr, done.stderr


if __name__ == "__main__":
    weirtest.main()
