#!/usr/bin/env python3
"""test_ray.py -- workers on a real Ray cluster: a head and a second node on this machine, in a
network namespace with nothing but a loopback (elsewhere Ray listens on every address).

Nothing here is a mock: Ray is the release from PyPI, the agent runs as a Ray job as an operator
would start it, workers are native processes.
"""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

from controllers import Controller
from hosts import Cluster
from loads import Load
from weirtest import BIN, ROOT, Skip, alive, case, generate, main, scratch, tiny_model, until

AGENT = os.path.join(ROOT, "server", "deploy", "ray", "weir_ray_agent.py")
BIN_DIR = os.path.dirname(sys.executable)
TOKEN = "a-token-for-the-tests"
GCS, DASHBOARD, PORT = 6390, 8265, 8790
LIMIT_S = 90
running = {}


def in_namespace():
    """This process again, with a loopback and processes of its own: nothing outlives it, and a Ray
    that the machine runs anyway is not touched."""
    if os.environ.get("WEIR_TEST_NETNS"):
        return
    if not os.path.exists(os.path.join(BIN_DIR, "ray")):
        print("skip ray - no ray beside this Python")
        sys.exit(0)
    how = ["unshare", "-npf", "--mount-proc", "--kill-child"]
    if os.geteuid() != 0:
        how.insert(1, "-r")
    if subprocess.run([*how, "true"], stderr=subprocess.DEVNULL, check=False).returncode:
        print("skip ray - no network namespaces for this user")
        sys.exit(0)
    script = 'ip link set lo up && "$@"'  # no exec: the shell reaps what Ray leaves behind
    os.execvpe("unshare", [*how, "sh", "-c", script, "sh", sys.executable, *sys.argv],
               {**os.environ, "WEIR_TEST_NETNS": "1"})


def call(method, path, body=None, port=PORT, token=TOKEN):
    data = json.dumps(body).encode() if body is not None else None
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read() or b"null") if port == PORT else None


