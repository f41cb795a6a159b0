#!/usr/bin/env python3
"""launcher.py -- ./weir on machines made of stubs: what is missing, no rights, a second start."""

import os
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
TOOLS = ("sh dirname readlink cat cksum sed head tail tr sort grep find stat cmp cut mkdir mv rm "
         "cp chmod touch sha256sum env flock printf").split()
SOURCES = ("engine", "kernels", "kvtransfer", "models", "server", "bench")
MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
FAILED = []


def expect(name, condition, detail):
    if not condition:
        FAILED.append(name)
        print(f"{name}: {detail}")


class Machine:
    """A root with the launcher, a PATH of nothing but TOOLS and `stubs`, and an empty cache."""

    def __init__(self, stubs=()):
        self.folder = tempfile.TemporaryDirectory()
        self.root = os.path.join(self.folder.name, "weir")
        self.cache = os.path.join(self.folder.name, "cache")
        self.bin = os.path.join(self.folder.name, "bin")
        for folder in (self.cache, self.bin, *(os.path.join(self.root, s) for s in SOURCES),
                       os.path.join(self.root, "tests")):
            os.makedirs(folder)
        for name in ("weir", "CMakeLists.txt", "CMakePresets.json", "tests/requirements.txt"):
            shutil.copy(os.path.join(ROOT, name), os.path.join(self.root, name))
        for tool in TOOLS:
            path = shutil.which(tool)
            if path:
                os.symlink(path, os.path.join(self.bin, tool))
        self.stub("id", "echo 1000")
        for name, body in dict(stubs).items():
            self.stub(name, body)

    def stub(self, name, body):
        self.write(os.path.join(self.bin, name), f"#!/bin/sh\n{body}\n", 0o755)

    def write(self, path, text, mode=0o644):
        path = os.path.join(self.root, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        os.chmod(path, mode)

    def run(self, *arguments):
        env = {"PATH": self.bin, "HOME": self.folder.name, "XDG_CACHE_HOME": self.cache}
        done = subprocess.run([os.path.join(self.root, "weir"), *arguments], env=env, check=False,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return done.returncode, done.stdout


# What a machine with every package answers.
EVERYTHING = {
    "cc": "exit 0",
    "cmake": 'echo "cmake version 3.25.1"',
    "ninja": "exit 0",
    "pkg-config": "exit 0",
    "python3": "exit 0",
}


def without_rights():
    machine = Machine()
    status, output = machine.run("serve")
    expect("without_rights", status == 1, f"exit {status}")
    for part in ("setting up:", "sudo apt-get update", "--no-install-recommends build-essential",
                 "libmicrohttpd-dev", "libcjson-dev", "libpcre2-dev", "the default model"):
        expect("without_rights", part in output, f"{part!r} is not in:\n{output}")
    expect("without_rights", not os.listdir(machine.cache), "something was put into the cache")


def names_only_what_is_missing():
    machine = Machine({**EVERYTHING, "cmake": 'echo "cmake version 3.24.3"'})
    status, output = machine.run("--version")
    line = next((x for x in output.splitlines() if "--no-install-recommends" in x), "")
    expect("names_only_what_is_missing", status == 1 and line.endswith("recommends cmake"),
           f"exit {status}:\n{output}")


def built(machine):
    """Leaves `machine` as a first start would, with a binary that tells how it was called."""
    machine.write("build/release/weir", '#!/bin/sh\necho "$@" model=${WEIR_DEFAULT_MODEL:-none}\n',
                  0o755)
    machine.write("build/release/.built", "")
    machine.write(".deps/llhttp/usr/share/llhttp/llhttp.c", "")
    stamp = subprocess.run(["cksum"], stdin=open(os.path.join(machine.root, "weir"), "rb"),
                           stdout=subprocess.PIPE, check=True, text=True).stdout
    for goal in ("build", "serve"):
        machine.write(f".deps/ready.{goal}", stamp)


def a_second_start_only_hands_over():
    machine = Machine()
    built(machine)
    status, output = machine.run("tokenize", "--model", "a b")
    expect("second_start", (status, output) == (0, "tokenize --model a b model=none\n"),
           f"exit {status}:\n{output}")


def a_changed_source_is_built():
    machine = Machine(EVERYTHING)
    built(machine)
    machine.write("engine/new.c", "")
    machine.stub("cmake", 'echo "$@" >>"$HOME/calls"; echo "cmake version 3.25.1"')
    status, output = machine.run("x")
    calls = os.path.join(machine.folder.name, "calls")
    expect("changed_source", status == 0 and os.path.exists(calls), f"exit {status}:\n{output}")
    os.remove(calls)
    status, output = machine.run("x")
    expect("changed_source", status == 0 and not os.path.exists(calls), "built twice")


def a_failed_build_is_told():
    machine = Machine(EVERYTHING)
    built(machine)
    os.remove(os.path.join(machine.root, "build/release/.built"))
    machine.stub("cmake", 'case $1 in --version) echo "cmake version 3.25.1";; '
                          '*) echo "x.c:1: no such luck"; exit 1;; esac')
    status, output = machine.run("x")
    expect("failed_build", status == 1 and "no such luck" in output and "build failed" in output,
           f"exit {status}:\n{output}")


def a_damaged_model_is_refused():
    machine = Machine(EVERYTHING)
    built(machine)
    machine.write(".deps/venv/bin/pip", "#!/bin/sh\nexit 0\n", 0o755)
    machine.write(os.path.join(machine.cache, "weir", MODEL), "not a model")
    status, output = machine.run("serve")
    expect("damaged_model", status == 1 and "is damaged (SHA-256" in output,
           f"exit {status}:\n{output}")


def a_model_of_ones_own_needs_no_default():
    machine = Machine()
    built(machine)
    machine.write("conf", "port = 1\n model = x.gguf\n")
    conf = os.path.join(machine.root, "conf")
    for arguments in (["--model", "x"], ["--model=x"], ["--config", conf], [f"--config={conf}"]):
        status, output = machine.run("serve", *arguments)
        expect("own_model", status == 0 and output.startswith("serve "), f"{arguments}: {output}")
    machine.write("conf", "port = 1\n# model = x\n")
    status, output = machine.run("serve", "--config", conf)
    expect("own_model", status == 1 and "the default model" in output, f"exit {status}:\n{output}")


def main():
    without_rights()
    names_only_what_is_missing()
    a_second_start_only_hands_over()
    a_changed_source_is_built()
    a_failed_build_is_told()
    a_damaged_model_is_refused()
    a_model_of_ones_own_needs_no_default()
    if shutil.which("shellcheck"):
        done = subprocess.run(["shellcheck", os.path.join(ROOT, "weir")], check=False,
                              stdout=subprocess.PIPE, text=True)
        expect("shellcheck", done.returncode == 0, done.stdout)
    sys.exit(1 if FAILED else 0)


main()
