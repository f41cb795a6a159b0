#!/usr/bin/env python3
"""test_deploy.py -- what server/deploy gives to operators, as they would use it: the commands of
the systemd units with the configuration beside them, the pods of the Kubernetes manifests, and the
container file.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.request

from weirtest import (BIN, ROOT, Server, Skip, case, main, scratch, tiny_model, until)
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


def beside(tool):
    """A tool that pip put beside this Python, or the system's."""
    found = shutil.which(tool, path=f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}")
    if not found:
        raise Skip(f"no {tool}")
    return found


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
    folder = etc(**{":7000": ":0", ":7080": ":0"})
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
    done = subprocess.run([beside("hadolint"), os.path.join(DEPLOY, "container", "Containerfile")],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def manifests(kustomization):
    """The objects that kustomize makes of a folder."""
    done = subprocess.run([beside("kubectl"), "kustomize", os.path.join(DEPLOY, "kubernetes",
                                                                       kustomization)],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def objects(kustomization):
    yaml = need_yaml()
    return [o for o in yaml.safe_load_all(manifests(kustomization)) if o]


def need_yaml():
    try:
        import yaml
    except ImportError:
        raise Skip("no PyYAML") from None
    return yaml


@case
def the_manifests_are_what_the_api_takes():
    validate = beside("kubernetes-validate")
    for name in ("base", "gpu"):
        path = scratch(f"{name}.yaml")
        with open(path, "w", encoding="utf-8") as f:
            f.write(manifests(name))
        for version in ("1.31", "1.37"):
            done = subprocess.run([validate, "-k", version, "--strict", path], capture_output=True,
                                  text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
    kinds = [o["kind"] for o in objects("monitoring")]  # its CRD is not among the schemas
    assert sorted(set(kinds)) == ["Deployment", "NetworkPolicy", "PodDisruptionBudget", "Service",
                                  "ServiceMonitor"], kinds


@case
def what_selects_pods_selects_some():
    for name in ("base", "gpu", "monitoring"):
        all_objects = objects(name)
        pods = {o["metadata"]["name"]: o["spec"]["template"] for o in all_objects
                if o["kind"] == "Deployment"}
        assert set(pods) == {"weir-controller", "weir-gateway", "weir-prefill", "weir-decode"}
        for o in all_objects:
            if o["kind"] not in ("Deployment", "Service", "PodDisruptionBudget"):
                continue
            wanted = o["spec"]["selector"]
            wanted = wanted.get("matchLabels", wanted)
            found = [n for n, pod in pods.items()
                     if wanted.items() <= pod["metadata"]["labels"].items()]
            assert len(found) == 1, (o["metadata"]["name"], found)
            ports = {p["name"] for p in pods[found[0]]["spec"]["containers"][0]["ports"]}
            for port in o["spec"].get("ports", ()):
                assert port["targetPort"] in ports, o["metadata"]["name"]
        if name == "gpu":
            limits = {n: p["spec"]["containers"][0]["resources"]["limits"] for n, p in pods.items()}
            assert [n for n, x in limits.items() if "nvidia.com/gpu" in x] == \
                ["weir-decode", "weir-prefill"]


class Pod(Node):
    """A pod's container as a process; its probes are made as the kubelet would."""

    def __init__(self, template, folder, ports):
        self.spec = template["spec"]["containers"][0]
        self.ports = ports
        words = []
        for word in self.spec["args"]:
            for old, new in {"/keys": folder, "$(POD_IP)": "127.0.0.1", "0.0.0.0": "127.0.0.1",
                             "weir-controller:7000": f"127.0.0.1:{ports['hub']}",
                             ":7000": f":{ports['hub']}", ":7100": f":{ports['peers']}"}.items():
                word = word.replace(old, new)
            words.append(str(ports["http"]) if word == "8000" else word)
        if words[0] != "controller":
            words += ["--model", tiny_model()]
        super().__init__(*words)

    def probe(self, name):
        probe = self.spec[name]
        if "tcpSocket" in probe:
            port = self.ports[probe["tcpSocket"]["port"]]
            try:
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
                return True
            except OSError:
                return False
        get = probe["httpGet"]
        url = f"http://127.0.0.1:{self.ports[get['port']]}{get['path']}"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@case
def the_pods_of_the_manifests_serve_and_their_probes_pass():
    templates = {o["metadata"]["name"]: o["spec"]["template"] for o in objects("base")
                 if o["kind"] == "Deployment"}
    folder = etc()
    shared = {"hub": free_port(), "http": free_port()}
    pods = [Pod(templates[f"weir-{name}"], folder, {**shared, "peers": free_port()})
            for name in ("controller", "prefill", "decode", "gateway")]
    for pod in pods:
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            if probe in pod.spec:
                until(lambda p=pod, n=probe: p.probe(n), f"{pod.spec['name']}: {probe}")
    body = json.dumps({"prompt": "the water", "max_tokens": 4}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{shared['http']}/v1/completions", body,
        {"Authorization": f"Bearer {API_KEY}", "Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert json.loads(answer.read())["usage"]["completion_tokens"] > 0
    for pod in reversed(pods):
        pod.end()


if __name__ == "__main__":
    main()
