//! The list is compared with what is read, refused and assumed.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use super::*;
use crate::config::{Config, ConfigError};

/// Accepted whatever they say.
const UNCHECKED: [&str; 3] = [
    "DATABASE_LISTEN_URL",
    "OTEL_SERVICE_NAME",
    "STEPWELL_SERVER",
];
/// Where what is read depends on something, that is so that it is read.
const BASE: [(&str, &str); 3] = [
    ("SBX_MODE", "live"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h:1"),
    ("STEPWELL_TOKEN", "0123456789abcdef"),
];

fn variables() -> impl Iterator<Item = &'static Variable> {
    GROUPS.iter().flat_map(|group| group.variables)
}

/// What an environment of [`BASE`] and one more variable is read as; without that variable if it has no value.
fn read(name: &str, value: Option<&str>) -> Result<Config, ConfigError> {
    let mut environment: BTreeMap<&str, &str> = BASE.into();
    environment.remove(name);
    environment.extend(value.map(|value| (name, value)));
    Config::from_lookup(|name| environment.get(name).map(|value| (*value).to_owned()))
}

#[test]
fn what_is_listed_is_what_is_read() {
    let asked = RefCell::new(BTreeSet::new());
    let base: BTreeMap<&str, &str> = BASE.into();
    Config::from_lookup(|name| {
        asked.borrow_mut().insert(name.to_owned());
        base.get(name).map(|value| (*value).to_owned())
    })
    .unwrap();
    let listed = variables().map(|variable| variable.name);
    let listed: BTreeSet<String> = listed.chain(NOT_HONOURED).map(str::to_owned).collect();
    assert_eq!(asked.into_inner(), listed);
    let names = variables().map(|variable| variable.name);
    assert_eq!(names.count(), listed.len() - NOT_HONOURED.len());
}

#[test]
fn what_is_said_to_be_the_default_is() {
    for variable in variables() {
        let Is(value) = variable.default else {
            continue;
        };
        let unset = read(variable.name, None).unwrap();
        let set = read(variable.name, Some(value)).unwrap();
        assert_eq!(
            format!("{set:?}"),
            format!("{unset:?}"),
            "{}",
            variable.name
        );
    }
}

#[test]
fn what_is_said_to_be_accepted_is_what_a_refusal_says() {
    // Nothing but free text is all of these.
    let garbage = ["a=%zz,", "https://x/y", " "];
    for variable in variables() {
        let refused = garbage
            .iter()
            .find_map(|value| read(variable.name, Some(value)).err());
        let unchecked = UNCHECKED.contains(&variable.name);
        match refused {
            Some(error) => assert_eq!(
                (error.name, error.accepts.as_str()),
                (variable.name, variable.accepts)
            ),
            None => assert!(unchecked, "{} takes anything", variable.name),
        }
    }
}
