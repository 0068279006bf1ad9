"""Loading the configuration: file, environment, and the errors of both."""

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.config import Config, ConfigError, ignored_variables, load_config
from exporter.config.document import parse_document
from exporter.config.keys import KEYS, VARIABLES, Key
from tests.support.config_files import Load, Problems, loader, refuser


@pytest.fixture
def load(tmp_path: Path) -> Load:
    return loader(tmp_path)


@pytest.fixture
def problems(tmp_path: Path) -> Problems:
    return refuser(tmp_path)


class TestFile:
    @pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "{}", "tempo:\n", "tempo: {tls: null}"])
    def test_missing_and_empty_entries_have_their_default(self, load: Load, text: str) -> None:
        assert load(text) == Config()

    def test_without_a_file_every_key_has_its_default(self) -> None:
        assert load_config(None, {}) == Config()

    def test_the_defaults_do_not_contradict_each_other(self) -> None:
        assert load_config(None, {}).storage.retention == timedelta(days=28)

    def test_values_have_the_type_of_their_key(self, load: Load) -> None:
        config = load(
            "timezone: Asia/Taipei\n"
            "calendar: {weekend: [Friday, SATURDAY], holidays: tw}\n"
            "tempo:\n"
            "  url: https://tempo.example.com/base/\n"
            "  headers: {X-Level: 1}\n"
            "  limit: 200\n"
            "  requests_per_second: 2.5\n"
            "  tls: {insecure_skip_verify: yes, ca_file: ca.pem}\n"
            "polling: {backfill_duration: 1d12h}\n"
            "series: {rename: [{match: '/[0-9]+', replace: '/{id}'}]}\n"
            "detection: {alpha: 1e-4}\n"
            "log: {level: WARN}\n"
        )
        assert config.timezone == "Asia/Taipei"
        assert config.calendar.weekend == ("friday", "saturday")
        assert config.calendar.holidays == "TW"
        assert config.tempo.url == "https://tempo.example.com/base"
        assert config.tempo.headers["X-Level"].get_secret_value() == "1"
        assert config.tempo.limit == 200
        assert config.tempo.requests_per_second == 2.5
        assert config.tempo.tls.insecure_skip_verify is True
        assert config.tempo.tls.ca_file == Path("ca.pem")
        assert config.polling.backfill_duration == timedelta(hours=36)
        assert [(rule.match, rule.replace) for rule in config.series.rename] == [("/[0-9]+", "/{id}")]
        assert config.detection.alpha == 1e-4
        assert config.log.level == "warning"

    def test_text_is_not_interpreted(self, load: Load) -> None:
        config = load("calendar: {holidays: NO}\ntempo: {tenant: 007, auth_token: 1_000}\n")
        assert config.calendar.holidays == "NO"
        assert config.tempo.tenant == "007"
        assert config.tempo.auth_token.get_secret_value() == "1_000"

    def test_a_byte_order_mark_is_ignored(self, load: Load) -> None:
        assert load(b"\xef\xbb\xbftempo: {limit: 7}").tempo.limit == 7

    def test_an_alias_is_resolved(self, load: Load) -> None:
        config = load("polling: {settle: &age 30m}\ndetection: {window: *age}\n")
        assert config.detection.window == config.polling.settle == timedelta(minutes=30)

    def test_a_merge_key_adds_entries_of_which_explicit_ones_and_the_first_win(self, load: Load) -> None:
        config = load(
            "polling:\n  <<: {settle: 20m, tempo_interval: 30s}\n  settle: 40m\n"
            "stats:\n  <<: [{k: 5}, {k: 6, factor: 3}]\n"
        )
        assert (config.polling.settle, config.polling.tempo_interval) == (timedelta(minutes=40), timedelta(seconds=30))
        assert (config.stats.k, config.stats.factor) == (5, 3)

    def test_a_merge_key_takes_an_alias(self, load: Load) -> None:
        config = load("series: {rename: [&first {match: a, replace: b}, {<<: *first, match: c}]}\n")
        assert [(rule.match, rule.replace) for rule in config.series.rename] == [("a", "b"), ("c", "b")]

    def test_an_error_in_a_merged_entry_has_the_line_of_the_merge_key(self, problems: Problems) -> None:
        text = "series:\n  rename:\n    - &first {match: a, replace: b, other: c}\n    - match: c\n      <<: *first\n"
        assert problems(text) == (
            "series.rename[0].other (c.yaml line 3) is not a known key",
            "series.rename[1].other (c.yaml line 5) is not a known key",
        )

    def test_a_quoted_merge_key_is_a_key(self, problems: Problems) -> None:
        assert problems("tempo: {'<<': {limit: 7}}") == ("tempo.… (c.yaml line 1) is not a known key",)

    def test_merge_keys_that_multiply_a_file_are_refused(self, problems: Problems) -> None:
        names = ", ".join(f"k{number}: 1" for number in range(2000))
        text = f"a: &a {{{names}}}\nb:\n" + "".join(f"  c{number}: {{<<: *a}}\n" for number in range(1_000))
        assert any("<< adds more than 10,000 entries in all" in problem for problem in problems(text))

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            (
                "tempo: [\nx",
                "c.yaml line 2, column 2: not valid YAML: while parsing a flow sequence that begins in line 1",
            ),
            ("a: 1\n\ttempo: x", "c.yaml line 2, column 1: not valid YAML"),
            ("tempo: {}\n---\nlog: {}", "c.yaml line 2, column 1: not valid YAML: expected a single document"),
            ("log: {level: info, level: debug}", "c.yaml line 1: the key level is a duplicate of the one in line 1"),
            ("tempo: {}\nlog: {}\ntempo: {}", "c.yaml line 3: the key tempo is a duplicate of the one in line 1"),
            ("\ntempo: {limit: !big 5}", "c.yaml line 2: tags are not supported"),
            ("tempo: !!python/object:os.system {}", "c.yaml line 1: tags are not supported"),
            ("tempo:\n  <<: 5", "c.yaml line 2: << must be followed by a mapping, or by a list of mappings"),
            ("tempo:\n  <<: [{}, a]", "c.yaml line 2: << must be followed by a mapping, or by a list of mappings"),
            ("tempo: &again {<<: *again}", "c.yaml line 1: an alias refers to a node that contains it"),
            ("? [a, b]\n: c", "c.yaml line 1: a key must be plain text"),
            (b"a: 1\nb: \xff", "c.yaml line 2: not UTF-8 text"),
            ("a: 1\nb: \x01", "c.yaml line 2: not valid YAML: it contains a control character"),
            ("[" * 2000, "c.yaml line 1: not a configuration: nested too deeply"),
            ("#" * 1_100_000, "c.yaml is larger than 1 MiB"),
            ("just text", "c.yaml must be a mapping of keys to values"),
            ("- a\n- b", "c.yaml must be a mapping of keys to values"),
            ("\ntempo: 5", "tempo (c.yaml line 2) must be a mapping of keys to values"),
            ("tempo:\n  tls: [a]", "tempo.tls (c.yaml line 2) must be a mapping of keys to values"),
            ("tempo: &again {basic_auth: *again}", "c.yaml line 1: an alias refers to a node that contains it"),
        ],
    )
    def test_an_invalid_file_is_reported_with_its_line(
        self, problems: Problems, text: str | bytes, problem: str
    ) -> None:
        assert any(each.startswith(problem) for each in problems(text)), problems(text)

    def test_an_unreadable_file_is_reported(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"absent\.yaml cannot be read: No such file or directory"):
            load_config(tmp_path / "absent.yaml", {})
        with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
            load_config(tmp_path, {})

    @given(st.text(max_size=200) | st.binary(max_size=200).map(lambda raw: raw.decode("latin-1")))
    def test_any_text_is_parsed_or_reported(self, text: str) -> None:
        document = parse_document(text)
        assert document.broken == bool(document.problems)


