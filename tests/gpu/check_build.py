#!/usr/bin/env python3
"""check_build.py -- a build with CUDA's compiler: no warnings, and the binary serves without a GPU.

    check_build.py [FOLDER]    FOLDER: build/cuda, where `cmake --preset cuda` builds

The module is code for Hopper and, by way of PTX, for anything since Ampere. On a machine without a GPU
`weir serve` says so in one line and computes on the CPU; with one it computes there. Needs nvcc; without
it the check is skipped, exit status 77.
"""
import os
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def build(folder):
    environment = dict(os.environ)
    environment.setdefault("CUDACXX", shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc")
    configure = ["cmake", "--preset", "cuda", "-B", folder]
    if shutil.which("ccache"):
        configure.append("-DCMAKE_C_COMPILER_LAUNCHER=ccache")
    said = ""
    for command in (configure, ["nice", "-n", "5", "cmake", "--build", folder, "--target", "weir",
                                "weir_cuda", "weir_tinymodel"]):
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, check=False)
        said += done.stdout
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-4000:]}")
    warnings = [l for l in said.splitlines() if "warning" in l.lower() and "CMake" not in l]
    return ["the build warns: " + line for line in warnings]


def serve(folder):
    """The binary with the module beside it, as it is installed."""
    os.environ["WEIR_BIN"] = os.path.join(folder, "weir")
    os.environ.pop("WEIR_CUDA_MODULE", None)
    sys.path.insert(0, os.path.join(ROOT, "tests", "e2e"))
    import weirtest
    chat = {"messages": [{"role": "user", "content": "What is a weir?"}], "max_tokens": 6}
    with weirtest.Server("--aggregated", "--threads", "1") as server:
        answer = weirtest.generate(server, "/v1/chat/completions", chat)
        lines = [l for l in server.log().splitlines() if "no GPU: the model runs on the CPU" in l]
        log = server.log()
    wrong = [] if answer.ids[0] else ["no tokens came back"]
    if os.path.exists("/dev/nvidiactl"):
        wrong += [] if "numerics=cuda-" in log else ["the GPU of this machine is not used"]
    else:
        wrong += [] if len(lines) == 1 else [f"{len(lines)} lines say that there is no GPU:\n{log}"]
        wrong += [] if "numerics=cpu-" in log else ["the model does not run on the CPU"]
    return wrong


def main():
    if not (shutil.which("nvcc") or os.path.exists("/usr/local/cuda/bin/nvcc")):
        print("no nvcc here: CUDA's compiler builds nothing")
        return 77
    folder = os.path.abspath(sys.argv[1]) if len(sys.argv) > 1 else os.path.join(ROOT, "build", "cuda")
    wrong = build(folder) or serve(folder)
    for problem in wrong:
        print(problem)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
