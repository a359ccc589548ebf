"""deploy/ as the linters and schemas of others see it, and what they would find."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

DEPLOY = Path(__file__).parents[2] / "deploy"
MANIFESTS = ("kubernetes.yaml", "kubernetes-ingress.yaml")


def program(name: str) -> str:
    """Return one of the programs that the extra `dev` brings for this system."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def run(*command: str | Path) -> tuple[int, str]:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120
    )
    return done.returncode, done.stdout


def changed(name: str, old: str, new: str, folder: Path) -> Path:
    """Return a copy of a file with one thing changed."""
    text = (DEPLOY / name).read_text(encoding="utf-8")
    assert text.count(old) == 1
    copy = folder / name
    copy.write_text(text.replace(old, new), encoding="utf-8")
    return copy


def hadolint(file: Path) -> tuple[int, str]:
    return run(program("hadolint"), "--failure-threshold", "style", "--no-color", file)


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    assert hadolint(DEPLOY / "Dockerfile") == (0, "")


def test_hadolint_would_find_a_relative_folder(tmp_path: Path) -> None:
    code, output = hadolint(changed("Dockerfile", "WORKDIR /source", "WORKDIR source", tmp_path))
    assert code == 1
    assert "DL3000" in output


def compose_schema(file: Path) -> tuple[int, str]:
    return run(program("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", file)


@pytest.mark.parametrize("name", ["compose.yaml", "cluster/compose.yaml"])
def test_the_compose_files_fit_the_compose_specification(name: str) -> None:
    code, output = compose_schema(DEPLOY / name)
    assert code == 0, output


def test_the_schema_would_find_a_misspelt_key(tmp_path: Path) -> None:
    code, output = compose_schema(
        changed("compose.yaml", "    read_only: true", "    readonly: true", tmp_path)
    )
    assert code == 1
    assert "readonly" in output


def kubernetes_schemas(file: Path, *options: str) -> tuple[int, str]:
    return run(program("kubernetes-validate"), "--strict", *options, file)


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_manifests_fit_the_schemas_of_kubernetes(name: str) -> None:
    # The oldest version that the documentation names, and the newest that the package knows.
    for options in (("--kubernetes-version", "1.31"), ()):
        code, output = kubernetes_schemas(DEPLOY / name, *options)
        assert code == 0, output
        kinds = re.findall("^kind: ", (DEPLOY / name).read_text(encoding="utf-8"), re.MULTILINE)
        assert len(re.findall("passed for resource", output)) == len(kinds)


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("minAvailable: 1", "minimumAvailable: 1", "minimumAvailable"),
        ("livenessProbe:", "aliveProbe:", "aliveProbe"),
        ("httpGet: {path: /ready, port: http}", "httpGet: {url: /ready, port: http}", "url"),
        ("readOnlyRootFilesystem: true", "readonlyRootFilesystem: true", "readonlyRootFilesystem"),
        ("{drop: [ALL]}", "{drop: ALL}", "ALL"),
        ("automountServiceAccountToken: false", 'automountServiceAccountToken: "no"', "no"),
        ("configMap: {name: realtime-database-ca}", "configmap: {name: ca}", "configmap"),
        ('EXPOSE_METRICS: "true"', "EXPOSE_METRICS: true", "EXPOSE_METRICS"),
        ("terminationGracePeriodSeconds: 20", "terminationGracePeriodSeconds: 20s", "20s"),
    ],
)
def test_the_schemas_would_find_a_mistake(tmp_path: Path, old: str, new: str, found: str) -> None:
    code, output = kubernetes_schemas(changed("kubernetes.yaml", old, new, tmp_path))
    assert code == 1
    assert found in output


def test_the_schemas_would_find_a_mistake_in_the_ingress(tmp_path: Path) -> None:
    file = changed("kubernetes-ingress.yaml", "pathType: Exact", "pathType: 1", tmp_path)
    code, output = kubernetes_schemas(file)
    assert code == 1
    assert "pathType" in output