class TestEnvironment:
    def test_the_environment_overrides_the_file(self, load: Load) -> None:
        config = load("polling: {backfill_duration: 24h, settle: 20m}", {"POLLING_BACKFILL_DURATION": "48h"})
        assert config.polling.backfill_duration == timedelta(hours=48)
        assert config.polling.settle == timedelta(minutes=20)

    def test_every_key_has_a_distinct_variable(self) -> None:
        assert len(VARIABLES) == len(KEYS)
        assert VARIABLES["TEMPO_BASIC_AUTH_USERNAME"].dotted == "tempo.basic_auth.username"
        assert VARIABLES["TIMEZONE"].dotted == "timezone"

    def test_every_variable_is_read(self) -> None:
        for key in KEYS.values():
            nonsense = {key.variable: "{" if key.shape == "mapping" else "\x00" if key.shape == "scalar" else "("}
            with pytest.raises(ConfigError) as refused:
                load_config(None, nonsense)
            assert len(refused.value.problems) == 1, refused.value
            assert f"(environment variable {key.variable})" in refused.value.problems[0]
            assert refused.value.problems[0].startswith(key.dotted)

    def test_values_have_the_type_of_their_key(self) -> None:
        config = load_config(
            None,
            {
                "TEMPO_BASIC_AUTH_USERNAME": "me",
                "TEMPO_BASIC_AUTH_PASSWORD": "no",
                "FALLBACK_ENABLED": "false",
                "STATS_K": "7.5",
                "TEMPO_LIMIT": "100",
                "TEMPO_TENANT": "null",
                "CALENDAR_HOLIDAYS": "NO",
                "LOG_LEVEL": "DEBUG",
            },
        )
        assert config.tempo.basic_auth.username == "me"
        assert config.tempo.basic_auth.password.get_secret_value() == "no"
        assert config.fallback.enabled is False
        assert config.stats.k == 7.5
        assert config.tempo.limit == 100
        assert config.tempo.tenant == "null"
        assert config.calendar.holidays == "NO"
        assert config.log.level == "debug"

    @pytest.mark.parametrize(
        "text", ["friday, saturday", "[friday, saturday]", "friday,,saturday,", ' ["friday","saturday"]']
    )
    def test_a_list_is_comma_separated_or_yaml(self, text: str) -> None:
        assert load_config(None, {"CALENDAR_WEEKEND": text}).calendar.weekend == ("friday", "saturday")

    def test_an_empty_list_can_be_written(self, load: Load) -> None:
        assert load("", {"CALENDAR_WEEKEND": "[]"}).calendar.weekend == ()

    def test_a_mapping_is_yaml_and_replaces_that_of_the_file(self, load: Load) -> None:
        config = load(
            "tempo: {headers: {X-File: a}}\nseries: {rename: [{match: x, replace: y}]}",
            {"TEMPO_HEADERS": "{X-Env: b}", "SERIES_RENAME": r'[{match: "/(\\d)\\d*", replace: "/\\1"}]'},
        )
        assert list(config.tempo.headers) == ["X-Env"]
        assert config.series.rename[0].match == r"/(\d)\d*"
        assert config.series.rename[0].replace == r"/\1"

    @pytest.mark.parametrize(
        ("environ", "problem"),
        [
            (
                {"TEMPO_HEADERS": "X-A=1"},
                "tempo.headers (environment variable TEMPO_HEADERS) must be a mapping in YAML",
            ),
            (
                {"TEMPO_HEADERS": "{a: ["},
                "tempo.headers (environment variable TEMPO_HEADERS) begins with { and must be YAML",
            ),
            ({"SERIES_INCLUDE": "[a-z]+"}, "series.include (environment variable SERIES_INCLUDE) begins with ["),
            ({"SERIES_INCLUDE": "a,("}, "series.include[1] (environment variable SERIES_INCLUDE) must be a regular"),
            (
                {"TEMPO_LIMIT": "many"},
                "tempo.limit (environment variable TEMPO_LIMIT) must be a whole number, not 'many'",
            ),
            ({"STORAGE_PATH": "\udc80\0"}, "storage.path (environment variable STORAGE_PATH) must not contain a zero"),
            ({"TEMPO_TENANT": "\udc80"}, "tempo.tenant (environment variable TEMPO_TENANT) must be"),
        ],
    )
    def test_an_invalid_value_is_reported_with_its_variable(self, environ: dict[str, str], problem: str) -> None:
        with pytest.raises(ConfigError) as refused:
            load_config(None, environ)
        assert [each[: len(problem)] for each in refused.value.problems] == [problem]

    def test_an_invalid_value_is_not_attributed_to_the_file(self, problems: Problems) -> None:
        (problem,) = problems("series:\n  include: [a, b]\n", {"SERIES_INCLUDE": "(,b"})
        assert problem.startswith("series.include[0] (environment variable SERIES_INCLUDE)")

    def test_an_empty_variable_counts_as_unset(self, load: Load) -> None:
        empty = {variable: "" for variable, key in VARIABLES.items() if key.default != ""}
        assert load("tempo: {limit: 7}\nlog: {level: debug}", empty) == load("tempo: {limit: 7}\nlog: {level: debug}")

    def test_an_empty_variable_clears_text_that_may_be_empty(self, load: Load) -> None:
        config = load("tempo: {tenant: a, auth_token: b}", {"TEMPO_TENANT": "", "TEMPO_AUTH_TOKEN": ""})
        assert config == Config()

    @pytest.mark.parametrize(
        ("variable", "suggestion"),
        [
            ("POLLING_BACKFIL_DURATION", "POLLING_BACKFILL_DURATION"),
            ("TEMPO_ULR", "TEMPO_URL"),
            ("LOG_LEVELS", "LOG_LEVEL"),
            ("FALLBACK_ENABLE", "FALLBACK_ENABLED"),
            ("STORAGE_PATHS", "STORAGE_PATH"),
        ],
    )
    def test_a_misspelt_variable_is_reported_with_the_nearest_one(self, variable: str, suggestion: str) -> None:
        with pytest.raises(ConfigError) as refused:
            load_config(None, {variable: "1"})
        (problem,) = refused.value.problems
        assert problem.startswith(f"'{variable}' is not an environment variable")
        assert problem.endswith(f"did you mean {suggestion}?")
        assert ignored_variables({variable: "1"}) == ()

    def test_variables_of_other_programs_are_ignored(self) -> None:
        environ = dict.fromkeys(
            [
                "TEMPO_HOST",
                "TEMPO_PORT",
                "TEMPO_PORT_3200_TCP_ADDR",
                "TEMPO_SERVICE_HOST",
                "TEMPO_SERVICE_PORT_HTTP",
                "WEB_CONCURRENCY",
                "WEB_PORT",
                "LOG_DIR",
                "LOG_FILE",
                "STORAGE_TYPE",
                "DETECTION_MODE",
            ],
            "x",
        )
        assert load_config(None, environ | {"PATH": "/bin", "HOME": "/", "tempo_url": "x"}) == Config()
        assert ignored_variables(environ | {"PATH": "/bin", "TEMPO_URL": "x"}) == tuple(sorted(environ))


