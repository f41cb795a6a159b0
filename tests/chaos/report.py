"""report.py -- the result of a chaos run as JSON, as a text table and as one readable page."""

import collections
import html
import json
import os
import platform
import subprocess
import time

KINDS = ("failed", "wrong", "repeated", "missing")
ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))


def source(binary, commit=None):
    """Where a result comes from; the commit is the tree's unless told."""
    commit = commit or subprocess.run(
        ["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True,
        check=False).stdout.strip()
    model = "unknown CPU"
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as f:
            model = next(line.split(":", 1)[1].strip() for line in f if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {"machine": f"{model}, {os.cpu_count()} cores, Linux {platform.release()}",
            "date": time.strftime("%Y-%m-%d"), "commit": commit,
            "binary": os.path.basename(os.path.dirname(binary)) or "weir"}


def percentile(values, p):
    """Nearest rank."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, min(len(ordered) - 1, -(-len(ordered) * p // 100) - 1))]


def summary(part):
    kinds = collections.Counter(f["kind"] for f in part["faults"])
    bad = sum(part["ended"].get(k, 0) for k in KINDS)
    return (f"{part['sent']} requests, {bad} bad, {kinds['kill']} kills, {kinds['wipe']} wipes, "
            f"{kinds['link'] + kinds['worker_link']} cut links, {kinds['freeze']} freezes, "
            f"{kinds['damage']} damaged groups, {part['seconds']:.0f} s")


def merge(paths):
    result = None
    for path in paths:
        with open(path, encoding="utf-8") as f:
            one = json.load(f)
        if result is None:
            result = one
        else:
            result["parts"] += one["parts"]
            result["slices"] += one["slices"]
            result["sources"] += [s for s in one["sources"] if s not in result["sources"]]
    return result


def rows_by_point(result):
    """[(kind, point, count, bad by kind, back p50, back p99, gap p50, gap p99)]"""
    groups = collections.defaultdict(list)
    bad = collections.defaultdict(collections.Counter)
    for part in result["parts"]:
        for fault in part["faults"]:
            groups[fault["kind"], fault["name"]].append(fault)
        for problem in part["problems"]:
            bad[problem["after"]][problem["kind"]] += 1
    order = ("kill", "wipe", "link", "worker_link", "damage", "freeze")
    rows = []
    for (kind, name), faults in sorted(groups.items(), key=lambda g: (order.index(g[0][0]), g[0])):
        if kind == "freeze":
            continue
        back = [f["back_s"] for f in faults if f["back_s"] is not None]
        gaps = [f["gap_s"] for f in faults if f["gap_s"]]
        rows.append((kind, name, len(faults), [bad[name][k] for k in KINDS],
                     percentile(back, 50), percentile(back, 99),
                     percentile(gaps, 50), percentile(gaps, 99)))
    return rows


def rows_of_freezes(result):
    found = collections.defaultdict(list)
    for part in result["parts"]:
        for fault in part["faults"]:
            if fault["kind"] == "freeze":
                found["up to 1 s" if fault["freeze_s"] <= 1 else "over 3 s"].append(fault)
    return [(name, len(f), sum(x["fenced"] for x in f),
             percentile([x["gap_s"] for x in f if x["gap_s"]], 50),
             percentile([x["gap_s"] for x in f if x["gap_s"]], 99))
            for name, f in sorted(found.items(), reverse=True)]


def totals(result):
    kinds, ended, how = collections.Counter(), collections.Counter(), collections.Counter()
    for part in result["parts"]:
        kinds.update(f["kind"] for f in part["faults"])
        ended.update(part["ended"])
        how.update(part["how"])
    return kinds, ended, how


def seconds(value):
    return "" if value is None else f"{value:.2f}"


def headline(result):
    kinds, ended, how = totals(result)
    bad = {k: ended.get(k, 0) for k in KINDS}
    sent = sum(part["sent"] for part in result["parts"])
    rows = [r for r in rows_by_point(result) if r[0] in ("kill", "link")]
    least = min((r[2] for r in rows), default=0)
    return [
        ("requests", f"{sent}: {ended['ok']} finished, {ended['left']} left by their client"),
        ("of these", ", ".join(f"{n} {name}" for name, n in sorted(how.items()))),
        ("failed, wrong, repeated, missing", ", ".join(str(bad[k]) for k in KINDS)),
        ("kills", f"{kinds['kill']} at named points, {kinds['link']} cut links to the gateway; "
                  f"{len(rows)} points, each at least {least} times"),
        ("other faults", f"{kinds['freeze']} freezes, {kinds['worker_link']} cut links between "
                         f"workers, {kinds['damage']} damaged transfers, {kinds['wipe']} times all "
                         "workers of a role at once"),
        ("what the gateway did", ", ".join(
            f"{sum(p['counters'][name] for p in result['parts']):.0f} "
            f"{name[len('weir_'):-len('_total')].replace('_', ' ')}"
            for name in result["parts"][0]["counters"])),
        ("tokens changed on a retry", f"{sum(p['inexact'] for p in result['parts']):.0f}"),
        ("nothing held after the last request",
         ", ".join(f"{seconds(p['zero_s']) or 'NEVER'} s" for p in result["parts"])),
    ]


POINT_HEAD = ("fault", "point", "count", *KINDS, "worker back p50 s", "p99 s", "client gap p50 s",
              "p99 s")
FREEZE_HEAD = ("frozen for", "count", "fenced", "client gap p50 s", "p99 s")
ACCOUNT_HEAD = ("part", "process", "fds before", "after", "threads before", "after",
                "memory before KiB", "after KiB")


def tables(result):
    """[(title, head, rows of text)]"""
    by_point = [(kind.replace("_", " "), name, str(n), *map(str, bad), *map(seconds, times))
                for kind, name, n, bad, *times in rows_by_point(result)]
    frozen = [(name, str(n), str(fenced), *map(seconds, gaps))
              for name, n, fenced, *gaps in rows_of_freezes(result)]
    accounts = []
    for part in result["parts"]:
        for name, was in part["base"].items():
            now = part["end"].get(name, {})
            accounts.append((part["shape"], name,
                             *(str(x.get(k, "")) for k in ("fds", "threads", "rss_kib")
                               for x in (was, now))))
    wrong = [(p["shape"], v) for p in result["parts"] for v in p["verdicts"]]
    found = [("Kills, cut links, damage", POINT_HEAD, by_point),
             ("Freezes", FREEZE_HEAD, frozen),
             ("Before the first and after the last request", ACCOUNT_HEAD, accounts)]
    if wrong:
        found.insert(0, ("What is wrong", ("part", "what"), wrong))
    return found


NOTE = ("A worker is back when it has joined again. The client gap of a fault is the longest silence "
        "of any stream across it, waiting for a turn in the batch included.")


def origin(result):
    return [f"{s['machine']}; {s['date']}; commit {s['commit']} ({s['binary']})"
            for s in result["sources"]]


def text_page(result):
    out = [f"# Chaos: {result['tier']} tier", ""]
    out += [*origin(result), "", f"Command: `tests/chaos/chaos.py --tier {result['tier']} "
            f"--seed {result['seed']}` (slices {', '.join(result['slices'])})", ""]
    out += [f"* {name}: {value}" for name, value in headline(result)]
    for title, head, rows in tables(result):
        out += ["", f"## {title}", "", "| " + " | ".join(head) + " |",
                "|" + "---|" * len(head)]
        out += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*out, "", NOTE, ""])


STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --bad: #c22; --good: #184; }
@media (prefers-color-scheme: dark) { :root { --bad: #f77; --good: #6c8; } }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem;
       background: Canvas; color: CanvasText; }
h1 { font-size: 1.5rem; margin: 0 0 .2rem } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem }
.verdict { font-size: 1.2rem; font-weight: 600 } .good { color: var(--good) } .bad { color: var(--bad) }
.from, .note { opacity: .75; font-size: .9rem }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem } dt { opacity: .75 }
dd { margin: 0 } .wide { overflow-x: auto }
table { border-collapse: collapse; white-space: nowrap; font-variant-numeric: tabular-nums; font-size: .9rem }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: right }
th { text-align: right; font-weight: 600; background: var(--soft) }
td.word, th.word { text-align: left } td.nonzero { color: var(--bad); font-weight: 600 }
"""


def html_table(head, rows):
    words = {i for i in range(len(head)) if any(not is_number(row[i]) for row in rows)}
    bad = {i for i, name in enumerate(head) if name in KINDS}

    def cell(tag, i, text):
        kind = "word" if i in words else "nonzero" if tag == "td" and i in bad and text != "0" else ""
        attribute = f' class="{kind}"' if kind else ""
        return f"<{tag}{attribute}>{html.escape(text)}</{tag}>"
    lines = ["<tr>" + "".join(cell("th", i, h) for i, h in enumerate(head)) + "</tr>"]
    lines += ["<tr>" + "".join(cell("td", i, c) for i, c in enumerate(row)) + "</tr>"
              for row in rows]
    return '<div class="wide"><table>' + "\n".join(lines) + "</table></div>"


def is_number(text):
    return text == "" or text.replace(".", "", 1).isdigit()


def page(result):
    bad = any(part["verdicts"] for part in result["parts"])
    verdict = ('<p class="verdict bad">Something is wrong</p>' if bad else
               '<p class="verdict good">Nothing was lost</p>')
    out = ['<!doctype html><html lang="en"><meta charset="utf-8">',
           '<meta name="viewport" content="width=device-width, initial-scale=1">',
           f"<title>weir chaos: {html.escape(result['tier'])} tier</title><style>{STYLE}</style>",
           f"<h1>Chaos: {html.escape(result['tier'])} tier</h1>", verdict]
    out += [f'<p class="from">{html.escape(line)}</p>' for line in origin(result)]
    out += ["<dl>", *(f"<dt>{html.escape(a)}</dt><dd>{html.escape(b)}</dd>"
                      for a, b in headline(result)), "</dl>"]
    for title, head, rows in tables(result):
        out += [f"<h2>{html.escape(title)}</h2>", html_table(head, rows)]
    return "\n".join([*out, f'<p class="note">{NOTE}</p></html>', ""])


def write(folder, result):
    os.makedirs(folder, exist_ok=True)
    for name, text in (("chaos.json", json.dumps(result) + "\n"),
                       ("chaos.md", text_page(result)), ("chaos.html", page(result))):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
            f.write(text)
