"""deploy/prometheus and deploy/grafana, as Prometheus reads them.

It accepts the rules, and they fire when they should. It can read each query of the dashboard, and
a server has the metrics that the query names.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from realtime_server.cluster.collector import ClusterCollector
from realtime_server.cluster.stats import ClusterStats
from tests.server_process import ServerProcess

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "alerts.yaml"
DASHBOARD = ROOT / "deploy" / "grafana" / "realtime.json"


def run_promtool(*arguments: str | Path) -> tuple[int, str]:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed")
    done = subprocess.run(
        [program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return done.returncode, done.stdout


def promtool(*arguments: str | Path) -> None:
    code, output = run_promtool(*arguments)
    assert code == 0, output


def test_prometheus_finds_nothing_wrong() -> None:
    promtool("check", "rules", "--lint-fatal", RULES)


def test_prometheus_takes_the_configuration_of_the_documentation(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "howto" / "monitoring.md").read_text(encoding="utf-8")
    [config] = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "prometheus.yml").write_text(config)
    shutil.copy(RULES, tmp_path)
    promtool("check", "config", tmp_path / "prometheus.yml")


def of(metric: str, values: str, instance: str = "a", **labels: str) -> dict[str, str]:
    """Return a series, a value for each minute."""
    named = {"job": "shop", "instance": instance, **labels}
    inside = ",".join(f'{name}="{value}"' for name, value in named.items())
    return {"series": f"{metric}{{{inside}}}", "values": values}


PAIR = [of("realtime_stream_connected", "1x20"), of("realtime_stream_connected", "0x20", "b")]
NOBODY = [of("realtime_stream_connected", "0x20"), of("realtime_stream_connected", "0x20", "b")]


LATE = "_x10 1x9"
"""A counter of a server that started ten minutes ago, and counted before it was asked first."""
OLD = "1x20"
"""One that has not counted anything lately."""
WEBHOOK = of("realtime_webhook_waiting_bytes", "0x20", endpoint="e")


def webhooks(*connected: str) -> list[dict[str, str]]:
    """Return the series of the servers of a job that has a webhook."""
    name = "realtime_webhook_stream_connected"
    return [
        WEBHOOK,
        *(of(name, values, instance) for instance, values in zip("ab", connected, strict=False)),
    ]


def leading(one: str, other: str) -> list[dict[str, str]]:
    """Return whether each of the two servers that share a log reads the database."""
    name = "realtime_cluster_leading"
    return [of(name, one), of(name, other, "b")]


def heard(one: str, other: str) -> list[dict[str, str]]:
    """Return how many servers each of the two hears of."""
    name = "realtime_cluster_nodes"
    return [of(name, one), of(name, other, "b")]


def appends(seconds: str, count: str) -> list[dict[str, str]]:
    return [
        of("realtime_log_append_seconds_total", seconds),
        of("realtime_log_appends_total", count),
    ]


def asked(answer: str, count: str) -> dict[str, str]:
    """Return how often policies of private channels gave an answer."""
    return of("realtime_policy_checks_total", count, answer=answer)


CASES = [
    ("RealtimeNotReading", PAIR, 0),
    ("RealtimeNotReading", NOBODY, 1),
    ("RealtimeNoStandby", PAIR, 0),
    ("RealtimeNoStandby", PAIR[:1], 1),
    ("RealtimeLag", [*PAIR, of("realtime_lag_bytes", "2e8x20")], 1),
    ("RealtimeLag", [*PAIR, of("realtime_lag_bytes", "2e7x20")], 0),
    # A standby does not know, and its figure does not matter.
    ("RealtimeLag", [*PAIR, of("realtime_lag_bytes", "2e8x20", "b")], 0),
    ("RealtimeLate", [*PAIR, of("realtime_lag_seconds", "60x20")], 1),
    ("RealtimeLate", [*PAIR, of("realtime_lag_seconds", "10x20")], 0),
    ("RealtimeGap", [of("realtime_gaps_total", "0x15 1x5")], 1),
    ("RealtimeGap", [of("realtime_gaps_total", LATE)], 1),
    ("RealtimeGap", [of("realtime_gaps_total", OLD)], 0),
    ("RealtimeGap", [of("realtime_gaps_total", "_x10 0x9")], 0),
    ("RealtimeSlowClients", [of("realtime_slow_clients_total", "0+20x20")], 1),
    ("RealtimeSlowClients", [of("realtime_slow_clients_total", "0+5x20")], 0),
    ("RealtimeWorkerRestarts", [of("realtime_worker_restarts_total", "0x15 1x5")], 1),
    ("RealtimeWorkerRestarts", [of("realtime_worker_restarts_total", OLD)], 0),
    ("RealtimeLimits", [of("realtime_limits_total", "0+100x20", limit="joins")], 1),
    ("RealtimeLimits", [of("realtime_limits_total", "0+50x20", limit="joins")], 0),
    (
        "RealtimePolicies",
        [of("realtime_rls_errors_total", "0+1x20"), of("realtime_rls_timeouts_total", "0x20")],
        1,
    ),
    (
        "RealtimePolicies",
        [of("realtime_rls_errors_total", OLD), of("realtime_rls_timeouts_total", "0x20")],
        0,
    ),
    ("RealtimePrivateChannels", [asked("unable_to_set_policies", "0+1x20")], 1),
    ("RealtimePrivateChannels", [asked("query_canceled", LATE)], 1),
    ("RealtimePrivateChannels", [asked("query_canceled", OLD)], 0),
    ("RealtimePrivateChannels", [asked("denied", "0+1x20"), asked("granted", LATE)], 0),
    ("RealtimeRoomsLose", [of("realtime_bus_lost_total", "0x15 1x5")], 1),
    ("RealtimeRoomsLose", [of("realtime_bus_lost_total", OLD)], 0),
    ("RealtimeNoLeader", leading("1x20", "0x20"), 0),
    ("RealtimeNoLeader", leading("0x20", "0x20"), 1),
    # The other one has it within a minute.
    ("RealtimeNoLeader", leading("1x18 0x2", "0x19 1x2"), 0),
    ("RealtimeNoLeader", PAIR, 0),
    ("RealtimeServerApart", heard("2x20", "2x20"), 0),
    ("RealtimeServerApart", heard("2x20", "0x20"), 1),
    ("RealtimeServerApart", heard("1x20", "1x20"), 2),
    ("RealtimeLogHeldBack", [of("realtime_log_held_back_seconds_total", "0+40x20")], 1),
    ("RealtimeLogHeldBack", [of("realtime_log_held_back_seconds_total", "0+10x20")], 0),
    ("RealtimeLogSlow", appends("0+60x20", "0+60x20"), 1),
    ("RealtimeLogSlow", appends("0+1x20", "0+60x20"), 0),
    # Nothing was appended.
    ("RealtimeLogSlow", appends("7x20", "7x20"), 0),
    ("RealtimeWebhookDead", [of("realtime_webhook_dead_total", "0x15 1x5", endpoint="e")], 1),
    ("RealtimeWebhookDead", [of("realtime_webhook_dead_total", OLD, endpoint="e")], 0),
    ("RealtimeWebhookGone", [of("realtime_webhook_disabled", "0x15 1x5", endpoint="e")], 1),
    ("RealtimeWebhookGone", [of("realtime_webhook_disabled", "0x20", endpoint="e")], 0),
    ("RealtimeWebhookGap", [of("realtime_webhook_gaps_total", "0x15 1x5")], 1),
    ("RealtimeWebhookGap", [of("realtime_webhook_gaps_total", LATE)], 1),
    ("RealtimeWebhookGap", [of("realtime_webhook_gaps_total", OLD)], 0),
    ("RealtimeWebhookWaiting", [of("realtime_webhook_oldest_seconds", "900x20", endpoint="e")], 1),
    ("RealtimeWebhookWaiting", [of("realtime_webhook_oldest_seconds", "200x20", endpoint="e")], 0),
    ("RealtimeWebhooksNotReading", webhooks("0x20", "0x20"), 1),
    ("RealtimeWebhooksNotReading", webhooks("1x20", "0x20"), 0),
    # No webhooks at all.
    ("RealtimeWebhooksNotReading", webhooks("0x20", "0x20")[1:], 0),
    ("RealtimeWebhookLag", [*webhooks("1x20"), of("realtime_webhook_lag_bytes", "2e9x20")], 1),
    ("RealtimeWebhookLag", [*webhooks("1x20"), of("realtime_webhook_lag_bytes", "2e8x20")], 0),
    (
        "RealtimeWebhookLag",
        [*webhooks("1x20", "0x20"), of("realtime_webhook_lag_bytes", "2e9x20", "b")],
        0,
    ),
    ("RealtimeReplaySlotLost", [of("realtime_replay_slots_lost_total", "0x15 1x5")], 1),
    ("RealtimeReplaySlotLost", [of("realtime_replay_slots_lost_total", LATE)], 1),
    ("RealtimeReplaySlotLost", [of("realtime_replay_slots_lost_total", OLD)], 0),
]


def test_each_alert_has_series_on_which_it_fires_and_others_on_which_it_must_not() -> None:
    alerts = re.findall(r"^ +- alert: (\w+)$", RULES.read_text(encoding="utf-8"), re.MULTILINE)
    for outcome in (False, True):
        assert {alert for alert, _, fires in CASES if bool(fires) is outcome} == {*alerts}


def test_each_alert_is_in_the_documentation() -> None:
    page = (ROOT / "docs" / "howto" / "monitoring.md").read_text(encoding="utf-8")
    assert {*re.findall(r"^\| `(Realtime\w+)` \|", page, re.MULTILINE)} == {
        alert for alert, _, _ in CASES
    }


@pytest.mark.parametrize(("alert", "series", "fires"), CASES)
def test_an_alert_fires_when_it_should(
    tmp_path: Path, alert: str, series: list[dict[str, str]], fires: int
) -> None:
    # Whatever its labels and texts are: how many there are is asked of the series of alerts.
    asked = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) or vector(0)'
    test: dict[str, Any] = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": series,
                "promql_expr_test": [
                    {
                        "expr": asked,
                        "eval_time": "19m",
                        "exp_samples": [{"labels": "{}", "value": fires}],
                    }
                ],
            }
        ],
    }
    file = tmp_path / "test.yaml"
    # YAML is a superset of JSON.
    file.write_text(json.dumps(test), encoding="utf-8")
    promtool("test", "rules", file)


# The dashboard.


class Query:
    """A query of the dashboard, with Grafana's variables as Prometheus gets them."""

    def __init__(self, expression: str, legend: str) -> None:
        self.expression = expression.replace("$__rate_interval", "5m").replace("$job", "shop")
        self.metrics = set(re.findall(r"\brealtime_\w+", expression))
        grouped = ",".join(re.findall(r"\bby \(([^)]*)\)", expression))
        self.grouped = set(re.findall(r"\w+", grouped))
        self.shown = set(re.findall(r"{{\s*(\w+)\s*}}", legend))