class TestProblems:
    def test_all_errors_are_in_one_message(self, tmp_path: Path) -> None:
        (tmp_path / "c.yaml").write_text(
            "tempo:\n  timout: 3s\n  limit: 0\nlog: {level: inof}\nstorage: {retention: 1h}\n"
            "detection:\n  window: 90m\n"
        )
        with pytest.raises(ConfigError) as refused:
            load_config(tmp_path / "c.yaml", {"POLLING_SETTLE": "20", "POLLING_SETLE": "20s"})
        file = tmp_path / "c.yaml"
        assert str(refused.value).splitlines() == [
            "8 problems in the configuration:",
            f"  - tempo.limit ({file} line 3) must be at least 1, not '0'",
            f"  - tempo.timout ({file} line 2) is not a known key; did you mean tempo.timeout?",
            "  - polling.settle (environment variable POLLING_SETTLE) needs a unit, such as s, m, h or d, not '20'",
            f"  - log.level ({file} line 4) must be one of debug, info, warning, error, not 'inof'; did you mean info?",
            "  - 'POLLING_SETLE' is not an environment variable of the exporter; did you mean POLLING_SETTLE?",
            "  - detection.max_window (1h) must be at least detection.window (1h30m): the window may grow to it",
            "  - storage.retention (1h) must be at least polling.backfill_duration (7d): history would not be kept",
            "  - storage.retention (1h) must be at least detection.lookback (14d): baselines are built from it",
        ]

    @pytest.mark.parametrize(
        ("text", "key", "suggestion"),
        [
            ("timezon: UTC", "timezon", "timezone"),
            ("Tempo: {}", "Tempo", "tempo"),
            ("tempo: {tls: {cafile: x}}", "tempo.tls.cafile", "tempo.tls.ca_file"),
            ("polling: {tempo-interval: 1s}", "polling.tempo-interval", "polling.tempo_interval"),
            ("backfill_batch: 1h", "backfill_batch", "polling.backfill_batch"),
            ("tempo: {username: me}", "tempo.username", "tempo.basic_auth.username"),
        ],
    )
    def test_an_unknown_key_is_reported_with_the_nearest_valid_one(
        self, problems: Problems, text: str, key: str, suggestion: str
    ) -> None:
        assert problems(text) == (f"{key} (c.yaml line 1) is not a known key; did you mean {suggestion}?",)

    def test_an_unknown_key_without_a_similar_one_has_no_suggestion(self, problems: Problems) -> None:
        assert problems("\nxyzzy: 1\n") == ("xyzzy (c.yaml line 2) is not a known key",)

    @pytest.mark.parametrize(
        "key", [key for key in KEYS.values() if key.default is not None], ids=lambda key: key.dotted
    )
    def test_a_key_without_a_value_is_reported(self, problems: Problems, key: Key) -> None:
        *sections, name = key.path
        text = "".join(f"{'  ' * depth}{section}:\n" for depth, section in enumerate(sections))
        (problem,) = problems(f"{text}{'  ' * len(sections)}{name}:\n")
        assert problem == f"{key.dotted} (c.yaml line {len(sections) + 1}) has no value: set one, or leave the key out"

    def test_list_items_are_reported_by_index(self, problems: Problems) -> None:
        include = "  include:\n    - a\n    - '*'\n"
        rename = "  rename:\n    - {match: a}\n    - b\n    - {match: a, replace: b, c: d}\n"
        assert problems(f"series:\n{include}{rename}") == (
            (
                "series.include[1] (c.yaml line 4) must be a regular expression, not '*': "
                "no argument for repetition operator: *"
            ),
            "series.rename[0].replace (c.yaml line 6) is missing",
            "series.rename[1] (c.yaml line 7) must be a mapping of names to values",
            "series.rename[2].c (c.yaml line 8) is not a known key",
        )

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("timezone: [UTC]", "timezone (c.yaml line 1) must be text"),
            ("calendar: {weekend: friday}", "calendar.weekend (c.yaml line 1) must be a list"),
            ("tempo: {headers: 5}", "tempo.headers (c.yaml line 1) must be a mapping of names to values"),
            ("tempo: {limit: [5]}", "tempo.limit (c.yaml line 1) must be a whole number, not a list"),
            (
                "tempo: {requests_per_second: {a: b}}",
                "tempo.requests_per_second (c.yaml line 1) must be a number, not a mapping",
            ),
            ("storage: {path: [a]}", "storage.path (c.yaml line 1) must be the path of a file"),
            ("web: {config_file: {a: b}}", "web.config_file (c.yaml line 1) must be the path of a file"),
        ],
    )
    def test_a_value_of_the_wrong_type_is_reported_with_the_right_one(
        self, problems: Problems, text: str, problem: str
    ) -> None:
        assert problems(text) == (problem,)

    def test_errors_that_follow_from_another_one_are_not_reported(self, problems: Problems) -> None:
        # The intended retention does not contradict the backfill duration; the default that replaces it would.
        assert len(problems("polling: {backfill_duration: 60d}\nstorage: {retension: 90d}")) == 1
        assert len(problems("polling: {backfill_duration: 60d}\nstorage: {retention: 90}")) == 1
        assert len(problems("polling: {backfill_duration: 60d}\nstorage: 90d")) == 1
        assert len(problems("polling: {backfill_duration: 60d}\nstorage: {retention: 90d, retention: 90d}")) == 1
        assert len(problems("polling: {backfill_duration: 60d}", {"STORAGE_RETENTON": "90d"})) == 1
        assert len(problems("tempo: {auth_token: x, auth_token_file: y, headers: 3}")) == 2

    def test_the_environment_is_validated_even_if_the_file_is_broken(self, problems: Problems) -> None:
        first, second = problems("tempo: [", {"TEMPO_LIMIT": "x"})
        assert first.startswith("c.yaml line 1, column 9: not valid YAML")
        assert second.startswith("tempo.limit (environment variable TEMPO_LIMIT)")

    def test_a_single_error_is_counted_in_the_singular(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"^1 problem in the configuration:\n  - "):
            load_config(tmp_path, {})
