#!/usr/bin/env python3
"""layers.py -- every #include follows the arrows between the layers; lower never includes upper."""

import os
import re

import tree

# Layer: what it may include of weir, by folder or by file, and which libraries beside libc.
# A layer may always include itself. The longest matching folder decides.
LAYERS = {
    "engine/base": ((), ()),
    "kernels": (("engine/base",), ()),
    "models/file": (("engine/base",), ("cjson/",)),
    "models/text": (("engine/base", "models/file"), ("pcre2.h", "cjson/")),
    "models/arch": (("engine/base", "models/file", "kernels"), ()),
    "engine/core": (("engine/base",), ()),
    "engine/net": (("engine/base", "engine/core/message.h", "engine/core/request.h"), ()),
    "kvtransfer": (("engine/base", "kernels/backend.h"), ()),
    "engine/worker": (("engine/base", "engine/core", "engine/net", "kernels", "kvtransfer",
                       "models/arch", "models/file"), ()),
    "server/http": (("engine/base",), ("microhttpd.h", "cjson/", "llhttp.h", "curl/")),
    "server/api": (("engine/base", "engine/core", "models/text", "server/http"), ("cjson/",)),
    "server/drivers": (("engine/base", "engine/core", "server/http",
                        "server/control/scaler.h"),  # its numbers and names of pools
                        ("cjson/",)),
    "server/control": (("engine/base", "engine/core", "engine/net", "server/http", "server/api",
                        "server/drivers"), ("cjson/",)),
    "server/gateway": (("engine/base", "engine/core", "engine/net", "models/text", "server/http",
                        "server/api", "server/drivers", "server/control"), ("cjson/",)),
    "server": (("engine/base", "engine/core", "engine/net", "models/text", "models/file",
                "server/http", "server/api", "server/drivers", "server/control",
                "server/gateway"), ("cjson/",)),
    "bench": (("",), ("cjson/", "llhttp.h")),
    "tests": (("",), ("",)),
}

# Files that may more than their folder, each with its reason.
FILES = {
    "server/main.c": (("",), ()),  # the only place that wires all layers
    "kvtransfer/ncclapi.h": ((), ("cuda", "nccl")),  # what nccl.c opens by name
}

# Headers of libc, POSIX, Linux and the compiler: not libraries.
SYSTEM = re.compile(r"^(sys|arpa|net|netinet|linux)/|^[a-z0-9_]+\.h$")
LIBRARIES = re.compile(
    r"^(microhttpd|pcre2|llhttp|criterion|curl|zlib|cuda|nccl|cublas|nvtx|cjson)")

INCLUDE = re.compile(r'^\s*#\s*include\s+(["<])([^">]+)[">]', re.MULTILINE)


def layer_of(path):
    best = ""
    for layer in LAYERS:
        if path.startswith(layer + "/") and len(layer) > len(best):
            best = layer
    return best


def allowed(path, kind, target, layer):
    ours, libraries = LAYERS[layer]
    extra_ours, extra_libraries = FILES.get(path, ((), ()))
    if kind == "<":
        if not LIBRARIES.match(target):
            return bool(SYSTEM.match(target)) or layer == "tests"
        if layer == "kernels" and path.startswith("kernels/cuda/"):
            return True
        return any(target.startswith(p) for p in libraries + extra_libraries)
    if layer_of(target) == layer:
        return True
    return any(target == p or p == "" or target.startswith(p + "/") for p in ours + extra_ours)


def check(root):
    problems = []
    for path in tree.files(root):
        layer = layer_of(path)
        text = tree.read(root, path)
        for match in INCLUDE.finditer(text):
            kind, target = match.groups()
            line = text.count("\n", 0, match.start()) + 1
            if not layer:
                problems.append(f"{path}: in no layer of tests/tidy/layers.py")
                break
            if kind == '"' and not os.path.exists(os.path.join(root, target)):
                problems.append(f"{path}:{line}: \"{target}\" is not a path from the root")
            elif kind == '"' and target.startswith("tests/") and layer != "tests":
                problems.append(f"{path}:{line}: only tests see tests")
            elif not allowed(path, kind, target, layer):
                problems.append(f"{path}:{line}: {layer} may not include {target}")
    return problems


if __name__ == "__main__":
    tree.main(check)
