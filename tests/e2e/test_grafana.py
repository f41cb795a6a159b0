#!/usr/bin/env python3
"""test_grafana.py -- the Grafana dashboard is well formed, and each of its queries names series and
labels that a running server has."""

import json
import os
import re

from weirtest import ROOT, Server, case, main, scratch, until

PATH = os.path.join(ROOT, "server", "deploy", "grafana", "weir.json")
FUNCTIONS = {"sum", "rate", "by", "histogram_quantile", "vector"}


def dashboard():
    with open(PATH, encoding="utf-8") as f:
        return json.load(f)


def queries():
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"], target["legendFormat"]


@case
def the_dashboard_is_what_grafana_imports():
    d = dashboard()
    assert d["title"] and d["uid"] and isinstance(d["schemaVersion"], int)
    variables = [v["name"] for v in d["templating"]["list"]]
    assert variables == ["datasource"]
    ids = [p["id"] for p in d["panels"]]
    assert len(set(ids)) == len(ids) > 0
    taken = set()
    for p in d["panels"]:
        assert p["type"] == "timeseries" and p["title"] and p["targets"], p["title"]
        assert p["datasource"]["uid"] == "${datasource}"
        assert len({t["refId"] for t in p["targets"]}) == len(p["targets"])
        g = p["gridPos"]
        assert 0 <= g["x"] and g["x"] + g["w"] <= 24, p["title"]
        cells = {(x, y) for x in range(g["x"], g["x"] + g["w"])
                 for y in range(g["y"], g["y"] + g["h"])}
        assert not cells & taken, f"{p['title']} lies on another"
        taken |= cells
        for target in p["targets"]:
            text = target["expr"]
            for a, b in ("()", "[]", "{}"):
                assert text.count(a) == text.count(b), text


@case
def every_query_names_series_and_labels_that_are_served():
    prices = scratch("prices")
    with open(prices, "w", encoding="ascii") as f:
        f.write("cpu = 0.04 0.5 20\n")
    with Server("--threads", "2", "--price-table", prices, "--local-prefill-max", "0") as server:
        answer = server.post("/v1/completions", {"prompt": "the water " * 40, "max_tokens": 8,
                                                 "ignore_eos": True})
        assert answer.status == 200
        until(lambda: server.metrics().sum("weir_kv_exposed_seconds_count") > 0, "numbers came")
        page = server.metrics()
    served = {}
    for name, labels, _ in page.samples:
        served.setdefault(name, []).append(labels)
    seen = 0
    for title, text, legend in queries():
        # Groupings may only name labels that the series beside them have.
        plain = re.sub(r"by \(([^)]*)\)", "", text)
        grouped = {g.strip() for m in re.findall(r"by \(([^)]*)\)", text) for g in m.split(",")}
        plain = re.sub(r"\[[^]]*\]", "", plain)
        named = re.findall(r"([a-zA-Z_:][\w:]*)(\{[^}]*\})?", re.sub(r"\b\d[\d.e]*", "", plain))
        names = [(n, m) for n, m in named if n not in FUNCTIONS]
        for name, matchers in names:
            assert name in served, f"{title}: {name} is not served"
            wanted = dict(re.findall(r'(\w+)="([^"]*)"', matchers))
            assert any(all(have.get(k) == v for k, v in wanted.items())
                       for have in served[name]), f"{title}: {name}{matchers} is not served"
            for label in grouped:
                assert any(label in have for have in served[name]), f"{title}: {name} has no {label}"
            seen += 1
        for label in re.findall(r"\{\{(\w+)\}\}", legend):
            assert label in grouped, f"{title}: the legend names {label}"
    assert seen >= 30, seen
    # The accounts: states add up to what was allocated.
    for pool in ("prefill", "decode"):
        parts = page.sum("weir_device_seconds_total", pool=pool)
        whole = page.sum("weir_device_allocated_seconds_total", pool=pool)
        assert abs(parts - whole) < 1e-5 and whole > 0, (parts, whole)
        assert page.sum("weir_device_seconds_total", pool=pool, state="busy") > 0
        assert page.sum("weir_model_flops_total", role=pool) > 0


if __name__ == "__main__":
    main()
