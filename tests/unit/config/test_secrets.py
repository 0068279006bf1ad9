"""The effective configuration, and that no output contains a secret."""

import traceback
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from exporter.config import Config, ConfigError, effective_yaml, load_config
from tests.support.config_files import Load, loader

SECRET = "hunter2hunter2"


@pytest.fixture
def load(tmp_path: Path) -> Load:
    return loader(tmp_path)


class TestEffective:
    def test_effective_yaml_has_every_key_and_loads_as_the_same_configuration(self, load: Load) -> None:
        assert load(effective_yaml(Config())) == Config()

    def test_effective_yaml_of_other_values_loads_as_the_same_configuration(self, load: Load) -> None:
        config = load(
            "timezone: Asia/Kathmandu\n"
            "calendar: {weekend: [], holidays: NO}\n"
            "tempo: {url: 'http://[::1]:3200', tenant: 007, filter: 'name = \"a\\\\nb: #\"', timeout: 1500ms}\n"
            "stats: {factor: 3, mad_epsilon: 0}\n"
            "polling: {backfill_enabled: false}\n"
            "series: {include: ['[a-z]+: x', 日本], rename: [{match: 'a|b', replace: ''}]}\n"
            "storage: {path: /data/ä.db}\n"
            "web: {listen_address: '[::]:9817', config_file: web.yml}\n"
        )
        assert load(effective_yaml(config)) == config

    def test_defaults_have_the_notation_of_the_documents(self) -> None:
        shown = yaml.safe_load(effective_yaml(load_config(None, {"TEMPO_TIMEOUT": "90s", "POLLING_SETTLE": "900s"})))
        assert shown["polling"]["backfill_duration"] == "168h"
        assert shown["polling"]["tempo_lookback"] == "120s"
        assert shown["polling"]["settle"] == "15m"
        assert shown["tempo"]["timeout"] == "1m30s"
        assert shown["stats"] == {
            "factor": 2.0,
            "k": 10,
            "min_samples": 50,
            "mad_epsilon": "1ms",
            "max_duration": "24h",
        }

    def test_secrets_are_masked_and_unset_ones_are_empty(self, load: Load) -> None:
        config = load(
            f"tempo: {{auth_token_file: /run/token, headers: {{X-Api-Key: {SECRET}, X-Plain: {SECRET}}}}}",
        )
        text = effective_yaml(config)
        tempo = yaml.safe_load(text)["tempo"]
        assert SECRET not in text
        assert tempo["headers"] == {"X-Api-Key": "<secret>", "X-Plain": "<secret>"}
        assert tempo["auth_token"] == ""
        assert tempo["auth_token_file"] == "/run/token"

    def test_a_mask_is_refused_as_a_secret(self, load: Load) -> None:
        masked = effective_yaml(load(f"tempo: {{auth_token: {SECRET}}}"))
        with pytest.raises(ConfigError, match=r"tempo\.auth_token .* is <secret>, which masks a secret"):
            load(masked)


@pytest.mark.parametrize(
    "text",
    [
        f"tempo: {{auth_token: {SECRET}}}",
        f"tempo: {{basic_auth: {{username: u, password: {SECRET}}}}}",
        f"tempo: {{headers: {{Cookie: {SECRET}}}}}",
    ],
)
def test_no_form_of_the_configuration_contains_a_secret(load: Load, text: str) -> None:
    config = load(text)
    for form in (repr(config), str(config), config.model_dump_json(), str(config.model_dump()), effective_yaml(config)):
        assert SECRET not in form


@pytest.mark.parametrize(
    "text",
    [
        f"tempo: {{auth_token: [{SECRET}]}}",
        f"tempo: {{auth_token: {{{SECRET}: {SECRET}}}}}",
        f"tempo: {{auth_token: Bearer {SECRET}}}",
        f"tempo: {{auth_token: {SECRET}, auth_token_file: x}}",
        f"tempo: {{auth_token: '{SECRET}é'}}",
        f"tempo: {{auth_token: *{SECRET}}}",
        f"tempo: {{auth_token: !{SECRET}}}",
        f"tempo: {{auth_token: !{SECRET}!x y}}",
        f"tempo: {{auth_token: @{SECRET}}}",
        f'tempo: {{auth_token: "{SECRET}\\q"}}',
        f"tempo: {{auth_token: '{SECRET}",
        f"tempo: {{authtoken: {SECRET}}}",
        f"tempo:\n  auth_token:{SECRET}\n",
        f"tempo:\n  auth_token: x\n   {SECRET}: y\n",
        f"tempo: {{basic_auth: {{username:admin,password:{SECRET}}}}}",
        f"tempo: {{basic_auth: {SECRET}}}",
        f"tempo: {{timeout: {{auth_token: {SECRET}}}}}",
        f"tempo: {{limit: [{SECRET}]}}",
        f"tempo: {{basic_auth: {{password: '{SECRET}\t', username: u}}}}",
        f"tempo: {{headers: {{Authorization:{SECRET}}}}}",
        f"tempo: {{headers: {{Authorization:{SECRET}, Authorization:{SECRET}}}}}",
        f"tempo: {{headers: {{Authorization: [{SECRET}]}}}}",
        f"tempo: {{headers: 'Authorization: {SECRET}'}}",
        f"tempo: {{url: 'http://me:{SECRET}@tempo'}}",
        f"tempo: {{url: 'me:{SECRET}@tempo'}}",
        f"tempo: {{url: 'http://tempo/?token={SECRET}'}}",
        f"tempo: {{url: 'http://me:{SECRET}@[tempo'}}",
    ],
)
def test_no_error_contains_a_secret(load: Load, text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load(text)
    assert SECRET not in "".join(traceback.format_exception(refused.value))
    assert SECRET not in repr(refused.value)


@pytest.mark.parametrize(
    "environ",
    [
        {"TEMPO_AUTH_TOKEN": f"{SECRET}\n"},
        {"TEMPO_BASIC_AUTH_PASSWORD": SECRET},
        {"TEMPO_HEADERS": f"Authorization: {SECRET}"},
        {"TEMPO_HEADERS": f"{{Authorization: *{SECRET}}}"},
        {"TEMPO_HEADERS": f"{{Authorization: {SECRET}, Authorization: x}}"},
        {"TEMPO_HEADERS": f"{{Authorization: '{SECRET}é'}}"},
        {"TEMPO_AUTH_TOKN": SECRET},
    ],
)
def test_no_error_contains_a_secret_of_the_environment(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as refused:
        load_config(None, environ)
    assert SECRET not in "".join(traceback.format_exception(refused.value))


def test_validation_errors_of_the_model_do_not_contain_the_input() -> None:
    with pytest.raises(ValidationError) as refused:
        Config.model_validate({"tempo": {"auth_token": [SECRET], "url": f"http://me:{SECRET}@tempo"}})
    assert SECRET not in str(refused.value)
