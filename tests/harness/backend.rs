//! Which database a test runs on, and whether this invocation wants it. Never connects to anything.

/// A kind of database Stepwell runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Sqlite,
    Postgres,
}

impl Backend {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
        }
    }

    /// Does `STEPWELL_TEST_BACKENDS` (sqlite, postgres or both; default both) include this one?
    pub(crate) fn is_selected(self) -> bool {
        let selected =
            std::env::var("STEPWELL_TEST_BACKENDS").unwrap_or_else(|_| "both".to_owned());
        assert!(
            ["sqlite", "postgres", "both"].contains(&selected.as_str()),
            "STEPWELL_TEST_BACKENDS must be sqlite, postgres or both, got {selected:?}"
        );
        selected == "both" || selected == self.name()
    }
}

/// The throwaway server's URL. Its role may create databases.
pub(super) fn postgres_server_url() -> String {
    std::env::var("STEPWELL_TEST_POSTGRES_URL").unwrap_or_else(|_| {
        panic!(
            "this test needs a throwaway Postgres: run ./scripts/test.sh, which starts one, \
             or set STEPWELL_TEST_POSTGRES_URL, or STEPWELL_TEST_BACKENDS=sqlite"
        )
    })
}

/// The same server, another database.
pub(super) fn with_database(url: &str, database: &str) -> String {
    let (address, query) = url
        .split_once('?')
        .map_or((url, ""), |(address, query)| (address, query));
    let authority = address
        .find("://")
        .expect("STEPWELL_TEST_POSTGRES_URL is a URL")
        + 3;
    let end = address[authority..]
        .find('/')
        .map_or(address.len(), |slash| authority + slash);
    let separator = if query.is_empty() { "" } else { "?" };
    format!("{}/{database}{separator}{query}", &address[..end])
}
