#!/usr/bin/env python3
"""Compares chat templates rendered by weir with Python's jinja2, byte for byte.

The reference is jinja2 in the environment Hugging Face transformers makes for chat templates. Three
kinds of cases: small templates, one construct each (jinja_cases.py, jinja_templates.py); the
templates in templates/, written for this test in the style of common model families, with generated
conversations (chat_conversations.py); and every *.jinja in WEIR_TEMPLATE_DIR, such as the real
templates of models, with the same ones. Where the reference raises, weir must fail too;
raise_exception's message must be the same.

    WEIR_BIN            the binary (default build/release/weir)
    WEIR_TEMPLATE_DIR   a folder of *.jinja files

Prints `ok NAME`, `not ok NAME - why` or `skip NAME - why` a line; exits 1 if anything is not ok.
With names as arguments runs only those. Needs `pip install jinja2`.
"""

import concurrent.futures
import datetime
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import chat_conversations
import jinja_cases
import jinja_templates

HERE = pathlib.Path(__file__).resolve().parent
SEPARATOR = "<<<answer-5d27>>>"
FAILED = "error: "
SHOWN = 5
THREADS = 4


def reference_environments():
    """The environment of transformers' chat templates, and one whose sandbox allows changes."""
    import jinja2
    import jinja2.ext
    import jinja2.sandbox

    class Generation(jinja2.ext.Extension):
        """{% generation %} ... {% endgeneration %} prints its body."""
        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            call = self.call_method("render_body")
            return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

        def render_body(self, caller):
            return caller()

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value,
                          ensure_ascii=ensure_ascii,
                          indent=indent,
                          separators=separators,
                          sort_keys=sort_keys)

    def strftime_now(form):
        return datetime.datetime.now().strftime(form)

    def make(kind):
        env = kind(trim_blocks=True,
                   lstrip_blocks=True,
                   extensions=[Generation, jinja2.ext.loopcontrols, jinja2.ext.do])
        env.filters["tojson"] = tojson
        env.filters["from_json"] = json.loads
        env.globals["raise_exception"] = raise_exception
        env.globals["strftime_now"] = strftime_now
        return env

    return (make(jinja2.sandbox.ImmutableSandboxedEnvironment),
            make(jinja2.sandbox.SandboxedEnvironment))


