"""deploy/: the image's recipe, compose's file, Kubernetes' manifests, the dashboard, the alerts.

They are held to each other and to the server: names of settings and metrics, ports, times. What
takes a program or a server is in tests/integration/test_containers.py and tests/e2e.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from realtime_core import SourceStats, __version__
from realtime_server.cluster.stats import ClusterStats
from realtime_server.config import ServerConfig, variables
from realtime_server.fanout.hub_stats import HubStats
from realtime_server.metrics import Metrics
from realtime_server.workers.stats import WorkerStats
from tests.dockerfile import Dockerfile
from tests.server_helpers import make_backlog
from tests.tokens import SECRET

DEPLOY = Path(__file__).parents[1] / "deploy"
DEFAULTS = ServerConfig(secure_channels=False)
SETTINGS = {name for one in variables() for name in (one.name, f"{one.name}_FILE")}
LONGEST_STOP = DEFAULTS.drain_timeout / 1000 + 7
"""Seconds; docs/howto/run-the-server.md says so."""


def load(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def dockerfile() -> Dockerfile:
    return Dockerfile((DEPLOY / "Dockerfile").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def server() -> Any:
    """The server of compose.yaml."""
    return load("compose.yaml")["services"]["server"]


@pytest.fixture(scope="module")
def manifests() -> dict[str, Any]:
    """Each kind comes once."""
    texts = [
        (DEPLOY / name).read_text(encoding="utf-8")
        for name in ("kubernetes.yaml", "kubernetes-ingress.yaml")
    ]
    return {one["kind"]: one for text in texts for one in yaml.safe_load_all(text)}


# The image.


def test_the_image_runs_the_server_itself_and_not_as_root(dockerfile: Dockerfile) -> None:
    last = dockerfile.stages[-1]
    assert json.loads(last["ENTRYPOINT"]) == ["realtime-server"]
    user, _, group = last["USER"].partition(":")
    assert (int(user), int(group)) > (0, 0)
    assert "CMD" not in last
    assert last["EXPOSE"] == str(DEFAULTS.port)


def test_both_stages_have_the_same_python_as_the_environment_links_to_it(
    dockerfile: Dockerfile,
) -> None:
    first, last = (stage["FROM"] for stage in dockerfile.stages)
    assert first == f"{last} AS build"


def test_the_image_is_built_of_what_the_wheel_needs() -> None:
    rules = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert rules[1] == "*"
    kept = [rule[1:] for rule in rules if rule.startswith("!")]
    assert all((DEPLOY.parent / name).exists() for name in kept)
    assert {"pyproject.toml", "README.md", "realtime_core", "realtime_server"} <= {*kept}


# compose.yaml.


def test_compose_sets_what_the_server_knows(server: Any) -> None:
    assert set(server["environment"]) <= SETTINGS
    context = (DEPLOY / server["build"]["context"]).resolve()
    assert (context / server["build"]["dockerfile"]).samefile(DEPLOY / "Dockerfile")


def test_compose_publishes_the_servers_port_on_this_machine_alone(server: Any) -> None:
    assert server["ports"] == [f"127.0.0.1:{DEFAULTS.port}:{DEFAULTS.port}"]


def test_the_container_is_confined(server: Any) -> None:
    assert server["read_only"] is True
    assert server["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in server["security_opt"]


def test_the_server_of_compose_has_a_password_of_its_own(server: Any) -> None:
    database = load("compose.yaml")["services"]["database"]
    superusers = Path(database["environment"]["POSTGRES_PASSWORD_FILE"]).name
    assert superusers not in server["secrets"]
    assert server["environment"]["DB_PASSWORD_FILE"] == database["environment"]["DB_PASSWORD_FILE"]
    assert server["environment"]["DB_USER"] != database["environment"]["POSTGRES_USER"]


def test_the_documentation_makes_each_secret_of_compose() -> None:
    page = (DEPLOY.parent / "docs" / "howto" / "containers.md").read_text(encoding="utf-8")
    [names] = re.findall(r"^for name in ([\w ]+); do$", page, re.MULTILINE)
    files = {Path(secret["file"]).name for secret in load("compose.yaml")["secrets"].values()}
    assert set(names.split()) == files


def test_secrets_are_files_that_are_there() -> None:
    compose = load("compose.yaml")
    for service in compose["services"].values():
        for name, value in service["environment"].items():
            assert name.endswith("_FILE") == str(value).startswith("/run/secrets/")
            if name.endswith("_FILE"):
                assert Path(value).name in service["secrets"]
                assert Path(value).name in compose["secrets"]


def test_nobody_is_killed_while_draining(server: Any, manifests: dict[str, Any]) -> None:
    assert float(server["stop_grace_period"].removesuffix("s")) > LONGEST_STOP
    pod = manifests["Deployment"]["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > LONGEST_STOP
    unit = (DEPLOY / "realtime.service").read_text(encoding="utf-8")
    [stop] = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert float(stop) > LONGEST_STOP


# Several servers.


def test_the_cluster_of_compose_has_the_same_database_and_server() -> None:
    cluster, alone = load("cluster/compose.yaml"), load("compose.yaml")
    for key in ("image", "command", "environment", "secrets", "healthcheck"):
        assert cluster["services"]["database"][key] == alone["services"]["database"][key]
    one, two = (cluster["services"][name] for name in ("server-1", "server-2"))
    assert one == two
    same = alone["services"]["server"]["environment"]
    assert one["environment"].items() >= same.items()
    assert set(one["environment"]) <= SETTINGS
    for key in ("read_only", "cap_drop", "security_opt", "stop_grace_period"):
        assert one[key] == alone["services"]["server"][key]
    context = (DEPLOY / "cluster" / one["build"]["context"]).resolve()
    assert (context / one["build"]["dockerfile"]).samefile(DEPLOY / "Dockerfile")


def test_the_cluster_of_compose_has_its_secrets_from_the_page() -> None:
    cluster = load("cluster/compose.yaml")
    page = (DEPLOY.parent / "docs" / "howto" / "several-servers.md").read_text(encoding="utf-8")
    [names] = re.findall(r"^for name in ([\w ]+); do$", page, re.MULTILINE)
    assert set(names.split()) == set(cluster["secrets"])
    for service in cluster["services"].values():
        files = re.findall(r"/run/secrets/(\w+)", json.dumps(service))
        assert set(files) == set(service.get("secrets", ()))
    # The ports of NATS and the database are not open to others.
    published = [name for name, service in cluster["services"].items() if "ports" in service]
    assert published == ["balancer"]
    port = DEFAULTS.port
    assert cluster["services"]["balancer"]["ports"] == [f"127.0.0.1:{port}:{port}"]


def test_the_cluster_of_compose_permits_what_the_page_does() -> None:
    page = (DEPLOY.parent / "docs" / "howto" / "several-servers.md").read_text(encoding="utf-8")
    config = (DEPLOY / "cluster" / "nats.conf").read_text(encoding="utf-8")
    [documented] = re.findall(r"permissions \{.*?\n      \}", page, re.DOTALL)
    assert documented in config


# Kubernetes.


def test_the_pods_settings_are_the_servers(manifests: dict[str, Any]) -> None:
    container = only_container(manifests)
    names = {*manifests["ConfigMap"]["data"], *(one["name"] for one in container["env"])}
    assert names <= SETTINGS
    assert all(isinstance(value, str) for value in manifests["ConfigMap"]["data"].values())
    # A standby is one by its slot's name.
    assert "SLOT_NAME" in names
    assert manifests["Deployment"]["spec"]["replicas"] == 2


def test_the_pods_secrets_are_where_the_settings_say(manifests: dict[str, Any]) -> None:
    container = only_container(manifests)
    mounts = {one["mountPath"]: one["name"] for one in container["volumeMounts"]}
    volumes = {
        one["name"]: one for one in manifests["Deployment"]["spec"]["template"]["spec"]["volumes"]
    }
    assert set(mounts.values()) == set(volumes)
    env = {one["name"]: one["value"] for one in container["env"]}
    assert env.keys() == {"DB_PASSWORD_FILE", "JWT_SECRET_FILE"}
    for file in env.values():
        assert "secret" in volumes[mounts[str(Path(file).parent)]]
    # No secret is a setting that kubectl describe shows.
    settings = manifests["ConfigMap"]["data"]
    assert settings.keys() & {one.name for one in variables() if one.secret} == set()


def test_the_pods_check_the_databases_certificate(manifests: dict[str, Any]) -> None:
    settings = manifests["ConfigMap"]["data"]
    assert settings["DB_SSL"] == "verify-full"
    container = only_container(manifests)
    mounts = {one["mountPath"]: one["name"] for one in container["volumeMounts"]}
    authority = Path(settings["DB_SSL_ROOT_CERT"])
    volumes = manifests["Deployment"]["spec"]["template"]["spec"]["volumes"]
    [volume] = [one for one in volumes if one["name"] == mounts[str(authority.parent)]]
    assert volume["configMap"] == {"name": "realtime-database-ca"}


def test_the_pods_settings_are_accepted(manifests: dict[str, Any], tmp_path: Path) -> None:
    """As the container finds them, with the files of its volumes."""
    (tmp_path / "db_password").write_text("secret\n")
    (tmp_path / "jwt_secret").write_text(f"{SECRET}\n")
    (tmp_path / "ca.crt").touch()
    container = only_container(manifests)
    env = {one["name"]: one["value"] for one in container["env"]}
    environ = {
        name: str(tmp_path / Path(value).name) if value.startswith("/run/") else value
        for name, value in (manifests["ConfigMap"]["data"] | env).items()
    }
    config = ServerConfig.from_env(environ)
    assert config.slot_name is not None
    assert config.port == DEFAULTS.port


KUBERNETES = (DEPLOY.parent / "docs" / "howto" / "kubernetes.md").read_text(encoding="utf-8")


def test_the_image_is_named_by_the_version(manifests: dict[str, Any]) -> None:
    image = only_container(manifests)["image"]
    assert image.partition(":")[2] == __version__
    assert set(re.findall(r"registry\.example\.com/[\w:.]+\w", KUBERNETES)) == {image}
    texts = [file.read_text("utf-8") for file in DEPLOY.rglob("*") if file.is_file()]
    assert not any(":latest" in text for text in texts)


def test_the_commands_of_the_page_make_what_the_pods_mount(manifests: dict[str, Any]) -> None:
    volumes = manifests["Deployment"]["spec"]["template"]["spec"]["volumes"]
    secrets = {one["secret"]["secretName"] for one in volumes if "secret" in one}
    configs = {one["configMap"]["name"] for one in volumes if "configMap" in one}
    assert {*re.findall(r"create secret generic (\S+)", KUBERNETES)} == secrets
    assert {*re.findall(r"create configmap (\S+)", KUBERNETES)} == configs
    files = set(re.findall(r"--from-file=(\S+)", KUBERNETES))
    container = only_container(manifests)
    paths = [one["value"] for one in container["env"] if one["name"].endswith("_FILE")]
    paths.append(manifests["ConfigMap"]["data"]["DB_SSL_ROOT_CERT"])
    assert files == {Path(path).name for path in paths}


def test_the_probes_ask_what_the_server_has(manifests: dict[str, Any]) -> None:
    container = only_container(manifests)
    [port] = container["ports"]
    assert port["containerPort"] == DEFAULTS.port
    asked = {name: container[name]["httpGet"] for name in ("livenessProbe", "readinessProbe")}
    assert asked == {
        "livenessProbe": {"path": "/health", "port": port["name"]},
        "readinessProbe": {"path": "/ready", "port": port["name"]},
    }
    [service_port] = manifests["Service"]["spec"]["ports"]
    assert service_port["targetPort"] == port["name"]


def test_all_manifests_are_about_the_same_pods(manifests: dict[str, Any]) -> None:
    labels = manifests["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert manifests["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert manifests["Service"]["spec"]["selector"] == labels
    assert manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels


def test_the_ingress_passes_on_what_stock_clients_call_and_nothing_else(
    manifests: dict[str, Any],
) -> None:
    spec = manifests["Ingress"]["spec"]
    [rule] = spec["rules"]
    [path] = rule["http"]["paths"]
    assert (path["path"], path["pathType"]) == ("/realtime/v1/websocket", "Exact")
    service = manifests["Service"]
    [port] = service["spec"]["ports"]
    assert path["backend"]["service"] == {
        "name": service["metadata"]["name"],
        "port": {"name": port["name"]},
    }
    [encrypted] = spec["tls"]
    assert encrypted["hosts"] == [rule["host"]]


def test_the_server_closes_idle_connections_before_the_ingress_does(
    manifests: dict[str, Any],
) -> None:
    annotations = manifests["Ingress"]["metadata"]["annotations"]
    times = {name: value for name, value in annotations.items() if name.endswith("-timeout")}
    assert len(times) == 4
    for value in times.values():
        assert float(value.removesuffix("s")) * 1000 > DEFAULTS.idle_timeout
    service = manifests["Service"]["metadata"]["name"]
    assert annotations["nginx.org/websocket-services"] == service


def test_a_new_version_does_not_wait_for_a_slot_that_the_old_one_holds(
    manifests: dict[str, Any],
) -> None:
    spec = manifests["Deployment"]["spec"]
    assert spec["strategy"]["rollingUpdate"]["maxUnavailable"] == spec["replicas"]


def test_the_pod_is_confined(manifests: dict[str, Any], dockerfile: Dockerfile) -> None:
    pod = manifests["Deployment"]["spec"]["template"]["spec"]["securityContext"]
    container = only_container(manifests)["securityContext"]
    assert pod["runAsNonRoot"] is True
    assert f"{pod['runAsUser']}:{pod['runAsGroup']}" == dockerfile.stages[-1]["USER"]
    assert container["readOnlyRootFilesystem"] is True
    # With these the namespace may be under the Pod Security Standard "restricted":
    # https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
    assert container["allowPrivilegeEscalation"] is False
    assert container["capabilities"] == {"drop": ["ALL"]}
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    spec = manifests["Deployment"]["spec"]["template"]["spec"]
    assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC", "initContainers"}
    kinds = {kind for one in spec["volumes"] for kind in one if kind != "name"}
    assert kinds <= {"configMap", "secret", "emptyDir", "projected", "persistentVolumeClaim"}
    assert spec["automountServiceAccountToken"] is False


def only_container(manifests: dict[str, Any]) -> Any:
    [container] = manifests["Deployment"]["spec"]["template"]["spec"]["containers"]
    return container


# Metrics.


def exposed_metrics() -> set[str]:
    """Return the names of the samples that the server's /metrics has."""
    metrics = Metrics(
        stats=SourceStats,
        hub=HubStats,
        backlog=make_backlog(),
        workers=WorkerStats,
        cluster=ClusterStats,
    )
    text = metrics.render().decode()
    types = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    names = set()
    for name, kind in types.items():
        suffixes = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        names |= {name + suffix for suffix in suffixes}
    return names


