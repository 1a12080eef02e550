//! What users are promised about settings.

use std::collections::HashSet;
use std::time::Duration;

use proptest::prelude::*;

use super::keys::SECTIONS;
use super::*;

fn from_toml(text: &str) -> Result<Config, ConfigErrors> {
    Settings::default().file("tickcast.toml", text).check()
}

fn from_env(variables: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    Settings::default().env(env(variables)).check()
}

fn from_flags(flags: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    Settings::default().flags(pairs(flags)).check()
}

fn env(variables: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    variables.iter().map(|(name, value)| (name.into(), value.into())).collect()
}

fn pairs(flags: &[(&str, &str)]) -> Vec<(String, String)> {
    flags.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

/// The messages of a refusal, one a line.
fn refusal(outcome: Result<Config, ConfigErrors>) -> String {
    outcome.expect_err("these settings are to be refused").to_string()
}

// The table.

#[test]
fn defaults_are_what_the_documentation_says() {
    let config = Config::default();
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:8000");
    assert_eq!(config.server.drain_timeout, Duration::from_secs(8));
    assert_eq!(config.limits.connections, 10_000);
    assert_eq!(config.limits.header_bytes, 16 * 1024);
    assert_eq!(config.limits.idle_timeout, Duration::from_secs(65));
    assert_eq!(config.limits.inbound_messages_per_second, 50);
    assert_eq!(config.ring.slots, 16_384);
    assert_eq!(config.outbox.bytes, 256 * 1024);
    assert_eq!(config.json.ws_dialect, WsDialect::D1);
    assert_eq!(config.json.case, JsonCase::Snake);
    assert_eq!(config.alerts.min_durability, MinDurability::Disk);
    assert_eq!(config.journal.directory, "tickcast-data");
    assert_eq!(config.log.level, LogLevel::Info);
    assert_eq!(config.log.format, LogFormat::Auto);
    assert!(config.server.allowed_origins.is_empty() && config.publish.loopback_open);
}

#[test]
fn every_key_is_named_explained_and_costed() {
    let mut environment = HashSet::new();
    for key in KEYS {
        let name = key.name;
        assert_eq!(name, format!("{}.{}", key.section, key.leaf()));
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._".contains(&byte);
        assert!(name.bytes().all(is_plain), "{name}");
        assert!(environment.insert(key.env()), "{name}");
        let sentences = key.doc.iter().rev().take(1).chain(&key.cost).chain(&key.at_limit);
        for sentence in sentences {
            assert!(sentence.ends_with('.'), "{name}: {sentence}");
        }
        if ["limits", "ring", "history", "outbox"].contains(&key.section) {
            assert!(key.cost.is_some() && key.counter().is_some(), "{name}");
        }
    }
    assert_eq!(environment.len(), KEYS.len());
}

#[test]
fn the_bounds_of_every_key_fit_the_field_it_fills() {
    for key in KEYS {
        let bounds = match key.kind {
            Kind::Count { min, max } | Kind::PowerOfTwo { min, max } => [min.to_string(), max.to_string()],
            Kind::Duration { min, max } => [display_duration(min), display_duration(max)],
            Kind::Size { min, max } => [display_size(min), display_size(max)],
            _ => continue,
        };
        for bound in bounds {
            let outcome = from_flags(&[(key.name, &bound)]);
            // A bound may contradict another key's default, never its own key.
            if let Err(errors) = outcome {
                assert!(errors.to_string().contains("change one of them"), "{errors}");
            }
        }
    }
}

#[test]
fn config_init_changes_nothing_commented_or_not() {
    let template = template();
    let commented = from_toml(&template).unwrap();
    assert_eq!(commented.show(false), Config::default().show(false));
    assert!(KEYS.iter().all(|key| commented.origin(key.name) == Some(&Origin::Default)));

    let uncommented: String = template
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(key) if key.starts_with(|c: char| c.is_ascii_lowercase()) => format!("{key}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let uncommented = from_toml(&uncommented).unwrap();
    assert_eq!(uncommented.show(false), Config::default().show(false));
    for key in KEYS {
        assert!(matches!(uncommented.origin(key.name), Some(Origin::File { .. })), "{}", key.name);
        assert!(template.contains(&key.env()), "{}", key.name);
    }
}

#[test]
fn config_init_explains_a_limit_in_full() {
    let explained = "
# Bytes of a request's line and headers together.
# Takes a size from \"8KiB\" to \"64KiB\".
# Cost: this much for each handshake in flight.
# At the limit: HTTP 431.
# Counted as tickcast_limit_hits_total{limit=\"limits.header_bytes\"}.
# Environment: TICKCAST_LIMITS__HEADER_BYTES
#header_bytes = \"16KiB\"
";
    assert!(template().contains(explained), "{}", template());
    assert!(template().lines().all(|line| line.chars().count() <= 100));
}

// Precedence and origins.

#[test]
fn a_flag_wins_over_env_over_file_over_default() {
    let file = "[limits]\nheaders = 32\nfragments = 32\nstrikes = 32\n";
    let config = Settings::default()
        .file("tickcast.toml", file)
        .env(env(&[("TICKCAST_LIMITS__FRAGMENTS", "33"), ("TICKCAST_LIMITS__STRIKES", "33")]))
        .flags(pairs(&[("limits.strikes", "34"), ("limits.strikes", "35")]))
        .check()
        .unwrap();
    let limits = &config.limits;
    assert_eq!((limits.headers, limits.fragments, limits.strikes), (32, 33, 35));

    let origin = |key| config.origin(key).map(ToString::to_string);
    assert_eq!(origin("limits.connections").as_deref(), Some("default"));
    assert_eq!(origin("limits.headers").as_deref(), Some("tickcast.toml line 2"));
    assert_eq!(origin("limits.fragments").as_deref(), Some("env TICKCAST_LIMITS__FRAGMENTS"));
    assert_eq!(origin("limits.strikes").as_deref(), Some("flag"));
    assert_eq!(origin("limits.nothing"), None);
}

#[test]
fn a_wrong_value_that_is_replaced_does_no_harm() {
    let config = Settings::default()
        .file("tickcast.toml", "[limits]\nheaders = \"many\"\n")
        .flags(pairs(&[("limits.headers", "32")]))
        .check();
    assert_eq!(config.unwrap().limits.headers, 32);
}

#[test]
fn config_show_says_what_holds_and_can_be_loaded_again() {
    let config = from_toml(
        "server.allowed_origins = [\"https://a.example\", \"http://b.example:8080\"]\n\
         [limits]\nidle_timeout = \"90s\"\npublish_request_bytes = \"2048KiB\"\n",
    )
    .unwrap();
    let shown = config.show(true);
    assert!(shown.contains("\n[limits]\nconnections = 10000 "), "{shown}");
    assert!(shown.contains("idle_timeout = \"90s\" "), "{shown}");
    assert!(shown.contains("publish_request_bytes = \"2MiB\" "), "{shown}");
    assert!(shown.contains(" # tickcast.toml line 3\n"), "{shown}");
    for text in [shown, config.show(false)] {
        assert_eq!(from_toml(&text).unwrap().show(false), config.show(false));
    }
}

#[test]
fn plain_text_of_env_and_flags_becomes_what_the_key_takes() {
    let config = from_env(&[
        ("TICKCAST_SERVER__LISTEN", "[::1]:0"),
        ("TICKCAST_SERVER__ALLOWED_ORIGINS", "https://a.example, https://b.example"),
        ("TICKCAST_METRICS__ENABLED", "false"),
        ("TICKCAST_LIMITS__CONNECTIONS", "20_000"),
        ("TICKCAST_LOG__LEVEL", "debug"),
    ])
    .unwrap();
    assert_eq!(config.server.listen.to_string(), "[::1]:0");
    assert_eq!(config.server.allowed_origins, ["https://a.example", "https://b.example"]);
    assert!(!config.metrics.enabled);
    assert_eq!(config.limits.connections, 20_000);
    assert_eq!(config.log.level, LogLevel::Debug);
}

// Refusals.

#[test]
fn unknown_keys_are_errors_with_their_line_and_a_suggestion() {
    assert_eq!(
        refusal(from_toml("# desk\n[server]\nlisen = \"127.0.0.1:8000\"\n")),
        "error: unknown key 'server.lisen' (tickcast.toml line 3). Did you mean 'server.listen'?"
    );
    assert_eq!(
        refusal(from_flags(&[("limit.header", "64")])),
        "error: unknown key 'limit.header' (flag). Did you mean 'limits.headers'?"
    );
    assert_eq!(
        refusal(from_toml("[server.tls]\ncert_file = \"cert.pem\"\n")),
        "error: unknown key 'server.tls' (tickcast.toml line 1). \
         Run 'tickcast config init' to see every key."
    );
}

#[test]
fn a_key_in_the_wrong_section_is_found_in_its_own() {
    for (text, meant) in [
        ("[server]\nconnections = 5\n", "'limits.connections'"),
        ("listen = \"127.0.0.1:1\"\n", "'server.listen'"),
        ("\"server.listen\" = \"127.0.0.1:1\"\n", "'server.listen'"),
        ("[sever]\nlisten = \"127.0.0.1:1\"\n", "'server.listen'"),
        ("outboxes.event = 64\n", "'outbox.events'"),
        ("log = \"debug\"\n", "'[log]'"),
        ("[[ring]]\nslots = 64\n", "'[ring]'"),
    ] {
        let refusal = refusal(from_toml(text));
        assert!(refusal.ends_with(&format!("Did you mean {meant}?")), "{refusal}");
    }
    // Nothing was set in it, but nothing would ever be.
    assert!(from_toml("[cluster]\n").is_err());
    assert!(from_toml("[server]\n").is_ok());
}

#[test]
fn unknown_env_keys_are_errors_and_other_variables_are_not_ours() {
    assert_eq!(
        refusal(from_env(&[("TICKCAST_SERVER__LISEN", "127.0.0.1:1")])),
        "error: unknown key 'TICKCAST_SERVER__LISEN' (env TICKCAST_SERVER__LISEN). \
         Did you mean 'TICKCAST_SERVER__LISTEN'?"
    );
    assert!(refusal(from_env(&[("TICKCAST_server__listen", "x")])).contains("TICKCAST_SERVER__LISTEN'?"));
    let foreign = from_env(&[
        ("TICKCAST_URL", "ws://127.0.0.1:8000/ws"),
        ("TICKCAST_CONFIG", "tickcast.toml"),
        ("TICKCAST_LOG", "tickcast=debug"),
        ("TICKCAST_LOG_FORMAT", "json"),
        ("TICKCAST_TEST_DATA", "data"),
        ("TICKCAST_TOKEN", "t"),
        ("TICKCAST_TOKEN__FILE", "t"),
        ("TICKCAST_PORT_8000_TCP", "tcp://10.0.0.1:8000"),
        ("SERVER__LISTEN", "x"),
        ("PATH", "/bin"),
    ]);
    assert_eq!(foreign.unwrap().show(true), Config::default().show(true));
}

#[test]
fn a_wrong_value_names_key_value_origin_limit_and_fix() {
    let limits = |line: &str| refusal(from_toml(&format!("[limits]\n{line}\n")));
    assert_eq!(
        limits("header_bytes = \"4KiB\""),
        "error: limits.header_bytes = \"4KiB\" (tickcast.toml line 2) is too small: \
         write a size from \"8KiB\" to \"64KiB\"."
    );
    assert_eq!(
        limits("hello_timeout = 5"),
        "error: limits.hello_timeout = 5 (tickcast.toml line 2) has no unit: \
         write \"5s\" or \"5ms\" (the units are ms, s, m, h)."
    );
    assert_eq!(
        limits("connections = \"10k\""),
        "error: limits.connections = \"10k\" (tickcast.toml line 2) is not of the type this key takes: \
         write an integer from 1 to 1000000."
    );
    assert_eq!(
        refusal(from_env(&[("TICKCAST_SERVER__DRAIN_TIMEOUT", "30s")])),
        "error: server.drain_timeout = \"30s\" (env TICKCAST_SERVER__DRAIN_TIMEOUT) is too long: \
         write a duration from \"0s\" to \"8500ms\"."
    );
    assert_eq!(
        refusal(from_flags(&[("ring.slots", "1000")])),
        "error: ring.slots = 1000 (flag) is not a power of two: \
         write a power of two from 64 to 1048576."
    );
    assert_eq!(
        refusal(from_flags(&[("json.case", "kebab")])),
        "error: json.case = \"kebab\" (flag) is not a name this key knows: \
         write \"snake\", \"camel\" or \"auto\"."
    );
    assert_eq!(
        refusal(from_flags(&[("server.listen", "localhost:8000")])),
        "error: server.listen = \"localhost:8000\" (flag) is not an address and a port: \
         write an IP address and a port, such as \"127.0.0.1:8000\" or \"[::1]:8000\"."
    );
}

#[test]
fn every_kind_refuses_every_other_kind_of_value() {
    let values =
        ["1.5", "nan", "-1", "99999999999999999999", "true", "\"\"", "[]", "[1]", "{}", "1979-05-27"];
    for key in KEYS {
        for value in values {
            let fits = match key.kind {
                Kind::Flag => value == "true",
                Kind::Origins | Kind::Intervals { .. } => value == "[]",
                Kind::Counts { .. } => value == "[]" || value == "[1]",
                _ => false,
            };
            let outcome = from_toml(&format!("{} = {value}", key.name));
            assert_eq!(outcome.is_ok(), fits, "{} = {value}", key.name);
        }
    }
}

#[test]
fn depths_of_views_are_a_short_list_of_small_numbers() {
    let views = |text: &str| from_toml(&format!("books.views = {text}")).map(|config| config.books.views);
    assert_eq!(views("[10, 25]"), Ok(vec![10, 25]));
    assert_eq!(
        refusal(from_toml("books.views = [10, 101]")),
        "error: books.views = [10, 101] (tickcast.toml line 1) has 101: \
         write a list of at most 8 integers from 1 to 100, such as [10, 25]."
    );
    assert!(views("[1, 2, 3, 4, 5, 6, 7, 8]").is_ok());
    for (wrong, why) in [
        ("[1, 2, 3, 4, 5, 6, 7, 8, 9]", "has too many numbers"),
        ("[0]", "has 0"),
        ("[\"10\"]", "has \"10\""),
        ("10", "is not of the type"),
    ] {
        let said = views(wrong).unwrap_err().to_string();
        assert!(said.contains("books.views") && said.contains(why), "{said}");
    }
    let config = from_flags(&[("books.views", "5, 50")]).unwrap();
    assert_eq!(config.books.views, [5, 50]);
    assert_eq!(from_toml(&config.show(false)).unwrap().books.views, [5, 50]);
    assert!(from_flags(&[("books.views", "ten")]).is_err());
}

#[test]
fn intervals_are_patterns_with_a_duration() {
    let intervals = |text: &str| {
        let toml = format!("streams.intervals = [\"{text}\"]");
        from_toml(&toml).map(|config| config.streams.intervals).map_err(|error| error.to_string())
    };
    let read = intervals("market_data.*=2s").unwrap();
    assert_eq!((read.len(), read[0].to_string()), (1, "market_data.*=2s".to_owned()));
    assert_eq!(read[0].every, Duration::from_secs(2));
    for (wrong, why) in [
        ("market_data.*", "no pattern with a duration"),
        ("no_such_type.*=2s", "no_such_type"),
        ("market_data.*=2", "2"),
        ("market_data.*=50ms", "from \"100ms\" to \"24h\""),
    ] {
        let said = intervals(wrong).unwrap_err();
        assert!(said.contains("streams.intervals") && said.contains(why), "{said}");
    }
    // In the environment, as in a flag, they are separated by commas; what is shown is read again.
    let config = from_flags(&[("streams.intervals", "bar.1m.*=90s, market_data.A=100ms")]).unwrap();
    let shown = config.show(false);
    assert!(shown.contains("intervals = [\"bar.1m.*=90s\", \"market_data.A=100ms\"]"), "{shown}");
    assert_eq!(from_toml(&shown).unwrap().streams.intervals, config.streams.intervals);
}

#[test]
fn origins_are_written_as_browsers_send_them() {
    let origins = |origin: &str| {
        from_toml(&format!("server.allowed_origins = [\"{origin}\"]")).map_err(|e| e.to_string())
    };
    for origin in ["https://desk.example.com", "http://10.0.0.5:3000", "http://[fe80::1]:80"] {
        assert!(origins(origin).is_ok(), "{origin}");
    }
    for origin in
        ["desk.example.com", "https://", "https://Desk.example", "https://a/b", "https://a/", "null", ""]
    {
        assert!(origins(origin).unwrap_err().contains("no origin: write scheme"), "{origin}");
    }
    for origin in ["*", "https://*.example.com"] {
        assert!(origins(origin).unwrap_err().contains("there are no wildcards"), "{origin}");
    }
}

#[test]
fn durability_that_cannot_be_had_is_refused() {
    assert_eq!(
        refusal(from_toml("alerts.min_durability = \"quorum\"")),
        "error: alerts.min_durability = \"quorum\" (tickcast.toml line 1) is not available in this version, \
         which writes a critical message to its own disk with every commit, and to no other node: \
         write \"memory\" or \"disk\"."
    );
    let dialect = refusal(from_toml("json.ws_dialect = \"auto\""));
    assert!(dialect.contains("not available in this version"), "{dialect}");
}

#[test]
fn keys_that_contradict_each_other_are_refused_together() {
    assert_eq!(
        refusal(from_toml("heartbeat.interval = \"1m\"")),
        "error: limits.idle_timeout = \"65s\" (default) must be at least twice \
         heartbeat.interval = \"1m\" (tickcast.toml line 1): change one of them."
    );
    let refusal = refusal(from_toml("limits.publisher_bytes = \"1MiB\""));
    assert!(refusal.contains("must not be above outbox.bytes = \"256KiB\" (default)"), "{refusal}");
    assert!(refusal.contains("must not be above history.bytes"), "{refusal}");
}

#[test]
fn listening_for_other_machines_is_refused_with_the_fix() {
    let errors = from_flags(&[("server.listen", "0.0.0.0:9000")]).unwrap_err();
    assert_eq!(errors.exit_code(), 78);
    assert!(matches!(errors.iter().next(), Some(ConfigError::RefusedBind { .. })));
    assert_eq!(
        errors.to_string(),
        "error: server.listen = \"0.0.0.0:9000\" (flag) can be reached from other machines, and there \
         is no authentication yet. Write server.listen = \"127.0.0.1:9000\" and let other machines in \
         through an SSH tunnel or a reverse proxy on this machine that authenticates them."
    );
    for refused in ["192.168.0.1:1", "[::]:1", "[::ffff:10.0.0.1]:1"] {
        assert_eq!(from_flags(&[("server.listen", refused)]).unwrap_err().exit_code(), 78);
    }
    for accepted in ["127.0.0.1:0", "127.9.9.9:80", "[::1]:80", "[::ffff:127.0.0.1]:80"] {
        assert!(from_flags(&[("server.listen", accepted)]).is_ok(), "{accepted}");
    }
    let both = from_flags(&[("server.listen", "0.0.0.0:9000"), ("ring.slots", "1")]).unwrap_err();
    assert_eq!((both.exit_code(), both.iter().count()), (2, 2));
}

#[test]
fn all_errors_are_reported_in_the_order_they_were_written() {
    let errors = Settings::default()
        .file("a.toml", "[ring]\nslots = 65\nslot = 1\n[limits]\nstreams = 0\n")
        .env(env(&[("TICKCAST_DEMO__RATE", "fast")]))
        .flags(pairs(&[("demo.seeed", "1")]))
        .check()
        .unwrap_err();
    let places: Vec<_> = errors.iter().filter_map(|error| error.origin()).map(ToString::to_string).collect();
    assert_eq!(
        places,
        ["a.toml line 2", "a.toml line 3", "a.toml line 5", "env TICKCAST_DEMO__RATE", "flag"]
    );
    assert_eq!(errors.exit_code(), 2);
}

#[test]
fn a_file_that_is_no_toml_is_reported_beside_other_faults() {
    let errors = Settings::default()
        .file("a.toml", "[heartbeat]\ninterval = \n[limits\n")
        .flags(pairs(&[("ring.slots", "1"), ("heartbeat.interval", "60s")]))
        .check()
        .unwrap_err();
    let text = errors.to_string();
    assert!(text.contains("a.toml line 2 is not valid TOML: "), "{text}");
    assert!(text.contains("ring.slots = 1 (flag)"), "{text}");
    // The file may have said what makes the heartbeat right.
    assert!(!text.contains("idle_timeout"), "{text}");
}

// The edge.

#[test]
fn a_file_is_read_from_where_it_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tickcast.toml");
    let load = |path: &Path| {
        Config::load(Sources {
            file: Some(path.to_owned()),
            env: env(&[("TICKCAST_DEMO__SEED", "8")]),
            flags: Vec::new(),
        })
    };
    std::fs::write(&path, "\u{feff}[demo]\r\nsymbols = 3\r\n").unwrap();
    let config = load(&path).unwrap();
    assert_eq!((config.demo.symbols, config.demo.seed), (3, 8));

    std::fs::write(&path, b"[demo]\nsymbols = \xff").unwrap();
    assert!(refusal(load(&path)).contains("cannot be read"));
    std::fs::write(&path, vec![b'#'; 1 << 20]).unwrap();
    assert!(load(&path).is_ok());
    std::fs::write(&path, vec![b'#'; (1 << 20) + 1]).unwrap();
    assert!(refusal(load(&path)).contains("larger than 1MiB"));
    let absent = load(&directory.path().join("absent.toml")).unwrap_err();
    assert_eq!(absent.exit_code(), 2);
    assert!(load(directory.path()).is_err());
}

#[test]
fn text_that_is_not_unicode_is_refused_not_fatal() {
    use std::os::unix::ffi::OsStringExt;
    let garbled = || OsString::from_vec(vec![0xff, b'1']);
    let mut name = OsString::from("TICKCAST_RING__");
    name.push(garbled());
    let variables = [("TICKCAST_RING__SLOTS".into(), garbled()), (name, garbled()), (garbled(), garbled())];
    let errors = Settings::default().env(variables).check().unwrap_err();
    assert_eq!(errors.iter().count(), 2, "{errors}");
}

#[test]
fn messages_stay_on_their_line_whatever_was_written() {
    let long = "x".repeat(5000);
    let list = "\"x\",".repeat(5000);
    let text = format!("\"a\\nb\\u001b[31m\" = 1\njson.case = \"{long}\"\nlog.level = [{list}]\n");
    let refusal = refusal(Settings::default().file("a\n.toml", &text).check());
    assert_eq!(refusal.lines().count(), 3, "{refusal}");
    assert!(refusal.len() < 900 && !refusal.contains('\u{1b}'), "{refusal}");
}

#[test]
fn deep_nesting_is_refused_not_fatal() {
    for text in [
        format!("a = {}", "[".repeat(1_000_000)),
        format!("a = {}", "{ b = ".repeat(170_000)),
        format!("{}a = 1", "a.".repeat(520_000)),
        format!("[{}a]", "a.".repeat(520_000)),
    ] {
        assert!(from_toml(&text).is_err());
    }
}

/// Text that is nearly settings: real keys and sections with values of every type.
fn nearly_settings() -> impl Strategy<Value = String> {
    let key = prop::sample::select(KEYS).prop_map(|key| key.name.to_owned());
    let leaf = prop::sample::select(KEYS).prop_map(|key| key.leaf().to_owned());
    let section = prop::sample::select(SECTIONS).prop_map(|(section, _)| format!("[{section}]\n"));
    let value = prop_oneof![
        any::<i64>().prop_map(|integer| integer.to_string()),
        any::<f64>().prop_map(|float| float.to_string()),
        "\"[0-9]{0,22}(ms|s|m|h|B|KiB|MiB|GiB|)\"",
        ".{0,12}",
        prop::sample::select(KEYS).prop_map(|key| key.default.to_owned()),
    ];
    let line = prop_oneof![
        section,
        (prop_oneof![key, leaf, "[a-z._\"]{0,12}"], value)
            .prop_map(|(key, value)| format!("{key} = {value}\n")),
    ];
    prop::collection::vec(line, 0..8).prop_map(|lines| lines.concat())
}

proptest! {
    #[test]
    fn any_text_is_settings_or_refused(text in prop_oneof![any::<String>(), nearly_settings()]) {
        match from_toml(&text) {
            Ok(config) => prop_assert_eq!(
                from_toml(&config.show(true)).unwrap().show(false),
                config.show(false)
            ),
            Err(errors) => prop_assert!(!errors.to_string().is_empty()),
        }
    }

    #[test]
    fn any_env_and_flags_are_settings_or_refused(
        name in "TICKCAST_[A-Z_.]{0,20}|.{0,20}",
        key in prop_oneof![".{0,20}", prop::sample::select(KEYS).prop_map(|key| key.name.to_owned())],
        value in ".{0,20}|[0-9]{1,20}(s|KiB)?",
    ) {
        let _ = Settings::default().env(env(&[(&name, &value)])).check();
        let _ = from_flags(&[(&key, &value)]);
    }
}
