"""``configs/demo``: files, dependencies, commands and addresses in the compose file exist and fit together."""

import http.client
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from exporter.cli.main import main
from exporter.config import load_config
from exporter.config.units import parse_duration
from tests.support.paths import REPOSITORY
from tests.support.programs import run_program

DEMO = REPOSITORY / "configs" / "demo"
COMPOSE: Mapping[str, Any] = yaml.safe_load((DEMO / "compose.yaml").read_text("utf-8"))
SERVICES: Mapping[str, Mapping[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}


def document(name: str) -> Any:
    return yaml.safe_load((DEMO / name).read_text("utf-8"))


def each_service() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", list(SERVICES))


@each_service()
def test_images_are_pinned(name: str) -> None:
    service = SERVICES[name]
    if "build" in service:
        assert (DEMO / service["build"]).resolve() == REPOSITORY
    else:
        assert re.fullmatch(r"[a-z./-]+:v?\d+\.\d+\.\d+(-slim)?", service["image"])


@each_service()
def test_mounted_files_exist(name: str) -> None:
    for volume in SERVICES[name].get("volumes", ()):
        source, target, *mode = volume.split(":")
        assert target.startswith("/")
        if source.startswith("."):
            assert (DEMO / source).exists(), source
            assert mode == ["ro"], "nothing of the repository is to be written"
        else:
            assert source in COMPOSE["volumes"]


def test_every_volume_is_used() -> None:
    used = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", ())}
    assert set(COMPOSE["volumes"]) <= used


@each_service()
def test_dependencies_have_a_health_check_or_finish(name: str) -> None:
    for other, wanted in SERVICES[name].get("depends_on", {}).items():
        service = SERVICES[other]
        if wanted["condition"] == "service_healthy":
            assert "healthcheck" in service
        else:
            assert wanted["condition"] == "service_completed_successfully"
            assert "restart" not in service, "it would never be completed"


def test_dependencies_have_no_cycle() -> None:
    waiting = {name: set(service.get("depends_on", {})) for name, service in SERVICES.items()}
    while done := [name for name, others in waiting.items() if not others]:
        waiting = {name: others - set(done) for name, others in waiting.items() if name not in done}
    assert not waiting


@each_service()
def test_ports_are_published_on_loopback_only(name: str) -> None:
    for port in SERVICES[name].get("ports", ()):
        assert re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port)


@pytest.mark.parametrize("name", list(OURS))
def test_commands_and_options_exist(name: str) -> None:
    """Parse the commands as the program would, without running them."""
    arguments = list(OURS[name]["command"])
    if arguments[0].startswith("-"):
        assert main.make_context("tempo-anomaly-exporter", arguments).params["config_file"]
        return
    called, chosen, rest = main.resolve_command(click.Context(main), arguments)
    assert chosen is not None
    assert chosen.make_context(called, rest).params


@each_service()
def test_addresses_name_services_and_their_ports(name: str) -> None:
    texts = [str(each) for each in SERVICES[name].get("command", ())]
    for host, port in re.findall(r"http://([a-z]+):(\d+)", " ".join(texts)):
        assert any(published.endswith(f":{port}") for published in SERVICES[host]["ports"])


def test_the_exporter_reads_this_tempo_into_its_volume() -> None:
    image = (REPOSITORY / "Dockerfile").read_text("utf-8")
    (path,) = re.findall(r"STORAGE_PATH=(\S+)", image)
    config = load_config(DEMO / "exporter.yaml", {"STORAGE_PATH": path})
    assert config.tempo.url == "http://tempo:3200"
    for name in ("exporter", "past"):
        assert f"exporter-data:{config.storage.path.parent}" in SERVICES[name]["volumes"]
    assert config.web.port == 9817


def test_history_is_written_where_promtool_reads_it() -> None:
    image = (REPOSITORY / "Dockerfile").read_text("utf-8")
    (group,) = re.findall(r"^USER \d+:(\d+)$", image, re.MULTILINE)
    assert SERVICES["blocks"]["group_add"] == [group]
    (output,) = (argument for argument in SERVICES["past"]["command"] if argument.startswith("--output="))
    assert f"/exporter/{Path(output).name} /prometheus" in SERVICES["blocks"]["command"][0]


@pytest.mark.parametrize("name", list(OURS))
def test_services_that_serve_nothing_have_no_health_check(name: str) -> None:
    if "ports" not in OURS[name]:
        assert OURS[name]["healthcheck"] == {"disable": True}


