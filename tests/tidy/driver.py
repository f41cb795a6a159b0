#!/usr/bin/env python3
"""driver.py -- tests/run reads results right: what fails, hangs or says nothing is never a pass."""

import importlib.machinery
import importlib.util
import os
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))


def load():
    loader = importlib.machinery.SourceFileLoader("run", os.path.join(ROOT, "tests", "run"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("run", loader))
    sys.dont_write_bytecode = True
    loader.exec_module(module)
    return module


SUM = "[====] Synthesis: Tested: {} | Passing: {} | Failing: {} | Crashing: {} \n"

# (exit status, output, passed, failed, skipped)
UNITS = [
    (0, SUM.format(3, 3, 0, 0), 3, 0, 0),
    (1, SUM.format(3, 1, 1, 1), 1, 2, 0),
    (1, SUM.format(3, 3, 0, 0), 3, 1, 0),  # a sanitizer spoke after the tests
    (0, SUM.format(0, 0, 0, 0), 0, 1, 0),
    (0, "[SKIP] a::b: no\n" + SUM.format(1, 1, 0, 0), 1, 0, 1),
    (-11, "", 0, 1, 0),
    (0, "said nothing", 0, 1, 0),
]
SCRIPTS = [
    (0, "", 1, 0, 0),
    (0, "words\n", 1, 0, 0),
    (1, "words\n", 0, 1, 0),
    (-9, "ok a\n", 1, 1, 0),
    (0, "ok a\nok b\nskip c - why\n", 2, 0, 1),
    (1, "ok a\nnot ok b - why\n", 1, 1, 0),
    (0, "ok a\nnot ok b - why\n", 1, 1, 0),
    (77, "no model\n", 0, 0, 1),
    (0, "okay\nnot okay\n", 1, 0, 0),
]


def check_results(run):
    for reader, rows in ((run.read_unit, UNITS), (run.read_script, SCRIPTS)):
        for status, output, *want in rows:
            got = list(reader(status, output)[:3])
            if got != want:
                yield f"{reader.__name__}({status}, {output!r}) is {got}, want {want}"


def check_selection(run):
    def tests():
        return [run.Test("tidy/sizes", [], 1), run.Test("golden/long", [], 1, tier="full"),
                run.Test("unit_base", [], 1, kind="unit", parts=["hash/a", "hash/b", "ring/a"]),
                run.Test("asan/unit_base", [], 1, kind="unit", parts=["hash/a"])]

    rows = [
        ([], False, ["tidy/sizes", "unit_base", "asan/unit_base"]),
        ([], True, ["tidy/sizes", "golden/long", "unit_base", "asan/unit_base"]),
        (["golden/long"], False, ["golden/long"]),
        (["tidy"], False, ["tidy/sizes"]),
        (["*unit*"], False, ["unit_base", "asan/unit_base"]),
        (["unit_base/hash"], False, ["unit_base:hash/a,hash/b"]),
        (["unit_base/*/a", "asan"], False, ["unit_base:hash/a,ring/a", "asan/unit_base"]),
        (["unit"], False, []),
    ]
    for patterns, full, want in rows:
        got = [t.name + (":" + ",".join(t.parts) if t.kind == "unit parts" else "")
               for t in run.select(tests(), patterns, full)]
        if got != want:
            yield f"select {patterns} is {got}, want {want}"


def check_hang(run):
    """A test that never ends is ended, with what it started, and keeps its output."""
    runner = run.Runner(False)
    start = time.monotonic()
    status, output = runner.execute(["sh", "-c", "sleep 1000 & echo begun; sleep 1000"], 1)
    if status == 0 or "begun" not in output or "still running" not in output:
        yield f"a hang gave {status}, {output!r}"
    if time.monotonic() - start > 60:
        yield "a hang was not ended"
    if runner.execute(["/nonexistent/program"], 1)[0] == 0:
        yield "a program that is not there passed"


def main():
    run = load()
    problems = [*check_results(run), *check_selection(run), *check_hang(run)]
    for problem in problems:
        print(problem)
    sys.exit(1 if problems else 0)


main()
