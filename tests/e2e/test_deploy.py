#!/usr/bin/env python3
"""test_deploy.py -- what server/deploy gives to operators, as they would use it: the commands of the
systemd units with the configuration beside them, and the container file.
"""

import os
import re
import shutil
import subprocess
import sys

from weirtest import (BIN, ROOT, Server, Skip, case, main, scratch, tiny_model)
from hosts import Node

DEPLOY = os.path.join(ROOT, "server", "deploy")
UNITS = os.path.join(DEPLOY, "systemd")
CLUSTER_KEY = "a key for the tests of units"
API_KEY = "client-key-1234"


def etc(**replaced):
    """A copy of the configuration as /etc/weir, with keys; words of it replaced."""
    folder = scratch("etc")
    os.makedirs(folder, exist_ok=True)
    for name in os.listdir(UNITS):
        if name.endswith(".conf"):
            with open(os.path.join(UNITS, name), encoding="ascii") as f:
                text = f.read()
            for old, new in {"/var/lib/weir/model.gguf": tiny_model(), "0.0.0.0": "127.0.0.1",
                             "port = 8000": "port = 0", "= 8g": "= 4m", **replaced}.items():
                text = text.replace(old, new)
            with open(os.path.join(folder, name), "w", encoding="ascii") as f:
                f.write(text)
    for name, text in (("cluster.key", CLUSTER_KEY), ("api.keys", API_KEY)):
        path = os.path.join(folder, name)
        with open(path, "w", encoding="ascii") as f:
            f.write(text + "\n")
        os.chmod(path, 0o600)
    return folder


def arguments(unit, folder, instance=""):
    """What a unit's ExecStart runs, after the binary."""
    with open(os.path.join(UNITS, unit), encoding="ascii") as f:
        line = re.search(r"^ExecStart=/usr/local/bin/weir (.*)$", f.read(), re.MULTILINE).group(1)
    for old, new in {"%i": instance, "%d": folder, "/etc/weir": folder}.items():
        line = line.replace(old, new)
    return line.split()


class Unit(Node):
    """A unit without HTTP."""

    def __init__(self, unit, folder, instance=""):
        command, *flags = arguments(unit, folder, instance)
        super().__init__(command, *flags, "--model", tiny_model()) if command == "worker" else \
            super().__init__(command, *flags)


def server(unit, folder):
    command, *flags = arguments(unit, folder)
    return Server(*flags, command=command)


def answers(gateway):
    headers = {"Authorization": f"Bearer {API_KEY}"}
    body = {"prompt": "the water", "max_tokens": 4}
    assert gateway.post("/v1/completions", body).status == 401
    answer = gateway.post("/v1/completions", body, headers)
    assert answer.status == 200, answer.body
    assert answer.json()["usage"]["completion_tokens"] > 0


@case
def the_unit_of_one_host_serves():
    with server("weir.service", etc()) as all_in_one:
        answers(all_in_one)


@case
def the_units_of_a_cluster_serve():
    folder = etc(**{":7000": ":0"})
    hub = Unit("weir-controller.service", folder)
    hub.wait_log("hub is at")
    address = re.search(r"hub is at (\S+)", hub.log()).group(1)
    folder = etc(**{"controller.example:7000": address})
    workers = [Unit("weir-worker@.service", folder, name) for name in ("prefill", "decode")]
    with server("weir-gateway.service", folder) as gateway:
        answers(gateway)
    for worker in workers:
        worker.end()
    hub.end()


@case
def the_units_are_well_formed():
    if not shutil.which("systemd-analyze"):
        raise Skip("no systemd-analyze")
    folder = scratch("units")
    os.makedirs(folder, exist_ok=True)
    paths = []
    for name in sorted(os.listdir(UNITS)):
        if name.endswith(".service"):
            with open(os.path.join(UNITS, name), encoding="ascii") as f:
                text = f.read().replace("/usr/local/bin/weir", BIN)
            paths.append(os.path.join(folder, name))
            with open(paths[-1], "w", encoding="ascii") as f:
                f.write(text)
    assert len(paths) == 4, paths
    done = subprocess.run(["systemd-analyze", "verify", *paths], capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr


@case
def the_container_file_names_what_exists():
    """No engine builds images here: what the file copies, runs and calls is checked by itself."""
    with open(os.path.join(DEPLOY, "container", "Containerfile"), encoding="ascii") as f:
        text = f.read()
    commands = re.findall(r'^CMD \["(\w+)"(.*)\]$', text, re.MULTILINE)
    assert len(commands) == 2, commands
    for command, flags in commands:
        help_text = subprocess.run([BIN, command, "--help"], capture_output=True, text=True,
                                   check=True).stdout
        for flag in re.findall(r'"(--[a-z-]+)"', flags):
            assert f"  {flag} " in help_text, (command, flag)
    with open(os.path.join(ROOT, "weir"), encoding="utf-8") as f:
        launcher = f.read()
    model = re.search(r"WEIR_DEFAULT_MODEL=/models/(\S+)", text).group(1)
    assert f"model_file='{model}'" in launcher
    assert "/root/.cache/weir/*.gguf" in text and "${HOME:-$deps}/.cache}/weir" in launcher
    targets = set(re.findall(r"--target ([\w ]+?) \\", text)[0].split())
    with open(os.path.join(ROOT, "kernels", "cuda", "cuda.cmake"), encoding="ascii") as f:
        cmake = f.read()
    assert targets == {"weir", "weir_cuda"} and "weir_cuda" in cmake
    with open(os.path.join(ROOT, ".dockerignore"), encoding="ascii") as f:
        assert {".git", "build", ".deps"} <= set(f.read().split())


@case
def the_container_file_passes_a_linter():
    beside = os.path.dirname(sys.executable)  # where pip puts it
    linter = shutil.which("hadolint", path=f"{beside}:{os.environ['PATH']}")
    if not linter:
        raise Skip("no hadolint")
    done = subprocess.run([linter, os.path.join(DEPLOY, "container", "Containerfile")],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


if __name__ == "__main__":
    main()