def test_history_has_the_labels_of_the_scrape_job() -> None:
    (job,) = document("prometheus.yml")["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    assert job["job_name"] == "tempo-anomaly-exporter"
    assert f"--label=instance={target}" in SERVICES["past"]["command"]


def test_prometheus_configuration_differs_from_the_shipped_one_in_addresses_only(tmp_path: Path) -> None:
    shipped = yaml.safe_load((REPOSITORY / "configs/prometheus/prometheus.yml").read_text("utf-8"))
    demo = document("prometheus.yml")
    for configuration in (shipped, demo):
        for section in (*configuration["alerting"]["alertmanagers"], *configuration["scrape_configs"]):
            section["static_configs"] = []
    assert demo == shipped
    shutil.copytree(REPOSITORY / "configs/prometheus/rules", tmp_path / "rules")
    shutil.copy(DEMO / "prometheus.yml", tmp_path)
    done = run_program("promtool", "check", "config", "prometheus.yml", directory=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "0 rule files found" not in done.stdout


def test_tempo_accepts_spans_as_old_as_generate_sends() -> None:
    tempo = document("tempo.yaml")
    slacks = [
        tempo["storage"]["trace"]["wal"]["ingestion_time_range_slack"],
        tempo["live_store"]["wal"]["ingestion_time_range_slack"],
        tempo["block_builder"]["wal"]["ingestion_time_range_slack"],
    ]
    # The scenario has eight days, the most that generate sends.
    assert all(parse_duration(slack).days >= 9 for slack in slacks)
    assert tempo["usage_report"] == {"reporting_enabled": False}


def test_grafana_finds_dashboards_and_data_sources() -> None:
    grafana = SERVICES["grafana"]
    mounts = dict(volume.split(":")[1::-1] for volume in grafana["volumes"])
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (DEMO / mounts[str(home.parent)] / home.name).exists()
    provisioning = "/etc/grafana/provisioning"
    # Prometheus evaluates the alert rules.
    assert {mount for mount in mounts if mount.startswith(provisioning)} == {
        f"{provisioning}/{kind}" for kind in ("dashboards", "datasources")
    }
    (source,) = (DEMO / mounts[f"{provisioning}/datasources"]).glob("*.yaml")
    for each in yaml.safe_load(source.read_text("utf-8"))["datasources"]:
        host, port = re.fullmatch(r"http://([a-z]+):(\d+)", each["url"]).groups()  # type: ignore[union-attr]
        assert any(published.endswith(f":{port}") for published in SERVICES[host]["ports"])
    (provider,) = (DEMO / mounts[f"{provisioning}/dashboards"]).glob("*.yaml")
    assert yaml.safe_load(provider.read_text("utf-8"))["providers"][0]["options"]["path"] in mounts


def test_webhook_listens_where_alertmanager_sends() -> None:
    shipped = yaml.safe_load((REPOSITORY / "configs/alertmanager/alertmanager.yml").read_text("utf-8"))
    urls = {hook["url"] for receiver in shipped["receivers"] for hook in receiver.get("webhook_configs", ())}
    assert {re.sub(r"/[a-z-]+$", "", url) for url in urls} == {"http://127.0.0.1:9099"}
    assert SERVICES["notifications"]["network_mode"] == "service:alertmanager"


@contextmanager
def webhook() -> Iterator[tuple[int, "subprocess.Popen[str]"]]:
    """Run the script on a free port."""
    script = (
        (DEMO / "notifications.py")
        .read_text("utf-8")
        .replace("9099", "0")
        .replace("ThreadingHTTPServer((", "server = ThreadingHTTPServer((")
        .replace(", Webhook).serve_forever()", ", Webhook); print(server.server_port); server.serve_forever()")
    )
    process = subprocess.Popen([sys.executable, "-u", "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline()), process
    finally:
        process.kill()
        process.communicate()


def test_webhook_prints_a_notification() -> None:
    body = (
        b'{"status":"firing","alerts":[{"status":"firing","labels":{"alertname":"TempoAnomalyLatencyShift"},'
        b'"annotations":{"description":"checkout\\n is slow"}}]}'
    )
    with webhook() as (port, process):
        assert process.stdout is not None
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
            connection.request("POST", "/pager", body)
            assert connection.getresponse().status == 200
        assert process.stdout.readline() == "pager: firing\n"
        assert process.stdout.readline() == "  firing   TempoAnomalyLatencyShift: checkout is slow\n"