@pytest.fixture
def queries() -> list[Query]:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return [
        Query(target["expr"], target["legendFormat"])
        for panel in dashboard["panels"]
        for target in panel["targets"]
    ]


def check_expressions(expressions: Iterable[str], folder: Path) -> tuple[int, str]:
    """Have Prometheus read them, each as a rule that records it."""
    rules = [{"record": f"query:{n}", "expr": text} for n, text in enumerate(expressions)]
    file = folder / "rules.yaml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    return run_promtool("check", "rules", file)


def test_prometheus_can_read_every_query_of_the_dashboard(
    queries: list[Query], tmp_path: Path
) -> None:
    expressions = [query.expression for query in queries]
    assert not any("$" in expression for expression in expressions)
    code, output = check_expressions(expressions, tmp_path)
    assert code == 0, output
    assert f"{len(queries)} rules found" in output


def test_a_query_that_prometheus_cannot_read_would_be_found(tmp_path: Path) -> None:
    code, output = check_expressions(["sum by (le (rate(realtime_rows_total[5m]))"], tmp_path)
    assert code != 0
    assert "could not parse expression" in output


@pytest.fixture(scope="module")
def scraped() -> Iterator[str]:
    """What Prometheus gets from a server with several workers, which has all metrics."""
    nowhere = "host=127.0.0.1 port=1 dbname=none user=nobody"
    with (
        ServerProcess(nowhere, patience=90, EXPOSE_METRICS="true", WORKERS="2") as server,
        urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=30) as answer,
    ):
        yield answer.read().decode()