def metrics_in(expression: str) -> set[str]:
    return set(re.findall(r"\brealtime_\w+", expression))


def alerts() -> list[Any]:
    [group] = load("prometheus/alerts.yaml")["groups"]
    rules: list[Any] = group["rules"]
    return rules


def expressions_of_the_dashboard() -> Iterator[str]:
    dashboard = json.loads((DEPLOY / "grafana" / "realtime.json").read_text(encoding="utf-8"))
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield target["expr"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]["query"]


def test_the_alerts_ask_for_metrics_that_there_are() -> None:
    used = {name for rule in alerts() for name in metrics_in(rule["expr"])}
    assert used - exposed_metrics() == set()
    assert {"realtime_lag_bytes", "realtime_slow_clients_total", "realtime_gaps_total"} <= used
    assert all(metrics_in(rule["expr"]) for rule in alerts())


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    expressions = list(expressions_of_the_dashboard())
    assert all(metrics_in(expression) for expression in expressions)
    used = set().union(*map(metrics_in, expressions))
    assert used - exposed_metrics() == set()
    assert len(used) > 20


@pytest.fixture
def dashboard() -> Any:
    return json.loads((DEPLOY / "grafana" / "realtime.json").read_text(encoding="utf-8"))


def test_the_dashboards_panels_are_apart(dashboard: Any) -> None:
    cells = [
        (x, y)
        for place in (one["gridPos"] for one in dashboard["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    # Grafana's grid has 24 columns.
    assert max(x for x, _ in cells) < 24
    numbers = [one["id"] for one in dashboard["panels"]]
    assert len(set(numbers)) == len(numbers)


def test_the_dashboard_takes_its_source_and_its_job_from_whoever_looks(dashboard: Any) -> None:
    # One of Grafana's own: https://grafana.com/docs/grafana/latest/dashboards/variables/
    variables = {one["name"] for one in dashboard["templating"]["list"]} | {"__rate_interval"}
    assert {"datasource", "job"} <= variables
    asked = [panel["datasource"] for panel in dashboard["panels"]]
    for panel in dashboard["panels"]:
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)
        for target in panel["targets"]:
            asked.append(target["datasource"])
            assert set(re.findall(r"\$(\w+)", target["expr"])) <= variables
            assert target["expr"].count('{job=~"$job"}') == len(metrics_in(target["expr"]))
    asked += [one["datasource"] for one in dashboard["templating"]["list"] if one["name"] == "job"]
    assert all(one == {"type": "prometheus", "uid": "${datasource}"} for one in asked)


def test_a_metric_that_does_not_exist_would_be_found() -> None:
    assert metrics_in("rate(realtime_rows[5m]) > 0") - exposed_metrics() == {"realtime_rows"}
