//! Owns the one reading of the drivers' errors: what a caller can do about each.

use sea_orm::{DbErr, RuntimeErr, sqlx};

use super::error::StoreError;

/// SQLite, the low byte of the extended code: 5 busy, 6 locked.
const SQLITE_CONTENTION: [u32; 2] = [5, 6];
/// 19 constraint, 18 too big, 20 mismatch.
const SQLITE_REFUSED: [u32; 3] = [18, 19, 20];
/// 10 input or output, 13 full, 14 cannot open: the machine, not the statement.
const SQLITE_AWAY: [u32; 3] = [10, 13, 14];
/// Postgres: 40001 serialization, 40P01 deadlock, 55P03 a lock was not had within the session's time-out.
const POSTGRES_CONTENTION: [&str; 3] = ["40001", "40P01", "55P03"];
/// Classes 22 (data) and 23 (integrity), 54 (limits).
const POSTGRES_REFUSED: [&str; 3] = ["22", "23", "54"];
/// Classes 08 connection, 53 resources (a full disk among them), 57 operator intervention (also the session's time-out for statements), 58
/// system; 25006: a server that only reads, as one does that was the first before a failover; 25P03: the session was idle in a transaction for
/// too long, because this process stood still.
const POSTGRES_AWAY: [&str; 6] = ["08", "53", "57", "58", "25006", "25P03"];

/// Classifies the driver's error by what the caller can do about it.
pub(super) fn classify(error: &DbErr) -> StoreError {
    let message = error.to_string();
    let source = match error {
        DbErr::Conn(e) | DbErr::Exec(e) | DbErr::Query(e) => e,
        DbErr::ConnectionAcquire(_) => return StoreError::Connection(message),
        _ => return StoreError::Database(message),
    };
    let RuntimeErr::SqlxError(source) = source else {
        return StoreError::Connection(message);
    };
    let sqlx::Error::Database(database) = source.as_ref() else {
        return StoreError::Connection(message);
    };
    let code = database.code().unwrap_or_default();
    if database
        .try_downcast_ref::<sqlx::sqlite::SqliteError>()
        .is_some()
    {
        return of_sqlite(code.parse().unwrap_or_default(), message);
    }
    of_postgres(&code, message)
}

fn of_sqlite(extended: u32, message: String) -> StoreError {
    match extended & 0xff {
        code if SQLITE_CONTENTION.contains(&code) => StoreError::Contention(message),
        code if SQLITE_REFUSED.contains(&code) => StoreError::Refused(message),
        code if SQLITE_AWAY.contains(&code) => StoreError::Connection(message),
        _ => StoreError::Database(message),
    }
}

fn of_postgres(code: &str, message: String) -> StoreError {
    let is_one_of = |starts: &[&str]| starts.iter().any(|start| code.starts_with(start));
    if is_one_of(&POSTGRES_CONTENTION) {
        StoreError::Contention(message)
    } else if is_one_of(&POSTGRES_REFUSED) {
        StoreError::Refused(message)
    } else if is_one_of(&POSTGRES_AWAY) {
        StoreError::Connection(message)
    } else {
        StoreError::Database(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_told_from_what_stays() {
        let passes = |error: StoreError| error.is_transient();
        for code in [5, 6, 517, 10, 13, 14] {
            assert!(passes(of_sqlite(code, String::new())), "{code}");
        }
        for code in [1, 8, 11, 19, 2067] {
            assert!(!passes(of_sqlite(code, String::new())), "{code}");
        }
        for code in [
            "40001", "40P01", "55P03", "08006", "53100", "57014", "57P01", "58030", "25006",
            "25P03",
        ] {
            assert!(passes(of_postgres(code, String::new())), "{code}");
        }
        for code in ["22001", "23505", "42P01", "25P02", "54000"] {
            assert!(!passes(of_postgres(code, String::new())), "{code}");
        }
    }
}