class Weir:
    """Renders templates with the binary: {"text": ...} or {"error": ...} for each input."""

    def __init__(self, folder):
        self.folder = folder
        self.binary = os.environ.get("WEIR_BIN",
                                     str(HERE.parent.parent / "build" / "release" / "weir"))
        self.small_input = self.write("context.json", json.dumps(jinja_cases.CONTEXT))

    def write(self, name, text):
        path = os.path.join(self.folder, name)
        with open(path, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        return path

    def run(self, template_path, input_paths):
        command = [self.binary, "template", template_path, *input_paths, "--separator", SEPARATOR]
        done = subprocess.run(command, capture_output=True, timeout=300, check=False)
        if done.returncode not in (0, 1):
            raise RuntimeError(f"exit {done.returncode}: {done.stderr.decode()[-300:]}")
        out = done.stdout.decode().split(SEPARATOR)[:-1]
        if len(out) != len(input_paths):  # the template itself was refused
            return [{"error": done.stderr.decode().strip()}] * len(input_paths)
        return [{"error": text[len(FAILED):]} if text.startswith(FAILED) else {"text": text}
                for text in out]

    def small(self, numbered):
        """One small template with the context all of them share."""
        number, source = numbered
        path = self.write(f"small{number}.jinja", source)
        return self.run(path, [self.small_input])[0]

    def file(self, path, inputs):
        paths = [self.write(f"input{i}.json", json.dumps(value, ensure_ascii=False))
                 for i, value in enumerate(inputs)]
        return self.run(str(path), paths)


def expected(template, source_input):
    """("text", text), ("raise", message) or ("fail", what)."""
    import jinja2
    try:
        text = template.render(**json.loads(json.dumps(source_input)))
        text.encode()
        return "text", text
    except jinja2.exceptions.TemplateError as error:
        if type(error) is jinja2.exceptions.TemplateError:
            return "raise", str(error.message)
        return "fail", repr(error)
    except Exception as error:  # pylint: disable=broad-except
        return "fail", repr(error)


def compiled(env, source):
    try:
        return env.from_string(source), None
    except Exception as error:  # pylint: disable=broad-except
        return None, repr(error)


def difference(want, got):
    """Why `got`, weir's answer, is not `want`; None if it is."""
    kind, text = want
    if kind == "text":
        if "text" not in got:
            return f"failed ({got['error']}), reference gave {text[:200]!r}"
        if got["text"] == text or " at 0x" in text or "<generator object" in text:
            return None
        at = next((i for i, (a, b) in enumerate(zip(text, got["text"])) if a != b),
                  min(len(text), len(got["text"])))
        low = max(0, at - 30)
        return f"at {at}: {got['text'][low:at + 60]!r}, reference {text[low:at + 60]!r}"
    if "text" in got:
        return f"gave {got['text'][:200]!r}, reference failed ({text[:200]})"
    if kind == "raise" and got["error"] != text[:383]:
        return f"raised {got['error']!r}, reference {text!r}"
    return None


class Report:

    def __init__(self):
        self.failed = False

    def say(self, name, count, wrong):
        if not wrong:
            print(f"ok {name}")
            print(f"  {count} cases", file=sys.stderr)
            return
        self.failed = True
        print(f"not ok {name} - {len(wrong)} of {count}: {wrong[0]}")
        shown = len(wrong) if os.environ.get("WEIR_SHOW_ALL") else SHOWN
        for line in wrong[1:shown]:
            print(f"  {line}", file=sys.stderr)


def check_small(weir, env, name, sources, report):
    """Small templates with the one context."""
    wrong = []
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        answers = list(pool.map(weir.small, enumerate(sources)))
    for source, got in zip(sources, answers):
        template, error = compiled(env, source)
        want = expected(template, jinja_cases.CONTEXT) if template else ("fail", error)
        why = difference(want, got)
        if why:
            wrong.append(f"{source!r}: {why}")
    report.say(name, len(sources), wrong)


def check_different(weir, report):
    sources = jinja_cases.DIFFERENT
    answers = [weir.small(numbered) for numbered in enumerate(sources)]
    wrong = [source for source, got in zip(sources, answers) if "text" in got]
    report.say("chat/refused_by_design", len(sources), wrong)


def check_file(weir, env, name, path, report):
    """One template file with every conversation."""
    source = path.read_text(encoding="utf-8")
    template, error = compiled(env, source)
    inputs = list(chat_conversations.conversations())
    wrong, rendered = [], 0
    for source_input, got in zip(inputs, weir.file(path, inputs)):
        want = expected(template, source_input) if template else ("fail", error)
        rendered += want[0] == "text"
        why = difference(want, got)
        if why:
            wrong.append(f"{chat_conversations.describe(source_input)}: {why}")
    if not wrong and not rendered:
        wrong.append("no conversation renders: the template is not tested")
    report.say(name, f"{len(inputs)} ({rendered} rendered)", wrong)


def plan(weir, envs, report):
    """(name, check) of all there is to run."""
    frozen, open_env = envs
    values = ["{{ " + v + " }}" for v in jinja_cases.values()]
    yield "chat/expressions", lambda n: check_small(weir, frozen, n, values, report)
    whole = jinja_templates.TEMPLATES
    yield "chat/statements", lambda n: check_small(weir, frozen, n, whole, report)
    yield "chat/changes", lambda n: check_small(weir, open_env, n, jinja_cases.MUTATIONS, report)
    yield "chat/refused_by_design", lambda n: check_different(weir, report)
    folders = [("chat/styles", HERE / "templates")]
    real = os.environ.get("WEIR_TEMPLATE_DIR")
    if real:
        folders.append(("chat/real", pathlib.Path(real)))
    for prefix, folder in folders:
        for path in sorted(folder.glob("*.jinja")):
            yield (f"{prefix}/{path.stem}",
                   lambda n, p=path: check_file(weir, frozen, n, p, report))


def run(weir, envs):
    """Everything once; False if anything is not ok."""
    report = Report()
    if not os.environ.get("WEIR_TEMPLATE_DIR"):
        print("skip chat/real - WEIR_TEMPLATE_DIR names no folder of real templates")
    for name, check in plan(weir, envs, report):
        if len(sys.argv) > 1 and not any(name.startswith(a) for a in sys.argv[1:]):
            continue
        try:
            check(name)
        except (RuntimeError, OSError, subprocess.SubprocessError, ValueError) as error:
            report.failed = True
            print(f"not ok {name} - {error}")
    return not report.failed


def main():
    os.environ["TZ"] = "UTC"
    time.tzset()
    try:
        envs = reference_environments()
    except ImportError:
        print("skip chat - jinja2 is not installed")
        return 77
    with tempfile.TemporaryDirectory() as folder:
        weir = Weir(folder)
        if not os.path.exists(weir.binary):
            print("skip chat - there is no weir binary")
            return 77
        day = datetime.date.today()
        passed = run(weir, envs)
        if not passed and datetime.date.today() != day:
            print("a new day began between the two renderings of a date: again")
            passed = run(weir, envs)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
