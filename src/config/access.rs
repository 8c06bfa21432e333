//! Owns who may talk to the service: the address it listens on, the tokens it knows, the names it answers to.

use std::{fmt, net::IpAddr};

use super::{ConfigError, Lookup};

/// Shorter tokens can be guessed.
const SHORTEST_TOKEN: usize = 16;
const TOKENS: &str = "at least 16 printable ASCII characters without spaces";

/// A bearer token. It is never shown: not in a log, not in an error.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The text itself, for whoever compares it or sends it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

/// Who may talk to the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// `HOST`: the IP address to listen on. Default: `127.0.0.1`.
    pub host: IpAddr,
    /// `STEPWELL_TOKEN`: the bearer token that may do everything. Default: none, which only loopback allows.
    pub token: Option<Token>,
    /// `STEPWELL_READ_TOKEN`: a bearer token that may only read. Default: none.
    pub read_token: Option<Token>,
    /// `STEPWELL_ALLOWED_HOSTS`: host names that requests may name beside loopback's and the address they came to. Default: none.
    pub allowed_hosts: Vec<String>,
}

impl Access {
    /// The access of this process to itself, without a network in between.
    pub fn of_this_process() -> Self {
        Self {
            host: IpAddr::from([127, 0, 0, 1]),
            token: None,
            read_token: None,
            allowed_hosts: Vec::new(),
        }
    }

    pub(super) fn read(env: &Lookup<'_>) -> Result<Self, ConfigError> {
        let access = Self {
            host: env.number(
                "HOST",
                IpAddr::from([127, 0, 0, 1]),
                "an IP address to listen on, such as 127.0.0.1 or 0.0.0.0",
                |_| true,
            )?,
            token: token(env, "STEPWELL_TOKEN")?,
            read_token: token(env, "STEPWELL_READ_TOKEN")?,
            allowed_hosts: env.parsed("STEPWELL_ALLOWED_HOSTS", Vec::new(), host_names)?,
        };
        let refuse = |name, value: String, accepts: &str| {
            Err(ConfigError {
                name,
                value,
                accepts: accepts.to_owned(),
            })
        };
        if access.token.is_none() && !access.host.to_canonical().is_loopback() {
            let accepts = "only a loopback address while STEPWELL_TOKEN is not set: whoever reaches the API runs commands on this machine";
            return refuse("HOST", access.host.to_string(), accepts);
        }
        if access.read_token.is_some() && access.token.is_none() {
            let accepts = "a value only beside STEPWELL_TOKEN: without that one nobody could write";
            return refuse("STEPWELL_READ_TOKEN", hidden(), accepts);
        }
        if access.read_token.is_some() && access.read_token == access.token {
            return refuse(
                "STEPWELL_READ_TOKEN",
                hidden(),
                "another value than STEPWELL_TOKEN",
            );
        }
        Ok(access)
    }
}

fn hidden() -> String {
    "(hidden)".into()
}

fn token(env: &Lookup<'_>, name: &'static str) -> Result<Option<Token>, ConfigError> {
    let Some(text) = env.text(name) else {
        return Ok(None);
    };
    if text.len() >= SHORTEST_TOKEN && text.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(Some(Token(text)));
    }
    Err(ConfigError {
        name,
        value: hidden(),
        accepts: TOKENS.into(),
    })
}

fn host_names(list: &str) -> Result<Vec<String>, String> {
    let names = list
        .split(',')
        .map(|name| name.trim().to_ascii_lowercase())
        .filter(|name| !name.is_empty());
    let is_name = |name: &String| {
        name.parse::<IpAddr>().is_ok()
            || name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
    };
    let names: Vec<String> = names.collect();
    if names.iter().all(is_name) {
        Ok(names)
    } else {
        Err("host names separated by commas, without scheme, port or path".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Access, ConfigError> {
        let lookup = |name: &str| {
            let found = pairs.iter().find(|(n, _)| *n == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Access::read(&Lookup(&lookup))
    }

    #[test]
    fn loopback_needs_no_token_and_everything_else_does() {
        assert_eq!(read(&[]).unwrap().host, IpAddr::from([127, 0, 0, 1]));
        read(&[("HOST", "::1")]).unwrap();
        for host in ["0.0.0.0", "::", "192.0.2.7"] {
            let error = read(&[("HOST", host)]).unwrap_err();
            assert_eq!((error.name, error.value.as_str()), ("HOST", host));
            assert!(error.accepts.contains("STEPWELL_TOKEN"), "{error}");
            read(&[("HOST", host), ("STEPWELL_TOKEN", "0123456789abcdef")]).unwrap();
        }
        assert_eq!(read(&[("HOST", "localhost")]).unwrap_err().name, "HOST");
    }

    #[test]
    fn a_bad_token_is_named_and_not_shown() {
        let good = ("STEPWELL_TOKEN", "0123456789abcdef");
        for (name, pairs) in [
            ("STEPWELL_TOKEN", vec![("STEPWELL_TOKEN", "sesame")]),
            (
                "STEPWELL_TOKEN",
                vec![("STEPWELL_TOKEN", "sesame sesame sesame")],
            ),
            (
                "STEPWELL_READ_TOKEN",
                vec![("STEPWELL_READ_TOKEN", "sesame-sesame-sesame")],
            ),
            (
                "STEPWELL_READ_TOKEN",
                vec![good, ("STEPWELL_READ_TOKEN", "0123456789abcdef")],
            ),
        ] {
            let error = read(&pairs).unwrap_err();
            assert_eq!(error.name, name);
            let shown = format!("{error} {error:?}");
            assert!(
                !shown.contains("sesame") && !shown.contains("0123456789"),
                "{shown}"
            );
        }
        let shown = format!("{:?}", read(&[good]).unwrap());
        assert!(!shown.contains("0123456789"), "{shown}");
    }

    #[test]
    fn host_names_are_a_list_without_ports() {
        let access = read(&[(
            "STEPWELL_ALLOWED_HOSTS",
            "Stepwell.Example, jobs.internal,192.0.2.7",
        )]);
        assert_eq!(
            access.unwrap().allowed_hosts,
            ["stepwell.example", "jobs.internal", "192.0.2.7"]
        );
        for list in ["https://x", "x:3001", "x/y", "a b"] {
            read(&[("STEPWELL_ALLOWED_HOSTS", list)]).unwrap_err();
        }
    }
}
