"""kubemock.py -- a Kubernetes API server in miniature: what weir's driver calls, and what kubectl and
the official Python client need to be convinced by it.

Deployments and StatefulSets with their scale, pods, HorizontalPodAutoscalers and ReplicaSet's choice
of who goes first; resource versions with conflicts; merge patches; pages with continue tokens;
watches. What a write makes is held against the official schemas (kubernetes-validate): 422 where it
does not fit. No admission, quotas, users or defaults but those below.

A test says which faults requests meet (`fault`), reads which requests came (`seen`: verb, group,
resource), and may have pods run something (`on_start`).
"""

import copy
import http.server
import itertools
import json
import os
import re
import ssl
import subprocess
import threading
import time
import urllib.parse

try:
    import kubernetes_validate
except ImportError:  # its users skip
    kubernetes_validate = None

VERSION = "1.37"
COST = "controller.kubernetes.io/pod-deletion-cost"
KINDS = {  # resource: kind, API version, short name, sub-resources
    "deployments": ("Deployment", "apps/v1", "deploy", ("scale", "status")),
    "statefulsets": ("StatefulSet", "apps/v1", "sts", ("scale", "status")),
    "pods": ("Pod", "v1", "po", ()),
    "horizontalpodautoscalers": ("HorizontalPodAutoscaler", "autoscaling/v2", "hpa", ()),
}
PATH = re.compile(r"/(?:api/v1|apis/(?P<group>[a-z]+)/v\d)/namespaces/(?P<space>[a-z0-9-]+)/"
                  r"(?P<resource>[a-z]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>[a-z]+))?$")
SLICE_S = 0.05
REASONS = {401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 409: "Conflict", 410: "Expired",
           422: "Invalid", 429: "TooManyRequests", 500: "InternalError"}


