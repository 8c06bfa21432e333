//! What the process says of itself: logs for people and machines. Never the truth: that is in rows.

use tracing_subscriber::EnvFilter;

/// What a service logs when `RUST_LOG` does not say.
pub const OF_A_SERVICE: &str = "info,sqlx=warn,sea_orm=warn,sea_orm_migration=warn";
/// What a command logs whose output somebody reads.
pub const OF_A_COMMAND: &str = "warn";

/// Starts to write logs to standard error, as `RUST_LOG` filters them, or `otherwise`.
pub fn init(otherwise: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(otherwise));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false);
    // A second call, by an embedding program, keeps its own subscriber.
    let _ = logs.try_init();
}
