"""deploy/prometheus/alerts.yaml: Prometheus accepts the rules, and they fire when they should."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "alerts.yaml"


def promtool(*arguments: str | Path) -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed")
    done = subprocess.run(
        [program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout


def test_prometheus_finds_nothing_wrong() -> None:
    promtool("check", "rules", "--lint-fatal", RULES)


def of(metric: str, values: str, instance: str = "a", **labels: str) -> dict[str, str]:
    """Return a series, a value for each minute."""
    named = {"job": "shop", "instance": instance, **labels}
    inside = ",".join(f'{name}="{value}"' for name, value in named.items())
    return {"series": f"{metric}{{{inside}}}", "values": values}


PAIR = [of("realtime_stream_connected", "1x20"), of("realtime_stream_connected", "0x20", "b")]
NOBODY = [of("realtime_stream_connected", "0x20"), of("realtime_stream_connected", "0x20", "b")]


@pytest.mark.parametrize(
    ("alert", "series", "fires"),
    [
        ("RealtimeNotReading", PAIR, 0),
        ("RealtimeNotReading", NOBODY, 1),
        ("RealtimeNoStandby", PAIR, 0),
        ("RealtimeNoStandby", PAIR[:1], 1),
        ("RealtimeLag", [*PAIR, of("realtime_lag_bytes", "2e8x20")], 1),
        ("RealtimeLag", [*PAIR, of("realtime_lag_bytes", "2e7x20")], 0),
        # A standby does not know, and its figure does not matter.
        ("RealtimeLag", [*PAIR, of("realtime_lag_bytes", "2e8x20", "b")], 0),
        ("RealtimeLate", [*PAIR, of("realtime_lag_seconds", "60x20")], 1),
        ("RealtimeGap", [of("realtime_gaps_total", "0x15 1x5")], 1),
        ("RealtimeGap", [of("realtime_gaps_total", "1x20")], 0),
        ("RealtimeSlowClients", [of("realtime_slow_clients_total", "0+20x20")], 1),
        ("RealtimeSlowClients", [of("realtime_slow_clients_total", "0+5x20")], 0),
        ("RealtimeLimits", [of("realtime_limits_total", "0+100x20", limit="joins")], 1),
        (
            "RealtimePolicies",
            [of("realtime_rls_errors_total", "0+1x20"), of("realtime_rls_timeouts_total", "0x20")],
            1,
        ),
        ("RealtimeWebhookDead", [of("realtime_webhook_dead_total", "0x15 1x5", endpoint="e")], 1),
        ("RealtimeWebhookWaiting", [of("realtime_webhook_oldest_seconds", "900x20")], 1),
    ],
)
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
