#!/usr/bin/env python3
"""budget.py -- every kernel compiles without a warning, without spills, and within its registers.

    budget.py [--all] [FILE.cu ...]    sm_90a; with --all every architecture of ARCHITECTURES

budget.txt says how many registers a thread of each kernel may take: more would cost blocks of a
multiprocessor without anybody noticing. A kernel that takes fewer by now is fine; one that is not in
the table is not. Needs nvcc and no GPU; without it the check is skipped by name, exit status 77.
"""
import concurrent.futures
import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
TABLE = os.path.join(HERE, "budget.txt")
# Files of one generation of tensor cores are named after it.
ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90a", "sm_100", "sm_120")
HOPPER = ("sm_90a",)
ENTRY = re.compile(r"Compiling entry function '(\S+)' for '(\w+)'")
SPILL = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")


def kernel_of(mangled):
    """The kernel's own name: the last of the <length><name> that follow each other after _Z or _ZN.
    Those of nameless namespaces have a hash in them, which may look like such a pair itself."""
    at, name = re.match(r"_ZN?", mangled), mangled
    at = at.end() if at else len(mangled)
    while (length := re.match(r"\d+", mangled[at:])) is not None:
        at += length.end() + int(length.group())
        name = mangled[at - int(length.group()):at]
    return name


def read_table(text):
    table = {}
    for line in text.splitlines():
        words = line.split("#")[0].split()
        if words:
            table[(words[0], words[1])] = int(words[2])
            if len(words) > 3:  # spills allowed there
                architecture, most = words[3].split(":")
                table[(words[0], words[1], architecture)] = int(most)
    return table


def judge(name, output, table):
    """Problems in what nvcc and ptxas -v said of one file, and the registers each kernel takes."""
    problems, taken, kernel, architecture = [], {}, None, None
    for line in output.splitlines():
        if "warning" in line.lower():
            problems.append(f"{name}: {line.strip()}")
        entry, spill, used = ENTRY.search(line), SPILL.search(line), USED.search(line)
        if entry:
            kernel, architecture = kernel_of(entry.group(1)), entry.group(2)
            instance = entry.group(1)
        if spill and kernel and max(int(spill.group(2)), int(spill.group(3))) > table.get(
                (name, kernel, architecture), 0):
            problems.append(f"{name}: {kernel} spills {spill.group(2)} bytes for {architecture}: "
                            f"{instance}")
        if used and kernel:
            taken[kernel] = max(taken.get(kernel, 0), int(used.group(1)))
    for kernel, registers in taken.items():
        if (name, kernel) not in table:
            problems.append(f"{name}: {kernel} takes {registers} registers and is not in budget.txt")
        elif registers > table[(name, kernel)]:
            problems.append(f"{name}: {kernel} takes {registers} registers of "
                            f"{table[(name, kernel)]} for {architecture}")
    return problems, taken


def compile_one(nvcc, path, architecture, folder):
    name = os.path.basename(path)
    done = subprocess.run(
        ["nice", "-n", "5", nvcc, "-std=c++17", "-I", ROOT, f"-arch={architecture}", "-fmad=false",
         "-Xptxas", "-v", "-c", path, "-o", os.path.join(folder, f"{name}.{architecture}.o")],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return name, architecture, done.returncode, done.stdout


def selftest():
    """What nvcc says is read right: a spill, a warning, too many registers, an unknown kernel."""
    said = ("ptxas info : Compiling entry function '_ZN1_1a_kernelE4type' for 'sm_90a'\n"
            "    0 bytes stack frame, {} bytes spill stores, 0 bytes spill loads\n"
            "ptxas info : Used {} registers, used 1 barriers\n{}")
    said = said.replace("_ZN1_1a_kernel", "_ZN1_8a_kernel")
    table = read_table("a.cu a_kernel 40 sm_100:8  # a note")
    cases = [(said.format(0, 40, ""), 0), (said.format(8, 40, "").replace("sm_90a", "sm_100"), 0),
             (said.format(12, 40, "").replace("sm_90a", "sm_100"), 1),
             (said.format(8, 40, ""), 1), (said.format(0, 41, ""), 1),
             (said.format(0, 40, "a.cu(3): warning #177-D: unused"), 1)]
    wrong = [text for text, count in cases if len(judge("a.cu", text, table)[0]) != count]
    wrong += [] if judge("b.cu", cases[0][0], table)[0] else ["unknown kernel"]
    hashed = "_ZN40_GLOBAL__N__a037bb47_8_pages_cu_a9f3991211copy_kernelILb0EEEv10cuda_pages"
    wrong += [] if kernel_of(hashed) == "copy_kernel" else [hashed]
    return [f"selftest: misread {text!r}" for text in wrong]


def main():
    nvcc = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    if nvcc is None:
        print("no nvcc here: kernels are compiled by g++ alone")
        return 77
    words = [w for w in sys.argv[1:] if w != "--all"]
    paths = [os.path.abspath(w) for w in words] or sorted(
        glob.glob(os.path.join(ROOT, "kernels", "cuda", "*.cu")))
    architectures = ARCHITECTURES if "--all" in sys.argv else HOPPER
    with open(TABLE, encoding="utf-8") as f:
        table = read_table(f.read())
    problems, most = selftest(), {}
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(compile_one, nvcc, path, a, folder) for path in paths
                for a in (HOPPER if "hopper" in os.path.basename(path) else architectures)]
        for job in concurrent.futures.as_completed(jobs):
            name, architecture, code, output = job.result()
            if code != 0:
                problems.append(f"{name}: nvcc failed for {architecture}:\n{output[-2000:]}")
                continue
            found, taken = judge(name, output, table)
            problems += found
            for kernel, registers in taken.items():
                most[(name, kernel)] = max(most.get((name, kernel), 0), registers)
    for (name, kernel), registers in sorted(most.items()):
        print(f"{name:16} {kernel:24} {registers:4} of {table.get((name, kernel), 0)}")
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