def ray(*words):
    done = subprocess.run([os.path.join(BIN_DIR, "ray"), *words], capture_output=True, text=True,
                          env=ray_environment(), check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def ray_environment():
    return {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "PATH": f"{BIN_DIR}:{os.environ['PATH']}"}


def submit(name):
    entry = f"exec {sys.executable} {AGENT} --port {PORT}"
    status, _ = call("POST", "/api/jobs/", {
        "entrypoint": entry, "submission_id": name,
        "runtime_env": {"env_vars": {"WEIR_AGENT_TOKEN": TOKEN}}}, DASHBOARD, None)
    assert status == 200, status

    def answers():
        try:
            return call("GET", "/health", token=None)[0] == 200
        except OSError:
            return False
    until(answers, "the agent answers", LIMIT_S)


def start_ray():
    if not running:
        common = ["--disable-usage-stats", "--object-store-memory=100000000"]
        ray("start", "--head", "--node-ip-address=127.0.0.1", f"--port={GCS}", "--num-cpus=2",
            "--num-gpus=2", "--dashboard-host=127.0.0.1", f"--dashboard-port={DASHBOARD}",
            f"--temp-dir={scratch('r')}", *common)
        ray("start", f"--address=127.0.0.1:{GCS}", "--node-ip-address=127.0.0.2", "--num-cpus=2",
            "--num-gpus=1", "--labels", "pool=decode", "--dashboard-agent-listen-port=52366",
            *common)
        submit("weir-agent-1")
        running["ray"] = True


def agents():
    """Processes of the agent."""
    found = subprocess.run(["pgrep", "-f", f"python3* {AGENT} --"], capture_output=True, text=True,
                           check=False).stdout.split()
    return [int(pid) for pid in found]


def worker(name):
    return next((w for w in call("GET", "/v1/workers")[1]["workers"] if w["id"] == name), None)


def wait_state(name, state):
    until(lambda: (worker(name) or {}).get("state") == state, f"{name} is {state}", LIMIT_S)
    return worker(name)


def shell(script):
    return ["/bin/sh", "-c", script]


def tells(path):
    """A worker that writes down its environment."""
    return shell(f"env > {path}.part; mv {path}.part {path}; exec sleep 600")


def told(path):
    until(lambda: os.path.exists(path), "it has told", LIMIT_S)
    with open(path, encoding="utf-8") as f:
        return f.read()


@case
def workers_get_shares_of_a_gpu_and_nothing_of_rays_secrets():
    start_ray()
    path = scratch("told")
    for i in range(2):
        spec = {"argv": tells(f"{path}{i}"), "num_gpus": 0.5, "env": {"POOL": "prefill"}}
        assert call("PUT", f"/v1/workers/half{i}", spec)[0] == 201
        assert call("PUT", f"/v1/workers/half{i}", spec)[0] == 200  # the same wish again
    spec["num_gpus"] = 1
    assert call("PUT", "/v1/workers/half1", spec)[0] == 409
    for i in range(2):
        assert wait_state(f"half{i}", "running")["gpus"] in ("0", "1")
        environment = told(f"{path}{i}")
        assert "POOL=prefill" in environment and "CUDA_VISIBLE_DEVICES=" in environment
        assert "RAY_" not in environment and TOKEN not in environment
    assert call("PUT", "/v1/workers/none", {"argv": tells(f"{path}2")})[0] == 201
    wait_state("none", "running")
    assert "CUDA_VISIBLE_DEVICES=\n" in told(f"{path}2")
    for name in ("half0", "half1", "none"):
        pid = worker(name)["pid"]
        assert call("DELETE", f"/v1/workers/{name}")[0] == 200
        assert wait_state(name, "exited")["exit"] == -signal.SIGTERM
        assert not alive(pid)
        assert call("DELETE", f"/v1/workers/{name}")[0] == 200 and worker(name) is None


@case
def what_is_not_allowed_is_refused_by_name():
    start_ray()
    assert call("GET", "/v1/workers", token=None)[0] == 401
    assert call("GET", "/v1/workers", token="a-token-for-the-tests2")[0] == 401
    for body, field in (({}, "argv"), ({"argv": "sleep"}, "argv"), ({"argv": [1]}, "argv"),
                        ({"argv": ["a"], "gpus": 1}, "gpus"), ([1], "object"),
                        ({"argv": ["a"], "num_gpus": "1"}, "num_gpus"),
                        ({"argv": ["a"], "num_cpus": -1}, "num_cpus"),
                        ({"argv": ["a"], "env": {"A": 1}}, "env")):
        status, answer = call("PUT", "/v1/workers/x", body)
        assert status == 400 and field in answer["error"], (body, answer)
    assert call("DELETE", "/v1/workers/nobody")[0] == 404
    # Two controllers: the older one's wishes count no more.
    assert call("PUT", "/v1/workers/f", {"argv": ["sleep", "600"], "fence": 7})[0] == 201
    status, answer = call("DELETE", "/v1/workers/f?fence=6")
    assert status == 409 and "fence" in answer["error"], answer
    assert call("PUT", "/v1/workers/g", {"argv": ["sleep", "600"], "fence": 6})[0] == 409
    assert call("DELETE", "/v1/workers/f?fence=8")[0] == 200
    wait_state("f", "exited" if (worker("f") or {}).get("pid") else "cancelled")
    assert call("GET", "/v1/workers")[1]["fence"] == 8


@case
def a_worker_cancelled_while_it_waits_never_starts():
    start_ray()
    mark = scratch("started")
    argv = shell(f"touch {mark}; exec sleep 600")
    assert call("PUT", "/v1/workers/full", {"argv": ["sleep", "600"], "num_gpus": 2})[0] == 201
    wait_state("full", "running")
    assert call("PUT", "/v1/workers/waits", {"argv": argv, "num_gpus": 2})[0] == 201
    assert call("PUT", "/v1/workers/never", {"argv": argv, "num_gpus": 64})[0] == 201
    time.sleep(1)
    assert worker("waits")["state"] == worker("never")["state"] == "pending"
    for name in ("waits", "never"):
        assert call("DELETE", f"/v1/workers/{name}")[0] == 200
        wait_state(name, "cancelled")
    assert call("DELETE", "/v1/workers/full?grace_s=5")[0] == 200
    wait_state("full", "exited")
    until(lambda: call("GET", "/v1/cluster")[1]["free"].get("GPU") == 3, "the GPUs are free",
          LIMIT_S)
    assert not os.path.exists(mark)


@case
def a_worker_that_does_not_drain_is_killed_when_its_time_is_over():
    start_ray()
    script = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    assert call("PUT", "/v1/workers/deaf", {"argv": [sys.executable, "-c", script]})[0] == 201
    pid = wait_state("deaf", "running")["pid"]
    time.sleep(1)  # until it is deaf
    call("DELETE", "/v1/workers/deaf?grace_s=1")
    assert wait_state("deaf", "exited")["exit"] == -signal.SIGKILL
    assert not alive(pid)


@case
def workers_outlive_their_agent_and_the_next_one_knows_them():
    start_ray()
    assert call("PUT", "/v1/workers/stays", {"argv": ["sleep", "600"], "num_gpus": 0.5})[0] == 201
    pid = wait_state("stays", "running")["pid"]
    gone = agents()
    for agent in gone:
        os.kill(agent, signal.SIGKILL)
    until(lambda: not any(alive(a) for a in gone), "the agent is gone", LIMIT_S)
    submit("weir-agent-2")
    assert wait_state("stays", "running")["pid"] == pid and alive(pid)
    call("DELETE", "/v1/workers/stays")
    wait_state("stays", "exited")
    assert not alive(pid)


@case
def two_pools_of_weir_workers_serve():
    start_ray()
    with Cluster() as cluster:
        gateway = cluster.gateway(wait=False)
        for role, labels in (("prefill", {}), ("decode", {"pool": "decode"})):
            argv = [BIN, "worker", "--role", role, "--join", cluster.address, "--threads", "1",
                    "--model", tiny_model(), "--kv-memory", "4m"]
            spec = {"argv": argv, "num_cpus": 1, "num_gpus": 0.5, "labels": labels,
                    "env": {"WEIR_CLUSTER_KEY": os.environ["WEIR_CLUSTER_KEY"]}}
            assert call("PUT", f"/v1/workers/{role}", spec)[0] == 201
        wait_state("prefill", "running")
        assert wait_state("decode", "running")["node_ip"] == "127.0.0.2"
        gateway.wait_ready()
        cluster.wait_joined(gateway, 2)
        result = generate(gateway, "/v1/completions",
                          {"prompt": "the water " * 20, "max_tokens": 8})
        assert result.finish == ["length"] or result.finish == ["stop"], result.finish
        for role in ("prefill", "decode"):
            call("DELETE", f"/v1/workers/{role}?grace_s=20")
            assert wait_state(role, "exited")["exit"] == 0  # it drained


class Driver:
    """The controller's driver, told what to do."""

    def __init__(self, *args):
        tool = os.path.join(os.path.dirname(BIN), "weir_driver")
        self.process = subprocess.Popen(
            [tool, "ray", f"http://127.0.0.1:{PORT}", TOKEN, f"http://127.0.0.1:{DASHBOARD}", AGENT,
             *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=ray_environment())

    def say(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def start(self, pool):
        answers = []

        def asked():  # nothing can be started before the cluster has said what is there
            answers.append(self.say(f"start {pool}"))
            return answers[-1].startswith("ok")
        until(asked, f"a {pool} worker is asked for", LIMIT_S)
        return int(answers[-1].split()[1])

    def wait(self, *lines):
        """Until the list is exactly these workers."""
        def same():
            return self.say("list").split("capacity")[0].strip("; ") == "; ".join(lines)
        until(same, f"the driver lists {lines}", LIMIT_S)

    def close(self):
        self.process.stdin.close()
        assert self.process.wait(LIMIT_S) == 0


@case
def the_driver_starts_pools_and_takes_up_what_an_earlier_one_left():
    start_ray()
    for agent in agents():  # the driver starts its own
        os.kill(agent, signal.SIGKILL)
    with Cluster() as cluster:
        gateway = cluster.gateway(wait=False)
        words = [BIN, "0.5", "pool=decode", "--join", cluster.address, "--threads", "1", "--model",
                 tiny_model(), "--kv-memory", "4m"]
        first = Driver(*words)
        assert [first.start("prefill"), first.start("decode")] == [0, 1]
        first.wait("0 prefill serving", "1 decode serving")
        gateway.wait_ready()
        body = {"prompt": "the water " * 20, "max_tokens": 8, "temperature": 0}
        want = generate(gateway, "/v1/completions", body)
        first.close()
        # Another takes over: the workers have not noticed.
        second = Driver(*words)
        assert second.say("token 5") == "ok"
        second.wait("0 prefill serving", "1 decode serving")
        assert second.start("decode") == 2
        second.wait("0 prefill serving", "1 decode serving", "2 decode serving")
        # One that something killed comes back under its number.
        pid = next(w["pid"] for w in call("GET", "/v1/workers")[1]["workers"]
                   if w["id"].startswith("decode-1-") and w["state"] == "running")
        os.kill(pid, signal.SIGKILL)
        until(lambda: not alive(pid), "it is dead", LIMIT_S)
        def returned():
            return any(w["id"].startswith("decode-1-") and w["state"] == "running"
                       and w["pid"] != pid for w in call("GET", "/v1/workers")[1]["workers"])
        until(returned, "it is back", LIMIT_S)
        # An old token is refused here, and by the agent.
        assert second.say("token 4") == "ok" and "stale" in second.say("start decode")
        assert second.say("token 5") == "ok"
        assert call("PUT", "/v1/workers/x", {"argv": ["sleep", "600"], "fence": 4})[0] == 409
        assert generate(gateway, "/v1/completions", body).key() == want.key()
        for i in range(3):
            assert second.say(f"stop {i} 20") == "ok"
        second.wait("")
        second.close()
    left = [w for w in call("GET", "/v1/workers")[1]["workers"] if w["state"] == "running"]
    assert not left, left


@case
def a_controller_scales_on_ray_and_the_next_one_takes_over():
    start_ray()
    for agent in agents():  # the controller starts its own, which knows no older tokens
        os.kill(agent, signal.SIGKILL)
    token = scratch("agent-token")
    with open(token, "w", encoding="ascii") as f:
        f.write(TOKEN + "\n")
    flags = ("--driver", "ray", "--ray-agent", f"http://127.0.0.1:{PORT}", "--ray-token-file", token,
             "--ray-jobs", f"http://127.0.0.1:{DASHBOARD}", "--ray-script", AGENT, "--ray-program",
             BIN, "--worker-cpus", "0.1", "--worker-gpus", "0.5", "--decode-labels", "pool=decode",
             "--scale-hold-s", "5")
    words = ("--threads", "1", "--model", tiny_model(), "--kv-memory", "4m")
    hub = Controller(*flags, words=words, env=ray_environment())
    until(lambda: sorted(hub.serving().values()) == ["decode", "prefill"], "both pools", LIMIT_S,
          lambda: (call("GET", "/v1/workers"), call("GET", "/v1/cluster")))
    cluster = Cluster.__new__(Cluster)
    cluster.address, cluster.gateways = hub.address, []
    gateway = cluster.gateway()
    with Load(gateway, 2, 5, 4):
        hub.ordered("scale", role="prefill", min=2, max=4)
        until(lambda: hub.pool("prefill")["serving"] == 2, "prefill has two", LIMIT_S)
        hub.crash()
        hub = Controller(*flags, listen=hub.address, words=words, env=ray_environment())
        until(lambda: len(hub.serving()) == 3, "the next one finds them")
        hub.ordered("scale", role="prefill", min=1, max=4)
        worker = next(w for w, role in hub.serving().items() if role == "prefill")
        hub.ordered("flip", worker=worker, role="decode")
        until(lambda: hub.serving().get(worker) == "decode", "its role has changed")
        hub.ordered("scale", role="decode", min=2, max=4)
        # What something killed comes back with the role that it had last.
        pid = next(w["pid"] for w in call("GET", "/v1/workers")[1]["workers"]
                   if w["id"].startswith(f"prefill-{worker}-") and w["state"] == "running")
        os.kill(pid, signal.SIGKILL)
        until(lambda: any(w["id"].startswith(f"decode-{worker}-") and w["state"] == "running"
                          for w in call("GET", "/v1/workers")[1]["workers"]), "it is back", LIMIT_S)
        until(lambda: hub.serving().get(worker) == "decode", "and decodes", LIMIT_S)
    gateway.stop()
    hub.all_done()
    left = [w for w in call("GET", "/v1/workers")[1]["workers"] if w["state"] == "running"]
    assert not left, left


@case
def a_node_that_dies_takes_its_workers_along_and_is_told_of():
    start_ray()
    wish = {"argv": ["sleep", "600"], "labels": {"pool": "decode"}}
    assert call("PUT", "/v1/workers/far", wish)[0] == 201
    far = wait_state("far", "running")
    raylets = subprocess.run(["pgrep", "-f", "raylet.*--node_ip_address=127.0.0.2"],
                             capture_output=True, text=True, check=True).stdout.split()
    for raylet in raylets:
        os.kill(int(raylet), signal.SIGKILL)
    until(lambda: not alive(far["pid"]), "the worker is gone", LIMIT_S)
    assert "why" in wait_state("far", "lost")
    # Ray knows of the death only some 14 s later and may lose a replacement to it: who wants a
    # worker asks again. None comes to that node.
    wish = {"argv": ["sleep", "600"], "avoid_nodes": [far["node"]]}
    def runs():
        state = (worker("near") or {}).get("state")
        if state in (None, "lost"):
            assert call("PUT", "/v1/workers/near", wish)[0] == 201
        return state == "running"
    until(runs, "its replacement runs", LIMIT_S)
    assert worker("near")["node"] != far["node"]
    call("DELETE", "/v1/workers/near")
    wait_state("near", "exited")


if __name__ == "__main__":
    in_namespace()
    os.environ["WEIR_CLUSTER_KEY"] = "a key for the tests of clusters"
    main()