class Refused(Exception):
    """An answer other than 200."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code, self.message = code, message


def status(code, message):
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": message, "reason": REASONS.get(code, "Unknown"), "code": code}


def merge(target, patch):
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    target = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        else:
            target[key] = merge(target.get(key), value)
    return target


def selects(selector, labels):
    terms = [t.split("=", 1) for t in selector.replace("==", "=").split(",") if t]
    return all(labels.get(t[0]) == t[1] for t in terms)


def make_certificate(folder):
    """A key and a certificate of its own for 127.0.0.1."""
    key, certificate = os.path.join(folder, "tls.key"), os.path.join(folder, "ca.crt")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                    "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-keyout", key, "-out",
                    certificate, "-subj", "/CN=kubemock", "-addext",
                    "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    return key, certificate


class KubeMock:
    """Serves on 127.0.0.1 until closed. `on_start(pod)` makes what a pod runs: an object with
    alive(), ready(), end() (drain) and kill(); None: a pod that is ready at once."""

    def __init__(self, folder, token, on_start=None):
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.version = itertools.count(1000)
        self.latest = 1000
        self.uids = itertools.count(1)
        self.objects = {resource: {} for resource in KINDS}
        self.events = []  # (version, resource, type, object)
        self.tokens = {token}
        self.on_start, self.running = on_start, {}
        self.unschedulable = ""  # pods find no node, and why
        self.admission = None    # of replicas
        self.faults, self.seen, self.closing = [], [], False
        key, self.ca_file = make_certificate(folder)
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.mock = self
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.ca_file, key)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True,
                                                 do_handshake_on_connect=False)
        self.url = f"https://127.0.0.1:{self.server.server_address[1]}"
        self.threads = [threading.Thread(target=self.server.serve_forever, daemon=True),
                        threading.Thread(target=self.controllers, daemon=True)]
        for thread in self.threads:
            thread.start()

    def close(self):
        self.closing = True
        self.server.shutdown()
        for thread in self.threads:
            thread.join()
        self.server.server_close()
        for process in self.running.values():
            process.kill()

    # ---- objects -------------------------------------------------------------------------------

    def store(self, resource, thing, event="MODIFIED"):
        with self.lock:
            self.latest = next(self.version)
            thing["metadata"]["resourceVersion"] = str(self.latest)
            name = thing["metadata"]["name"]
            if event == "DELETED":
                self.objects[resource].pop(name, None)
            else:
                self.objects[resource][name] = thing
            self.events.append((self.latest, resource, event, copy.deepcopy(thing)))
            self.changed.notify_all()

    def add(self, manifest):
        """As kubectl apply would, once."""
        resource = next(r for r, k in KINDS.items() if k[0] == manifest["kind"])
        thing = copy.deepcopy(manifest)
        thing["metadata"] = {"namespace": "weir", "uid": f"uid-{next(self.uids)}", "generation": 1,
                             "creationTimestamp": "2026-01-01T00:00:00Z", **thing["metadata"]}
        if resource in ("deployments", "statefulsets"):
            thing["status"] = {"replicas": 0, "observedGeneration": 1}
        self.check(thing)
        self.store(resource, thing, "ADDED")

    def remove(self, resource, name):
        with self.lock:
            self.store(resource, self.objects[resource][name], "DELETED")

    def pods(self, owner=None):
        with self.lock:
            return [copy.deepcopy(p) for p in self.objects["pods"].values()
                    if owner in (None, p["metadata"]["ownerReferences"][0]["name"])]

    def replicas(self, name, resource="deployments"):
        return self.objects[resource][name]["spec"]["replicas"]

    def scale_by_hand(self, name, replicas, resource="deployments"):
        with self.lock:
            thing = copy.deepcopy(self.objects[resource][name])
            thing["spec"]["replicas"] = replicas
            self.store(resource, thing)

    @staticmethod
    def check(thing):
        try:
            kubernetes_validate.validate(thing, VERSION, strict=True)
        except kubernetes_validate.ValidationError as error:
            raise Refused(422, f"{thing['kind']}: {error.message}") from None

    def scale_of(self, thing):
        labels = thing["spec"]["selector"]["matchLabels"]
        metadata = {k: thing["metadata"][k] for k in ("name", "namespace", "uid", "resourceVersion",
                                                      "creationTimestamp")}
        return {"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
                "spec": {"replicas": thing["spec"]["replicas"]},
                "status": {"replicas": thing["status"]["replicas"],
                           "selector": ",".join(f"{k}={v}" for k, v in sorted(labels.items()))}}

    # ---- what the controllers of a cluster do --------------------------------------------------

    def controllers(self):
        while not self.closing:
            with self.lock:
                for resource in ("deployments", "statefulsets"):
                    for owner in list(self.objects[resource].values()):
                        self.size(resource, owner)
                for pod in list(self.objects["pods"].values()):
                    self.see_to(pod)
            time.sleep(SLICE_S)

    @staticmethod
    def is_ready(pod):
        return any(c["type"] == "Ready" and c["status"] == "True"
                   for c in pod["status"].get("conditions", ()))

    def goes_first(self, pod):
        """The ReplicaSet controller's order, as far as pods here differ."""
        metadata = pod["metadata"]
        return ("nodeName" in pod["spec"], pod["status"]["phase"] != "Pending", self.is_ready(pod),
                int(metadata.get("annotations", {}).get(COST, "0")), -int(metadata["uid"][4:]))

    def size(self, resource, owner):
        name = owner["metadata"]["name"]
        pods = [p for p in self.objects["pods"].values()
                if p["metadata"]["ownerReferences"][0]["name"] == name]
        live = [p for p in pods if "deletionTimestamp" not in p["metadata"]
                and p["status"]["phase"] != "Failed"]
        wanted = owner["spec"]["replicas"]
        stateful = resource == "statefulsets"
        order = sorted(live, key=(lambda p: -int(p["metadata"]["name"].rsplit("-", 1)[1]))
                       if stateful else self.goes_first)
        for pod in order[:max(0, len(live) - wanted)]:
            self.delete_pod(pod)
        for _ in range(wanted - len(live)):
            self.add_pod(owner, {p["metadata"]["name"] for p in pods} if stateful else None)
        ready = sum(self.is_ready(p) for p in live)
        count = {"replicas": len(live), "readyReplicas": ready, "availableReplicas": ready,
                 "updatedReplicas": len(live),
                 "observedGeneration": owner["metadata"]["generation"]}
        if owner["status"] != count:
            self.store(resource, {**copy.deepcopy(owner), "status": count})

    def add_pod(self, owner, ordinals):
        uid = next(self.uids)
        base = owner["metadata"]["name"]
        if ordinals is not None:
            name = next(f"{base}-{i}" for i in itertools.count() if f"{base}-{i}" not in ordinals)
        else:
            name = f"{base}-7d4b9-{uid:05d}"
        template = owner["spec"]["template"]
        pod = {"apiVersion": "v1", "kind": "Pod",
               "metadata": {"name": name, "namespace": "weir", "uid": f"uid-{uid}",
                            "creationTimestamp": "2026-01-01T00:00:00Z",
                            "labels": dict(template["metadata"]["labels"]),
                            "ownerReferences": [{"apiVersion": owner["apiVersion"],
                                                 "kind": owner["kind"], "name": base,
                                                 "uid": owner["metadata"]["uid"]}]},
               "spec": copy.deepcopy(template["spec"]),
               "status": {"phase": "Pending"}}
        self.check(pod)
        self.store("pods", pod, "ADDED")

    def see_to(self, pod):
        """Schedules it, runs it, and tells how it is."""
        name = pod["metadata"]["name"]
        process = self.running.get(name)
        if "deletionTimestamp" in pod["metadata"]:
            if process is None or not process.alive():
                self.running.pop(name, None)
                self.store("pods", pod, "DELETED")
            return
        if pod["status"]["phase"] == "Failed":
            return
        if "nodeName" not in pod["spec"]:
            self.schedule(pod)
            return
        if process is not None and not process.alive():
            self.running.pop(name)
            now = {"phase": "Failed", "podIP": pod["status"]["podIP"]}
        else:
            ready = process is None or process.ready()
            now = {"phase": "Running", "podIP": pod["status"]["podIP"], "conditions": [
                {"type": "PodScheduled", "status": "True"},
                {"type": "Ready", "status": "True" if ready else "False"}]}
        if pod["status"] != now:
            self.store("pods", {**copy.deepcopy(pod), "status": now})

    def schedule(self, pod):
        pod = copy.deepcopy(pod)
        if self.unschedulable:
            now = {"phase": "Pending", "conditions": [
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                 "message": self.unschedulable}]}
        else:
            uid = int(pod["metadata"]["uid"][4:])
            pod["spec"]["nodeName"] = "node-1"
            now = {"phase": "Pending", "podIP": f"127.1.{uid // 250}.{uid % 250 + 1}"}
        if pod["status"] != now:
            pod["status"] = now
            self.store("pods", pod)
        if "nodeName" in pod["spec"] and self.on_start:
            self.running[pod["metadata"]["name"]] = self.on_start(pod)

    def delete_pod(self, pod):
        pod = copy.deepcopy(pod)
        pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        pod["metadata"]["deletionGracePeriodSeconds"] = 30
        process = self.running.get(pod["metadata"]["name"])
        if process is not None:
            process.end()
        self.store("pods", pod)

    # ---- requests ------------------------------------------------------------------------------

    def fault(self, method, path, times=1, **what):
        """The next `times` requests whose path matches meet status=, headers=, body=, reset=True,
        sleep_s=, cut=True (half of the answer), or call= (something happens first)."""
        with self.lock:
            self.faults.append({"method": method, "path": re.compile(path), "times": times, **what})

    def next_fault(self, method, path):
        with self.lock:
            for fault in self.faults:
                if fault["method"] == method and fault["path"].search(path) and fault["times"] > 0:
                    fault["times"] -= 1
                    return fault
        return {}

    def note(self, verb, where):
        resource = where["resource"] + (f"/{where['sub']}" if where["sub"] else "")
        with self.lock:
            self.seen.append((verb, where["group"] or "", resource, where["name"]))

    def list(self, resource, query):
        with self.lock:
            items = [copy.deepcopy(o) for _, o in sorted(self.objects[resource].items())]
            latest = self.latest
        labels = query.get("labelSelector", "")
        items = [o for o in items if selects(labels, o["metadata"].get("labels", {}))]
        field = re.fullmatch(r"metadata\.name=(.*)", query.get("fieldSelector", ""))
        if field:
            items = [o for o in items if o["metadata"]["name"] == field.group(1)]
        start, limit = int(query.get("continue") or 0), int(query.get("limit") or 0)
        metadata = {"resourceVersion": str(latest)}
        if limit and start + limit < len(items):
            metadata["continue"] = str(start + limit)
            metadata["remainingItemCount"] = len(items) - start - limit
        kind, version = KINDS[resource][:2]
        return {"kind": f"{kind}List", "apiVersion": version, "metadata": metadata,
                "items": items[start:start + limit] if limit else items}

    def get(self, where):
        thing = self.objects[where["resource"]].get(where["name"])
        if thing is None:
            raise Refused(404, f'{where["resource"]} "{where["name"]}" not found')
        return self.scale_of(thing) if where["sub"] == "scale" else thing

    def write(self, where, change):
        """`change` makes the new object of the old one."""
        resource = where["resource"]
        with self.lock:
            old = copy.deepcopy(self.get(where))
            new = change(old)
            if str(new.get("metadata", {}).get("resourceVersion", "")) not in (
                    "", self.objects[resource][where["name"]]["metadata"]["resourceVersion"]):
                raise Refused(409, f'Operation cannot be fulfilled on {resource} "{where["name"]}": '
                                   "the object has been modified; please apply your changes to the "
                                   "latest version and try again")
            self.check(new)
            if where["sub"] == "scale":
                count = new["spec"].get("replicas", 0)
                if count < 0:
                    raise Refused(422, f"spec.replicas: Invalid value: {count}")
                thing = copy.deepcopy(self.objects[resource][where["name"]])
                thing["spec"]["replicas"] = self.admission(count) if self.admission else count
                new = thing
            if new["spec"] != self.objects[resource][where["name"]]["spec"]:
                new["metadata"]["generation"] = new["metadata"].get("generation", 1) + 1
            self.store(resource, new)
            return copy.deepcopy(self.get(where))


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60

    def log_message(self, *_):
        pass

    @property
    def mock(self):
        return self.server.mock

    def answer(self, code, thing, headers=(), cut=False):
        data = thing if isinstance(thing, bytes) else json.dumps(thing).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data[:len(data) // 2] if cut else data)
        self.close_connection = self.close_connection or cut

    def handle_any(self):
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size) if size else b""
        parts = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(parts.query))
        fault = self.mock.next_fault(self.command, self.path)
        if "call" in fault:
            fault["call"]()
        if "sleep_s" in fault:
            time.sleep(fault["sleep_s"])
        if fault.get("reset"):
            self.close_connection = True
            return
        if "status" in fault:
            code = fault["status"]
            self.answer(code, fault.get("body", status(code, "as the test wants it")),
                        fault.get("headers", ()))
            return
        try:
            if self.headers.get("Authorization", "")[7:] not in self.mock.tokens:
                raise Refused(401, "Unauthorized")
            self.respond(parts.path, query, body, fault.get("cut", False))
        except Refused as refused:
            self.answer(refused.code, status(refused.code, refused.message))
        except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
            self.close_connection = True

    do_GET = do_PUT = do_PATCH = do_POST = do_DELETE = handle_any

    def respond(self, path, query, body, cut):
        match = PATH.match(path)
        if not match or match["resource"] not in KINDS:
            self.answer(200, discovery(path))
            return
        where = match.groupdict()
        if self.command == "GET" and query.get("watch") in ("true", "1"):
            self.mock.note("watch", where)
            self.watch(where, query)
        elif self.command == "GET":
            self.mock.note("get" if where["name"] else "list", where)
            thing = self.mock.get(where) if where["name"] else self.mock.list(where["resource"],
                                                                              query)
            self.answer(200, thing, cut=cut)
        elif self.command in ("PATCH", "PUT"):
            self.mock.note("patch" if self.command == "PATCH" else "update", where)
            given = json.loads(body)
            if self.command == "PUT":
                self.answer(200, self.mock.write(where, lambda old: given))
            elif self.headers["Content-Type"].startswith(("application/merge-patch+json",
                                                          "application/strategic-merge")):
                self.answer(200, self.mock.write(where, lambda old: merge(old, given)), cut=cut)
            else:
                raise Refused(415, f"no {self.headers['Content-Type']} here")
        else:
            raise Refused(405, f"no {self.command} here")

    def watch(self, where, query):
        """Events from a version on; with sendInitialEvents first what there is, and a bookmark."""
        resource, mock = where["resource"], self.mock
        kind, version = KINDS[resource][:2]
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.close_connection = True
        until = time.monotonic() + float(query.get("timeoutSeconds", 30))
        names = re.fullmatch(r"metadata\.name=(.*)", query.get("fieldSelector", ""))

        def send(event, thing):
            if not names or thing["metadata"].get("name", names.group(1)) == names.group(1):
                line = json.dumps({"type": event, "object": thing}) + "\n"
                self.wfile.write(b"%x\r\n%s\r\n" % (len(line.encode()), line.encode()))
                self.wfile.flush()

        with mock.lock:
            at = int(query.get("resourceVersion") or 0) or mock.latest
            first = list(mock.objects[resource].values())
            latest = mock.latest
        if query.get("sendInitialEvents") == "true":
            for thing in first:
                send("ADDED", thing)
            send("BOOKMARK", {"kind": kind, "apiVersion": version, "metadata": {
                "resourceVersion": str(latest),
                "annotations": {"k8s.io/initial-events-end": "true"}}})
            at = latest
        while time.monotonic() < until and not mock.closing:
            with mock.lock:
                mock.changed.wait(0.5)
                fresh = [e for e in mock.events if e[0] > at and e[1] == resource]
                at = mock.latest
            for _, _, event, thing in fresh:
                send(event, thing)
        self.wfile.write(b"0\r\n\r\n")


