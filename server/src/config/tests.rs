//! The example, the structs and the refusals agree.

use std::path::Path;

use super::*;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("causeway.toml"), [])
}

fn with_variable(name: &str, value: &str) -> Result<Config, ConfigError> {
    let variables = [(name.to_owned(), value.to_owned())];
    Config::parse(MINIMAL, Path::new("causeway.toml"), variables)
}

const MINIMAL: &str = "server_name = \"a.example:8448\"\n[[listeners]]\naddress = \"127.0.0.1:0\"\n";

#[test]
fn the_example_holds_the_defaults() {
    let minimal = parse(MINIMAL).expect("minimal");
    let mut example = parse(catalogue::EXAMPLE).expect("example");
    assert_eq!(example.server_name, "example.org");
    example.server_name = minimal.server_name.clone();
    example.listeners.clone_from(&minimal.listeners);
    assert_eq!(example, minimal);
}

#[test]
fn the_example_names_every_key_of_the_structs() {
    let example = parse(&catalogue::uncommented(catalogue::EXAMPLE)).expect("example");
    let written: toml::Table = toml::to_string(&example).expect("serialises").parse().expect("TOML");
    catalogue::Catalogue::of_example().check(&written, Path::new("structs")).expect("all known");
    assert!(example.listeners[0].tls().is_some());
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest() {
    let error = parse(&format!("{MINIMAL}[registration]\nmod = \"open\"\n")).expect_err("unknown");
    assert_eq!(
        error.to_string(),
        "causeway.toml: unknown key registration.mod (did you mean registration.mode?)"
    );
    let error = parse("sever_name = \"a\"").expect_err("unknown");
    assert!(error.to_string().contains("did you mean server_name?"), "{error}");
}

#[test]
fn the_environment_overrides() {
    let config = with_variable("CAUSEWAY_REGISTRATION__MODE", "open").expect("known");
    assert_eq!(config.registration.mode, RegistrationMode::Open);
    let config = with_variable("CAUSEWAY_PASSWORDS__MEMORY_KIB", "64").expect("known");
    assert_eq!(config.passwords.memory_kib, 64);
    let config = with_variable("CAUSEWAY_FEDERATION__IP_DENY_LIST", "[]").expect("known");
    assert!(config.federation.ip_deny_list.is_empty());
    let config =
        with_variable("CAUSEWAY_LISTENERS", "[{address='127.0.0.1:1'},{address='[::1]:2'}]").expect("known");
    assert_eq!(config.listeners.len(), 2);
    let error = with_variable("CAUSEWAY_REGISTRATION__MODES", "open").expect_err("unknown");
    assert!(error.to_string().contains("did you mean CAUSEWAY_REGISTRATION__MODE?"), "{error}");
    with_variable("CAUSEWAY_CONFIG", "/some/file").expect("not a key, but known");
}

#[test]
fn a_string_of_the_environment_may_look_like_something_else() {
    let config = with_variable("CAUSEWAY_ROOMS__DEFAULT_VERSION", "11").expect("a string");
    assert_eq!(config.rooms.default_version, ruma::RoomVersionId::V11);
    let config = with_variable("CAUSEWAY_REGISTRATION__SHARED_SECRET", "12345").expect("a string");
    assert_eq!(config.registration.shared_secret, "12345");
    let config = with_variable("CAUSEWAY_TURN__SECRET", "true").expect("a string");
    assert_eq!(config.turn.secret, "true");
    let config = with_variable("CAUSEWAY_TURN__SECRET", "'quoted'").expect("a TOML string");
    assert_eq!(config.turn.secret, "quoted");
}

#[test]
fn a_wrong_value_of_the_environment_is_told_under_its_variable() {
    for (name, value) in [
        ("CAUSEWAY_PASSWORDS__MEMORY_KIB", "much"),
        ("CAUSEWAY_REGISTRATION__MODE", "ajar"),
        ("CAUSEWAY_RATE_LIMITS__ENABLED", "7"),
        ("CAUSEWAY_LISTENERS", "127.0.0.1:1"),
    ] {
        let line = with_variable(name, value).expect_err(name).to_string();
        assert!(line.starts_with(&format!("environment variable {name}: ")), "{line}");
        assert!(!line.contains("causeway.toml") && !line.contains('\n'), "{line}");
    }
}

#[test]
fn wrong_values_are_named() {
    for (text, part) in [
        ("[rooms]\ndefault_version = \"3\"\n", "rooms.default_version"),
        ("[passwords]\nmemory_kib = 4\n", "passwords.memory_kib"),
        ("[rate_limits]\nlogin = { per_second = 0.0, burst = 1 }\n", "rate_limits.login"),
        ("[telemetry]\ntrace_ratio = 2.0\n", "telemetry.trace_ratio"),
        ("[telemetry]\nlog = \"a=b=c\"\n", "telemetry.log"),
        ("[well_known]\nclient = \"no url\"\n", "well_known.client"),
        ("[oauth]\nbase_url = \"https://x.y/path\"\n", "oauth.base_url"),
        ("[registration]\nmode = \"ajar\"\n", "ajar"),
    ] {
        let error = parse(&format!("{MINIMAL}{text}")).expect_err(text);
        let line = error.to_string();
        assert!(line.contains(part) && !line.contains('\n'), "{line}");
    }
}

#[test]
fn a_generated_configuration_is_used_as_written() {
    let text = generate(&Template {
        server_name: "b.example",
        data_folder: "some where",
        address: "127.0.0.1:8009",
        registration_token: Some("let me \"in\""),
        shared_secret: "s",
    });
    let config = parse(&text).expect("generated");
    assert_eq!(config.server_name, "b.example");
    assert_eq!(config.data_folder, Path::new("some where"));
    assert_eq!(config.registration.tokens, ["let me \"in\""]);
    assert_eq!(config.registration.mode, RegistrationMode::Token);
    assert_eq!(config.registration.shared_secret, "s");
    assert_eq!(config.listeners[0].address.port(), 8009);
}
