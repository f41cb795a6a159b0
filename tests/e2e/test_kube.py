#!/usr/bin/env python3
"""test_kube.py -- the Kubernetes driver against an API server in miniature (tests/support/kubemock.py),
which real kubectl and the official Python client have to believe first. Pods are processes: workers
that join a real controller. No cluster runs here.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request

from hosts import Node
from loads import Load, slow_profile
from weirtest import (BIN, ROOT, Server, Skip, case, main, scratch, tiny_model, until)

sys.path.insert(0, os.path.join(ROOT, "tests", "support"))
import kubemock  # noqa: E402

DEPLOY = os.path.join(ROOT, "server", "deploy", "kubernetes")
TOKEN, KEY = "a-token-of-a-service-account", "a key for the tests of clusters"
POOLS = ("weir-prefill", "weir-decode")


def beside(tool):
    path = os.path.join(os.path.dirname(sys.executable), tool)
    if not os.path.exists(path):
        raise Skip(f"no {tool} beside this Python")
    return path


def manifests(kustomization):
    import yaml
    done = subprocess.run([beside("kubectl"), "kustomize", os.path.join(DEPLOY, kustomization)],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [o for o in yaml.safe_load_all(done.stdout) if o]


class Kube:
    """The mock with the two pools of server/deploy."""

    def __init__(self, on_start=None, kind="Deployment", replicas=1):
        if kubemock.kubernetes_validate is None:
            raise Skip("no kubernetes-validate")
        if not shutil.which("openssl"):
            raise Skip("no openssl")
        self.folder = scratch("kube")
        os.makedirs(self.folder, exist_ok=True)
        self.token_file = os.path.join(self.folder, "token")
        self.set_token(TOKEN)
        self.mock = kubemock.KubeMock(self.folder, TOKEN, on_start)
        for o in manifests("base"):
            if o["metadata"]["name"] in POOLS and o["kind"] == "Deployment":
                o["kind"], o["spec"]["replicas"] = kind, replicas
                if kind == "StatefulSet":
                    o["spec"]["serviceName"] = o["metadata"]["name"]
                self.mock.add(o)

    def set_token(self, token):
        with open(self.token_file + ".new", "w", encoding="ascii") as f:
            f.write(token + "\n")
        os.rename(self.token_file + ".new", self.token_file)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.mock.close()
        return False


class Driver:
    """The controller's driver, told what to do."""

    def __init__(self, kube, resource="deployments", call_ms=5000):
        tool = os.path.join(os.path.dirname(BIN), "weir_driver")
        self.log_path = scratch("driver.log")
        self.log_file = open(self.log_path, "wb")
        self.process = subprocess.Popen(
            [tool, "kubernetes", kube.mock.url, kube.token_file, kube.mock.ca_file, "weir", *POOLS,
             resource, str(call_ms)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self.log_file, text=True)

    def say(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as f:
            return f.read()

    def workers(self):
        listed = self.say("list").split("capacity")[0].strip("; ")
        return sorted(" ".join(w.split()[1:]) for w in listed.split("; ") if w)

    def wait(self, prefill, decode, phase="serving"):
        want = [f"decode {phase}"] * decode + [f"prefill {phase}"] * prefill
        until(lambda: self.workers() == want, f"it lists {prefill} and {decode}: {phase}")

    def start(self, pool):
        answer = self.say(f"start {pool}")
        assert answer.startswith("ok"), answer
        return int(answer.split()[1])

    def wait_log(self, text):
        until(lambda: text in self.log(), f"the log says {text!r}")

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.process.stdin.close()
        code = self.process.wait(60)
        self.log_file.close()
        if kind is None:
            assert code == 0, self.log()[-4000:]
        assert "Sanitizer" not in self.log() and "runtime error:" not in self.log(), self.log()
        return False


def kubectl(kube, *words):
    done = subprocess.run([beside("kubectl"), "--server", kube.mock.url, "--token", TOKEN,
                           "--certificate-authority", kube.mock.ca_file, "--namespace", "weir",
                           "--cache-dir", kube.folder, "--request-timeout", "30s", *words],
                          capture_output=True, text=True, check=False,
                          env={**os.environ, "KUBECONFIG": "/dev/null"})
    return done.returncode, done.stdout + done.stderr


@case
def kubectl_believes_the_mock():
    with Kube() as kube:
        for words, says in ((("get", "deployments"), "weir-decode"),
                            (("scale", "deployment", "weir-decode", "--replicas", "3"), "scaled"),
                            (("rollout", "status", "deployment/weir-decode", "--timeout=30s"),
                             "successfully rolled out"),
                            (("get", "pods", "-l", "app.kubernetes.io/component=decode", "-o",
                              "name"), "pod/weir-decode"),
                            (("patch", "deployment", "weir-decode", "--subresource=scale", "--type",
                              "merge", "-p", '{"spec":{"replicas":2}}'), "patched"),
                            (("annotate", "deployment", "weir-decode", "a=b"), "annotated")):
            code, text = kubectl(kube, *words)
            assert code == 0 and says in text, (words, text)
        assert kube.mock.replicas("weir-decode") == 2
        for words, says in ((("get", "deployment", "nobody"), "NotFound"),
                            (("patch", "deployment", "weir-decode", "--subresource=scale", "--type",
                              "merge", "-p", '{"metadata":{"resourceVersion":"1"},"spec":'
                              '{"replicas":2}}'), "Conflict"),
                            (("patch", "deployment", "weir-decode", "--subresource=scale", "--type",
                              "merge", "-p", '{"spec":{"replicas":"many"}}'), "Invalid"),
                            (("--token=wrong", "get", "pods"), "Unauthorized")):
            code, text = kubectl(kube, *words)
            assert code != 0 and (says in text or says.lower() in text), (words, text)


@case
def the_official_client_believes_the_mock():
    try:
        from kubernetes import client, watch
    except ImportError:
        raise Skip("no kubernetes client") from None
    with Kube(replicas=3) as kube:
        how = client.Configuration(host=kube.mock.url)
        how.ssl_ca_cert = kube.mock.ca_file
        how.api_key = {"authorization": f"Bearer {TOKEN}"}
        with client.ApiClient(how) as api:
            apps, core = client.AppsV1Api(api), client.CoreV1Api(api)
            scale = apps.read_namespaced_deployment_scale("weir-decode", "weir")
            assert scale.spec.replicas == 3 and "component=decode" in scale.status.selector
            version = scale.metadata.resource_version
            scale.spec.replicas = 4
            until(lambda: len(kube.mock.pods("weir-decode")) == 3, "pods are there")
            scale = apps.read_namespaced_deployment_scale("weir-decode", "weir")
            scale.spec.replicas = 4
            until(lambda: replaced(apps, client), "replaced")
            scale.metadata.resource_version = version
            for change, code in ((scale, 409), ({"spec": {"replicas": -1}}, 422)):
                try:
                    apps.patch_namespaced_deployment_scale("weir-decode", "weir", change)
                    raise AssertionError(f"{change} was taken")
                except client.ApiException as error:
                    assert error.status == code, error
            until(lambda: len(kube.mock.pods("weir-decode")) == 4, "and one more")
            selector = "app.kubernetes.io/component=decode"
            page = core.list_namespaced_pod("weir", label_selector=selector, limit=3)
            assert len(page.items) == 3
            rest = core.list_namespaced_pod("weir", label_selector=selector, limit=3,
                                            _continue=page.metadata._continue)
            assert len(rest.items) == 1
            kube.mock.scale_by_hand("weir-decode", 5)
            for event in watch.Watch().stream(core.list_namespaced_pod, "weir",
                                              resource_version=rest.metadata.resource_version,
                                              timeout_seconds=30):
                if event["type"] == "ADDED":
                    break
            else:
                raise AssertionError("the watch told of no new pod")


def replaced(apps, client):
    """A PUT against the version that was read; status may have moved on meanwhile."""
    scale = apps.read_namespaced_deployment_scale("weir-decode", "weir")
    scale.spec.replicas = 4
    try:
        return apps.replace_namespaced_deployment_scale("weir-decode", "weir",
                                                        scale).spec.replicas == 4
    except client.ApiException as error:
        assert error.status == 409, error
        return False


@case
def pools_grow_and_who_should_go_goes():
    with Kube() as kube, Driver(kube) as driver:
        driver.wait(1, 1)  # what is there is taken up
        first = {p["metadata"]["name"] for p in kube.mock.pods("weir-decode")}
        ids = [driver.start("decode") for _ in range(3)]
        driver.wait(1, 4)
        assert kube.mock.replicas("weir-decode") == 4 and kube.mock.replicas("weir-prefill") == 1
        # The first one goes, which Kubernetes by itself would choose last of all.
        listed = driver.say("list")
        oldest = next(int(w.split()[0]) for w in listed.split("; ")
                      if "decode" in w and int(w.split()[0]) not in ids)
        assert driver.say(f"stop {oldest} 30") == "ok"
        driver.wait(1, 3)
        left = {p["metadata"]["name"] for p in kube.mock.pods("weir-decode")}
        assert len(left) == 3 and not first & left, (first, left)
        for i in ids:
            assert driver.say(f"stop {i} 30") == "ok"
        driver.wait(1, 0)
        assert kube.mock.replicas("weir-decode") == 0
        assert "there is no worker" in driver.say("stop 40 1")


FAULTS = (
    ({"status": 401}, "the token is not accepted"),
    ({"status": 403}, "may not do that"),
    ({"status": 404}, "there is no such object"),
    ({"status": 410}, "too old to go on from"),
    ({"status": 422}, "the values are not accepted"),
    ({"status": 429, "headers": (("Retry-After", "1"),)}, "too many requests"),
    ({"status": 500, "body": b"<html>oh"}, "the API server failed"),
    ({"status": 200, "body": b'{"kind":"Scale","spec":{"repl'}, "without its end"),
    ({"status": 200, "body": b'{"kind":"Scale","metadata":{}}'}, "without a metadata"),
    ({"status": 200, "body": b"[" * 5000}, "nested"),
    ({"status": 200, "body": b" " * (5 << 20)}, "too long"),
    ({"cut": True}, "weir-decode/scale"),
    ({"reset": True}, ""),
    ({"sleep_s": 3}, "imed out"),
)


@case
def every_fault_has_a_name_and_passes():
    with Kube() as kube, Driver(kube, call_ms=1500) as driver:
        driver.wait(1, 1)
        for i, (fault, says) in enumerate(FAULTS):
            for method, path in (("GET", "weir-decode/scale"), ("PATCH", "weir-decode/scale")):
                before = len(driver.log())
                kube.mock.fault(method, path, **fault)
                decoders = len([w for w in driver.workers() if "decode" in w])
                if decoders == 1:
                    driver.start("decode")
                else:
                    assert driver.say("stop %d 9" % max(
                        int(w.split()[0]) for w in driver.say("list").split("; ")
                        if "decode" in w)) == "ok"
                until(lambda m=method: not any(f["times"] for f in kube.mock.faults),
                      f"fault {i} was met")
                driver.wait(1, 2 if decoders == 1 else 1)
                told = driver.log()[before:]
                # A connection that is cut may be made anew by the library before anybody notices.
                assert says in told or "reset" in fault, (fault, method, told)
                # Also where the answer was lost and the deed was done.
                assert "by others" not in told, told
        assert kube.mock.replicas("weir-prefill") == 1


@case
def a_token_that_is_replaced_is_read_again():
    with Kube() as kube, Driver(kube) as driver:
        driver.wait(1, 1)
        kube.mock.tokens = {"the-next-token"}
        driver.wait_log("the token is not accepted")
        driver.wait(1, 1)  # nothing is given up
        kube.set_token("the-next-token")
        driver.start("decode")
        driver.wait(1, 2)


@case
def what_others_write_is_read_again_and_stands():
    with Kube() as kube, Driver(kube) as driver:
        driver.wait(1, 1)
        # Between reading and writing, somebody writes: nothing of theirs is lost.
        kube.mock.fault("PATCH", "weir-decode/scale",
                        call=lambda: kube.mock.scale_by_hand("weir-decode", 4))
        driver.start("decode")
        driver.wait_log("read again")
        driver.wait(1, 5)
        assert kube.mock.replicas("weir-decode") == 5
        kube.mock.scale_by_hand("weir-decode", 2)
        driver.wait(1, 2)
        kube.mock.scale_by_hand("weir-decode", 3)
        driver.wait(1, 3)
        assert "replicas changed by others" in driver.log()


@case
def an_autoscaler_makes_it_only_advise():
    hpa = {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
           "metadata": {"name": "decode"},
           "spec": {"minReplicas": 1, "maxReplicas": 9, "scaleTargetRef": {
               "apiVersion": "apps/v1", "kind": "Deployment", "name": "weir-decode"}}}
    with Kube() as kube:
        kube.mock.add(hpa)
        with Driver(kube) as driver:
            driver.wait(1, 1)
            assert "HorizontalPodAutoscaler" in driver.say("start decode")
            decode = next(w for w in driver.say("list").split("; ") if "decode" in w).split()[0]
            assert "HorizontalPodAutoscaler" in driver.say(f"stop {decode} 1")
            assert "advice" in driver.log()
            kube.mock.scale_by_hand("weir-decode", 3)  # as the autoscaler does
            driver.wait(1, 3)
            driver.start("prefill")  # which is nobody else's
            driver.wait(2, 3)
            assert not [s for s in kube.mock.seen if s[0] == "patch" and s[3] == "weir-decode"]
            kube.mock.remove("horizontalpodautoscalers", "decode")
            until(lambda: driver.say("start decode").startswith("ok"), "it may again")
            driver.wait(2, 4)


@case
def admission_that_allows_fewer_is_believed():
    with Kube() as kube, Driver(kube) as driver:
        driver.wait(1, 1)
        kube.mock.admission = lambda count: min(count, 2)
        ids = [driver.start("decode") for _ in range(3)]
        driver.wait_log("admission made 2 replicas")
        until(lambda: driver.workers().count("decode serving") == 2, "one more")
        assert driver.workers().count("decode starting") == 2
        for i in ids[1:]:
            driver.say(f"stop {i} 1")
        driver.wait(1, 2)


@case
def pods_without_a_node_or_a_life_are_told_of():
    with Kube() as kube, Driver(kube) as driver:
        driver.wait(1, 1)
        kube.mock.unschedulable = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
        waits = driver.start("decode")
        driver.wait_log("Insufficient nvidia.com/gpu")
        until(lambda: driver.say("list").endswith("capacity 0"), "there is no room")
        assert driver.workers().count("decode starting") == 1
        driver.say(f"stop {waits} 1")  # which the controller does when its time is over
        driver.wait(1, 1)
        kube.mock.unschedulable = ""
        # One that is deleted by others is replaced, in the same place.
        ids = driver.say("list")
        with kube.mock.lock:
            kube.mock.delete_pod(kube.mock.pods("weir-decode")[0])
        until(lambda: all(kube.mock.is_ready(p) for p in kube.mock.pods("weir-decode")), "replaced")
        driver.wait(1, 1)
        assert driver.say("list").split(" capacity")[0] == ids.split(" capacity")[0]


@case
def many_pods_come_in_pages():
    with Kube(replicas=130) as kube, Driver(kube) as driver:
        until(lambda: driver.workers().count("prefill serving") == 130, "130 are seen")
        assert len(driver.workers()) == 256  # there are no more numbers


@case
def stateful_sets_lose_their_last_and_places_follow():
    with Kube(kind="StatefulSet", replicas=3) as kube, Driver(kube, "statefulsets") as driver:
        driver.wait(3, 3)
        lowest = min(int(w.split()[0]) for w in driver.say("list").split("; ") if "decode" in w)
        assert driver.say(f"stop {lowest} 30") == "ok"
        driver.wait(3, 2)
        names = sorted(p["metadata"]["name"] for p in kube.mock.pods("weir-decode"))
        assert names == ["weir-decode-0", "weir-decode-1"], names


@case
def an_older_controller_changes_nothing():
    with Kube() as kube, Driver(kube) as old, Driver(kube) as new:
        for driver in (old, new):
            driver.wait(1, 1)
        assert old.say("token 7") == new.say("token 7") == "ok" and new.say("token 8") == "ok"
        new.start("decode")
        new.wait(1, 2)
        old.wait(1, 2)
        old.start("decode")
        old.wait_log("token 7 is stale: 8 has written")
        time.sleep(1)
        assert kube.mock.replicas("weir-decode") == 2


class Pod:
    """The container of a pod as a process: a worker of the timed backend at the pod's address."""

    def __init__(self, hub, pod):
        words = []
        for word in pod["spec"]["containers"][0]["args"]:
            for old, new in {"weir-controller:7000": hub, "/keys/cluster.key": key_file(),
                             "$(POD_IP):7100": f"{pod['status']['podIP']}:0"}.items():
                word = word.replace(old, new)
            words.append("4m" if word == "1g" else word)
        self.node = Node(*words, "--flips", "--backend", "timed", "--profile", slow_profile(),
                         "--model", tiny_model(), env={"WEIR_CLUSTER_KEY": ""})

    def alive(self):
        return self.node.process.poll() is None

    def ready(self):
        return "joined" in self.node.log()

    def end(self):
        self.node.process.send_signal(signal.SIGTERM)

    def kill(self):
        self.node.kill()


def key_file():
    path = scratch("cluster.key")
    with open(path, "w", encoding="ascii") as f:
        f.write(KEY + "\n")
    os.chmod(path, 0o600)
    return path


class Controller(Node):
    """The controller of kubernetes/autoscale, with its files and names for this machine."""

    def __init__(self, kube, *flags):
        args = next(o for o in manifests("autoscale") if o["kind"] == "Deployment"
                    and o["metadata"]["name"] == "weir-controller")
        spec = args["spec"]["template"]["spec"]
        assert spec["serviceAccountName"] == "weir-controller"
        assert spec["automountServiceAccountToken"] is True
        words = [w.replace("0.0.0.0:7000", "127.0.0.1:0").replace("127.0.0.1:7080", "127.0.0.1:0")
                 .replace("/keys/cluster.key", key_file()) for w in spec["containers"][0]["args"]]
        host, port = kube.mock.url.removeprefix("https://").split(":")
        super().__init__(*words, "--kube-namespace", "weir", "--kube-token-file", kube.token_file,
                         "--kube-ca-file", kube.mock.ca_file, *flags,
                         env={"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port,
                              "WEIR_CLUSTER_KEY": ""})
        self.wait_log("dashboard: ")
        self.address = re.search(r"hub is at (\S+)", self.log()).group(1)
        self.url = re.search(r"dashboard: (http://127.0.0.1:\d+)", self.log()).group(1)

    def state(self):
        with urllib.request.urlopen(f"{self.url}/controller/state", timeout=60) as answer:
            return json.loads(answer.read())

    def serving(self, role):
        return sum(w["role"] == role and w["phase"] == "serving" for w in self.state()["workers"])


def may(role):
    """What a Role allows: verb, group, resource, name; a name of None is any."""
    return {(verb, group, resource, name) for rule in role["rules"] for verb in rule["verbs"]
            for group in rule["apiGroups"] for resource in rule["resources"]
            for name in rule.get("resourceNames", [None])}


@case
def the_controller_sizes_pools_of_pods_and_may_do_just_that():
    where = {}
    with Kube(on_start=lambda pod: Pod(where["hub"], pod), replicas=0) as kube:
        controller = Controller(kube, "--scale-hold-s", "5", "--prefill-max", "4",
                                "--decode-max", "2", "--start-timeout-s", "8")
        where["hub"] = controller.address
        until(lambda: controller.serving("prefill") == controller.serving("decode") == 1,
              "the least there may be")
        gateway = Server("--join", controller.address, "--local-prefill-max", "0",
                         command="gateway", env={"WEIR_CLUSTER_KEY": KEY})
        with Load(gateway, 10, 300, 2):
            until(lambda: controller.serving("prefill") >= 2, "prefill grows", 120)
            until(lambda: kube.mock.replicas("weir-prefill") >= 2, "by the API")
            # Each is listed once, as soon as its pod has been read.
            until(lambda: len(controller.state()["workers"]) == sum(
                kube.mock.replicas(name) for name in POOLS), "none is listed twice")
        until(lambda: controller.serving("prefill") == 1 and len(kube.mock.pods()) == 2,
              "prefill shrinks, drained", 120)
        # One that dies is replaced; one that finds no node is given up when its time is over.
        victim = kube.mock.pods("weir-decode")[0]["metadata"]["name"]
        kube.mock.running[victim].node.process.kill()
        until(lambda: [p["status"]["phase"] for p in kube.mock.pods("weir-decode")
                       if p["metadata"]["name"] != victim] == ["Running"], "it is replaced")
        until(lambda: controller.serving("decode") == 1, "and serves")
        kube.mock.unschedulable = "0/1 nodes are available"
        kube.mock.scale_by_hand("weir-prefill", 2)
        until(lambda: kube.mock.replicas("weir-prefill") == 1, "it is given up", 120)
        gateway.stop()
        role = next(o for o in manifests("autoscale") if o["kind"] == "Role")
        done = {(verb, group, resource, name if resource.startswith("deployments") else None)
                for verb, group, resource, name in kube.mock.seen}
        assert done == may(role), done ^ may(role)
        controller.end()


if __name__ == "__main__":
    main(at_once=3)