def test_a_server_has_the_metrics_that_the_dashboard_and_the_alerts_name(
    queries: list[Query], scraped: str
) -> None:
    kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)$", scraped, re.MULTILINE))
    there = {
        name + suffix
        for name, kind in kinds.items()
        for suffix in (("_bucket", "_sum", "_count") if kind == "histogram" else ("",))
    }
    assert all(query.metrics for query in queries)
    # Of the log that several servers share, which takes NATS, the names alone are compared.
    kinds_of_log = {one.name: one.type for one in ClusterCollector(ClusterStats).collect()}
    there |= {f"{name}_total" if kind == "counter" else name for name, kind in kinds_of_log.items()}
    assert set[str]().union(*(query.metrics for query in queries)) <= there
    assert set(re.findall(r"\brealtime_\w+", RULES.read_text(encoding="utf-8"))) <= there


def test_every_label_that_the_dashboard_names_is_one_of_the_metrics(queries: list[Query]) -> None:
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")
    labels = {
        name: set(re.findall(r"`(\w+)`", text))
        for name, text in re.findall(r"^\| `(\w+)` \| \w+ \|([^|]*)\|", page, re.MULTILINE)
    }
    for query in queries:
        [metric] = query.metrics
        given = labels[metric.removesuffix("_bucket")] | {"job", "instance"}
        assert query.grouped <= given
        assert query.shown <= (query.grouped or given)