def discovery(path):
    groups = {"apps": "v1", "autoscaling": "v2"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
    if path == "/apis":
        listed = [{"name": g, "versions": [{"groupVersion": f"{g}/{v}", "version": v}],
                   "preferredVersion": {"groupVersion": f"{g}/{v}", "version": v}}
                  for g, v in groups.items()]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}
    if path == "/version":
        return {"major": "1", "minor": "37", "gitVersion": "v1.37.0", "gitCommit": "",
                "gitTreeState": "clean", "buildDate": "2026-01-01T00:00:00Z", "goVersion": "",
                "compiler": "", "platform": ""}
    version = path.removeprefix("/apis/").removeprefix("/api/")
    resources = []
    for resource, (kind, of, short, subs) in KINDS.items():
        if of != version:
            continue
        entry = {"name": resource, "singularName": kind.lower(), "namespaced": True, "kind": kind,
                 "verbs": ["get", "list", "patch", "update", "watch"], "shortNames": [short]}
        resources.append(entry)
        for sub in subs:
            resources.append({"name": f"{resource}/{sub}", "singularName": "", "namespaced": True,
                              "kind": "Scale" if sub == "scale" else kind,
                              **({"group": "autoscaling", "version": "v1"} if sub == "scale"
                                 else {}), "verbs": ["get", "patch", "update"]})
    if not resources:
        raise Refused(404, f"there is no {path} here")
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version,
            "resources": resources}
