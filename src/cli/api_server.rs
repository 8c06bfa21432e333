//! `stepwell api`: the API without execution. It binds `PORT` and nothing else; workers execute what it takes in.

use tokio::task::JoinSet;

use super::{
    CliError, say,
    service::{Servers, Signals, bind},
    session::{available, one_shot},
};
use crate::{
    api::{self, ApiService, Ticks},
    config::Config,
    engine::{self, Client},
    intent::Product,
    store::Database,
};

pub(super) async fn run(config: &Config) -> Result<(), CliError> {
    let mut signals = Signals::catch()?;
    let db = Database::connect(&config.database()).await?;
    engine::migrate(&db).await?;
    let listener = bind(config, config.port, "the API").await?;
    let mut helpers = JoinSet::new();
    let client = Client::announcing(db.clone(), config.app_version.clone(), &mut helpers);
    let product = Product::new(client, config);
    let one_shot = one_shot(config, &db, config.engine(), available(config).await);
    let ticks = Ticks::new(one_shot, &config.access);
    let service =
        ApiService::new(product, db.clone(), config.app_version.clone()).with_ticks(ticks.clone());
    let mut servers = Servers::new(config.shutdown_grace);
    let app = api::app(service, &config.access).map_err(CliError::Failed)?;
    let address = servers.answer(listener, app, api::API_CONNECTIONS)?;
    say(&format!(
        "Stepwell {} api (application version {})",
        env!("CARGO_PKG_VERSION"),
        config.app_version
    ));
    say(&format!("  listening  http://{address}"));
    say(&format!("  database   {}", db.display_url()));
    say(
        "  executes   nothing; `stepwell worker` does, on the same database and with the same application version",
    );

    signals.next().await;
    tracing::info!("stopping: requests under way may end");
    signals
        .unless_again(async {
            ticks.finish().await;
            servers.stop().await;
            helpers.shutdown().await;
        })
        .await
}
