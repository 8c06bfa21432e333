//! Empty databases to migrate: a SQLite file always, and one on the server of `STEPWELL_TEST_POSTGRES_URL` unless
//! `STEPWELL_TEST_BACKENDS` is `sqlite`.

use std::sync::atomic::{AtomicU32, Ordering};

use sea_orm_migration::sea_orm::{
    ConnectionTrait, Database, DatabaseConnection, DbBackend, Statement, TryGetable,
};

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// A database that nobody else uses.
pub(crate) struct Empty {
    pub(crate) url: String,
    pub(crate) db: DatabaseConnection,
}

impl Empty {
    /// One of each kind that is available.
    pub(crate) async fn each() -> Vec<Self> {
        let mut all = vec![Self::sqlite().await];
        all.extend(Self::postgres().await);
        all
    }

    pub(crate) async fn sqlite() -> Self {
        let path = std::env::temp_dir().join(format!("{}.db", unique_name()));
        Self::connect(format!("sqlite://{}?mode=rwc", path.display())).await
    }

    pub(crate) async fn postgres() -> Option<Self> {
        if std::env::var("STEPWELL_TEST_BACKENDS").as_deref() == Ok("sqlite") {
            return None;
        }
        let server = std::env::var("STEPWELL_TEST_POSTGRES_URL").expect(
            "STEPWELL_TEST_POSTGRES_URL is not set: run ./scripts/test.sh, which starts a Postgres, or set STEPWELL_TEST_BACKENDS=sqlite",
        );
        let (name, admin) = (unique_name(), Database::connect(&server).await.unwrap());
        admin
            .execute_unprepared(&format!("CREATE DATABASE {name}"))
            .await
            .unwrap();
        let slash = server
            .find("://")
            .map(|scheme| scheme + 3)
            .and_then(|host| Some(host + server[host..].find('/')?));
        let question = server.find('?').unwrap_or(server.len());
        Some(
            Self::connect(format!(
                "{}/{name}{}",
                &server[..slash.unwrap_or(question)],
                &server[question..]
            ))
            .await,
        )
    }

    async fn connect(url: String) -> Self {
        let db = Database::connect(&url).await.unwrap();
        Self { url, db }
    }

    pub(crate) fn is_postgres(&self) -> bool {
        self.db.get_database_backend() == DbBackend::Postgres
    }

    /// Runs SQL that names tables `app.x` and `dbos.x`, which SQLite has without the qualifier.
    pub(crate) async fn execute(&self, sql: &str) {
        let sql = self.translate(sql);
        self.db
            .execute_unprepared(&sql)
            .await
            .unwrap_or_else(|error| panic!("{}: {sql}: {error}", self.url));
    }

    /// The first column of all rows.
    pub(crate) async fn column<T: TryGetable>(&self, sql: &str) -> Vec<T> {
        let sql = self.translate(sql);
        let statement = Statement::from_string(self.db.get_database_backend(), sql.clone());
        let rows = self
            .db
            .query_all_raw(statement)
            .await
            .unwrap_or_else(|error| panic!("{}: {sql}: {error}", self.url));
        rows.iter()
            .map(|row| row.try_get_by_index(0).unwrap())
            .collect()
    }

    pub(crate) async fn count(&self, from: &str) -> i64 {
        self.column(&format!("SELECT count(*) FROM {from}")).await[0]
    }

    fn translate(&self, sql: &str) -> String {
        if self.is_postgres() {
            sql.to_owned()
        } else {
            sql.replace("app.", "").replace("dbos.", "")
        }
    }

    /// Removes the database. One whose test failed stays, to be looked at.
    pub(crate) async fn remove(self) {
        let postgres = self.is_postgres();
        self.db.close().await.unwrap();
        if postgres {
            let name = self
                .url
                .rsplit('/')
                .next()
                .unwrap()
                .split('?')
                .next()
                .unwrap();
            let admin = Database::connect(std::env::var("STEPWELL_TEST_POSTGRES_URL").unwrap())
                .await
                .unwrap();
            admin
                .execute_unprepared(&format!("DROP DATABASE {name}"))
                .await
                .unwrap();
        } else {
            let path = self
                .url
                .trim_start_matches("sqlite://")
                .trim_end_matches("?mode=rwc");
            std::fs::remove_file(path).unwrap();
        }
    }
}

fn unique_name() -> String {
    format!(
        "stepwell_migration_{}_{}",
        std::process::id(),
        COUNTER.fetch_add(1, Ordering::Relaxed)
    )
}
