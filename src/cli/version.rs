//! Owns what the program says of itself: its version, the commit that it was built of, and the schemas that it brings.

use std::sync::LazyLock;

/// The version alone.
pub(super) const SHORT: &str = env!("CARGO_PKG_VERSION");

/// The version, the commit, and the schemas: `app` by its newest migration, `dbos` by its number.
pub(super) fn long() -> &'static str {
    static LONG: LazyLock<String> = LazyLock::new(|| {
        format!(
            "{SHORT}\ncommit       {}\nschema app   {}\nschema dbos  {}",
            env!("STEPWELL_COMMIT"),
            migration::newest(),
            migration::DBOS_VERSION
        )
    });
    &LONG
}
