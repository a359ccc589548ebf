"""deploy/Dockerfile built and started, and deploy/realtime.service booted by systemd.

The machine that systemd boots is a container of the same image: the server is in /opt/realtime
there, where the unit looks for it.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

import realtime_core
from tests.e2e.podman import Container, Podman
from tests.fix_postgres import Database, Server
from tests.integration.conftest import fresh_database
from tests.proxy_process import free_port
from tests.server_helpers import PhoenixClient, open_client
from tests.tokens import SECRET, make_token
from tests.waiting import eventually_sync

pytestmark = [pytest.mark.e2e, pytest.mark.integration, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
# It needs the extra `regex`, which the image has.
TOPIC = "realtime:public:item:name=match.^A"
PUBLISH = "create publication supabase_realtime for table item"


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    podman = Podman(tmp_path_factory.mktemp("podman"))
    podman.skip_unless_it_works()
    yield podman
    podman.clean_up()


@pytest.fixture(scope="module")
def image(podman: Podman) -> str:
    return podman.build()


@pytest.fixture
def shop(one_pg: Server) -> Iterator[Database]:
    """A database without a publication: the server cannot attach to it yet."""
    with fresh_database(one_pg) as database:
        database.execute("create table item (id int8 primary key, name text)")
        yield database


def settings_of(database: Database, port: int) -> dict[str, str]:
    where = conninfo_to_dict(database.dsn)
    return {
        "DB_HOST": str(where["host"]),
        "DB_PORT": str(where["port"]),
        "DB_NAME": str(where["dbname"]),
        "DB_USER": str(where["user"]),
        "DB_SSL": "false",
        "DB_RECONNECT_BACKOFF_MAX": "500",
        "SLOT_NAME": f"realtime_{database.name}",
        "PORT": str(port),
    }


def write_secrets(folder: Path, database: Database) -> None:
    folder.mkdir(mode=0o700)
    # The tests' own PostgreSQL asks for none, but no secret may be empty.
    password = str(conninfo_to_dict(database.dsn).get("password") or "any")
    for name, text in {"db_password": password, "jwt_secret": SECRET}.items():
        (folder / name).write_text(f"{text}\n")
        (folder / name).chmod(0o600)


async def gets_a_row_and_the_end(
    database: Database, port: int, stop: Callable[[], object]
) -> object:
    """See a row arrive, and the server say that it restarts; return what `stop` returns."""
    async with open_client(port, query=f"vsn=1.0.0&apikey={make_token()}") as client:
        await client.join(TOPIC)
        await see_a_row(database, client)
        stopping = asyncio.create_task(asyncio.to_thread(stop))
        assert await client.closed() == (1012, "the server restarts")
        return await stopping


async def see_a_row(database: Database, client: PhoenixClient) -> None:
    database.execute("insert into item values (1, 'Bread'), (2, 'Ale')")
    assert (await client.receive())["payload"]["record"] == {"id": "2", "name": "Ale"}


# The image.


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def container(
    podman: Podman, image: str, shop: Database, port: int, tmp_path: Path
) -> Iterator[Container]:
    """The server on the database, confined as in compose.yaml."""
    secrets = tmp_path / "secrets"
    write_secrets(secrets, shop)
    # As the documentation has it: the users in containers have to read them.
    secrets.chmod(0o755)
    for file in secrets.iterdir():
        file.chmod(0o644)
    environment = settings_of(shop, port) | {
        "DB_PASSWORD_FILE": "/run/secrets/db_password",
        "JWT_SECRET_FILE": "/run/secrets/jwt_secret",
    }
    with podman.running(
        *("--read-only", "--read-only-tmpfs=false", "--cap-drop", "ALL"),
        *("--security-opt", "no-new-privileges", "--volume", f"{secrets}:/run/secrets:ro"),
        *(f"--env={name}={value}" for name, value in environment.items()),
        image,
    ) as container:
        yield container


async def test_the_image_is_healthy_when_it_reads_changes_and_drains_when_it_is_stopped(
    container: Container, shop: Database, port: int
) -> None:
    container.wait_for_log("trying again")
    assert not container.is_healthy()
    shop.execute(PUBLISH)
    eventually_sync(container.is_healthy)
    assert await gets_a_row_and_the_end(shop, port, container.stop) == 0


def test_the_container_is_not_root_and_can_write_nothing(container: Container) -> None:
    container.wait_for_log("listening on")
    # The server itself is process 1.
    assert "realtime-server" in container("cat", "/proc/1/cmdline")
    status = container("cat", "/proc/1/status")
    assert re.search(r"^Uid:\t65532\t65532\t65532\t65532$", status, re.MULTILINE)
    assert re.search(r"^Gid:\t65532\t65532\t65532\t65532$", status, re.MULTILINE)
    assert re.search(r"^CapEff:\t0+$", status, re.MULTILINE)
    for folder in ("/", "/opt/realtime", "/tmp", "/var/tmp"):
        assert "Read-only file system" in container.attempt("touch", f"{folder}/file").stderr


def test_what_comes_after_the_images_name_is_for_the_server(podman: Podman, image: str) -> None:
    assert podman.run(image, "--version") == f"realtime-core {realtime_core.__version__}"


# The unit, on a machine that systemd has booted.


@pytest.fixture
def machine(podman: Podman, image: str, shop: Database, tmp_path: Path) -> Iterator[Container]:
    folder = tmp_path / "realtime"
    write_secrets(folder, shop)
    # Credentials reach a service by a mount that has to get out of the one who makes it.
    boot = "mount --make-rshared / && exec /lib/systemd/systemd"
    with podman.running(
        *("--systemd", "always", "--user", "0", "--entrypoint", "sh"),
        # What a machine may: not the host's settings, as /proc/sys stays read-only.
        *("--cap-add", "ALL", "--security-opt", "seccomp=unconfined"),
        *("--volume", f"{ROOT / 'deploy'}:/clone/deploy:ro", "--volume", f"{folder}:/etc/realtime"),
        *(image, "-c", boot),
    ) as machine:
        # `degraded`, as there are no kernel modules to be loaded.
        eventually_sync(
            lambda: (
                machine.attempt("systemctl", "is-system-running").stdout.strip()
                in ("running", "degraded")
            )
        )
        yield machine


class Unit:
    """The service on the machine."""

    def __init__(self, machine: Container) -> None:
        self.machine = machine

    def __getitem__(self, name: str) -> str:
        """Return one of its properties."""
        return self.machine("systemctl", "show", "realtime", "--property", name, "--value")

    def settle(self, state: str) -> None:
        eventually_sync(lambda: self["ActiveState"] == state, within=60)

    def log(self) -> str:
        return self.machine("journalctl", "--unit", "realtime", "--output", "cat")

    def override(self, setting: str) -> None:
        """Change one setting, as `systemctl edit` does."""
        folder = "/etc/systemd/system/realtime.service.d"
        text = (
            f"mkdir -p {folder} && printf '[Service]\\n%s\\n' '{setting}' > {folder}/override.conf"
        )
        self.machine("sh", "-c", text)
        self.machine("systemctl", "daemon-reload")


@pytest.fixture
def unit(machine: Container, shop: Database, port: int) -> Unit:
    """The unit, installed as the documentation says, and enabled."""
    page = (ROOT / "docs" / "howto" / "systemd.md").read_text(encoding="utf-8")
    [commands] = re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    # The server is there already, and so are the secrets.
    done = re.compile(
        r"^.*(?:venv|bin/pip install|/etc/realtime/(?:db_password|jwt_secret)).*\n", re.M
    )
    commands = done.sub("", commands)
    lines = "".join(f"{name}={value}\n" for name, value in settings_of(shop, port).items())
    commands = re.sub(r"(?<=<<'END'\n).*?(?=^END$)", lines, commands, flags=re.M | re.S)
    machine("bash", "-ec", f"cd /clone\n{commands}")
    return Unit(machine)


async def test_systemd_starts_the_unit_when_changes_are_read_and_lets_it_drain(
    unit: Unit, shop: Database, port: int
) -> None:
    eventually_sync(lambda: unit["StatusText"].startswith("Not ready: "))
    assert unit["ActiveState"] == "activating"
    shop.execute(PUBLISH)
    unit.settle("active")
    assert unit["StatusText"] == "Changes are being read"

    unit.machine("systemctl", "reload", "realtime")
    eventually_sync(lambda: "there is no file to read again" in unit.log())

    def stop() -> str:
        unit.machine("systemctl", "stop", "realtime")
        return unit["Result"]

    assert await gets_a_row_and_the_end(shop, port, stop) == "success"


def test_systemd_confines_the_server(unit: Unit, shop: Database) -> None:
    shop.execute(PUBLISH)
    unit.settle("active")
    number = unit["MainPID"]
    status = dict(
        re.findall(r"^(\w+):\t(.*)$", unit.machine("cat", f"/proc/{number}/status"), re.M)
    )
    # Users that DynamicUser= makes: https://systemd.io/UIDS-GIDS/
    assert 61184 <= int(status["Uid"].split()[0]) <= 65519
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")

    def touch(path: str) -> str:
        command = ("nsenter", "--target", number, "--mount", "touch", path)
        return unit.machine.attempt(*command).stderr

    for folder in ("/", "/etc", "/opt/realtime", "/usr", "/var/lib"):
        assert "Read-only file system" in touch(f"{folder}/file")
    assert touch("/var/lib/realtime/dead-letters.jsonl") == ""


def test_systemd_starts_the_server_again_when_it_is_killed_or_hangs(
    unit: Unit, shop: Database
) -> None:
    shop.execute(PUBLISH)
    unit.settle("active")

    def starts_again(signal: str, why: str) -> None:
        before, number = int(unit["NRestarts"]), unit["MainPID"]
        unit.machine("sh", "-c", f"kill -{signal} {number}")
        eventually_sync(lambda: int(unit["NRestarts"]) > before, within=60)
        assert why in unit.log()
        unit.settle("active")
        assert unit["MainPID"] != number

    starts_again("KILL", "status=9/KILL")
    # As the unit has it, but in less time than half a minute.
    assert unit["WatchdogUSec"] == "30s"
    unit.override("WatchdogSec=5")
    unit.machine("systemctl", "restart", "realtime")
    # It lives for longer than that, as it says so.
    started = time.monotonic()
    number = unit["MainPID"]
    eventually_sync(lambda: time.monotonic() - started > 6)
    assert unit["MainPID"] == number
    starts_again("STOP", "Watchdog timeout")


def test_systemd_hands_over_the_other_files_that_settings_name(
    unit: Unit, shop: Database, tmp_path: Path
) -> None:
    page = (ROOT / "docs" / "howto" / "systemd.md").read_text(encoding="utf-8")
    [text] = re.findall(r'^```ini title="override.conf"\n(.*?)^```$', page, re.M | re.S)
    # The tests' database has no TLS.
    lines = [line for line in text.splitlines()[1:] if "database_ca" not in line]
    lines.append("Environment=WEBHOOK_MAX_ATTEMPTS=1")
    # What the machine has as /etc/realtime.
    files = {
        "configuration.json": '{"webhooks": [{"config": {"endpoint": "http://127.0.0.1:9/"}}]}',
        "webhook_secret": "whsec_c2VjcmV0IG9mIHRoZSBleGFtcGxlLCBtYWtlIG9uZQ==",
    }
    for name, content in files.items():
        (tmp_path / "realtime" / name).write_text(content)
        (tmp_path / "realtime" / name).chmod(0o600)
    shop.execute(PUBLISH)
    unit.override("\n".join(lines))
    unit.machine("systemctl", "restart", "--no-block", "realtime")
    unit.settle("active")
    slot = f"realtime_{shop.name}_webhooks"
    active = "select 1 from pg_replication_slots where slot_name = %s and active"
    eventually_sync(lambda: shop.execute(active, (slot,)) != [])
    # Nobody listens there, so the request goes to the dead letters.
    shop.execute("insert into item values (1, 'Ale')")
    folder = "/var/lib/private/realtime"
    eventually_sync(lambda: "dead-letters.jsonl" in unit.machine("ls", folder))


def test_systemd_does_not_start_the_server_again_when_settings_cannot_work(unit: Unit) -> None:
    unit.override("Environment=DB_IP_VERSION=five")
    unit.machine("systemctl", "restart", "--no-block", "realtime")
    unit.settle("failed")
    assert (unit["ExecMainStatus"], unit["NRestarts"]) == ("2", "0")
    assert "DB_IP_VERSION" in unit.log()
