//! A durable workflow without any of Stepwell's product: charge, wait for the parcel, thank.
//!
//! `cargo run --example order` — kill it while it waits and run it again: the card is not charged twice.

use std::{error::Error, time::Duration};

use stepwell::{
    engine::{
        Context, Engine, EngineOptions, Receive, StartOptions, Workflow, WorkflowError, migrate,
    },
    store::{Database, DatabaseOptions, queue_limits::QueueSettings},
};

struct Order;

impl Workflow for Order {
    const NAME: &'static str = "example.order";
    type Input = u32;
    type Output = String;

    async fn run(&self, ctx: &Context, cents: u32) -> Result<String, WorkflowError> {
        let receipt: String = ctx
            .step("charge", move || async move { Ok(charge(cents)) })
            .await?;
        ctx.sleep(Duration::from_secs(3)).await?;
        let parcel: Option<String> = ctx
            .receive(Receive {
                topic: "parcel".into(),
                ..Receive::default()
            })
            .await?;
        let parcel = parcel.unwrap_or_default();
        ctx.step("thank", move || async move {
            Ok(format!("{receipt}, sent as {parcel}"))
        })
        .await
    }
}

fn charge(cents: u32) -> String {
    eprintln!("charging {cents} cents");
    format!("charged {cents}")
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url =
        std::env::var("DATABASE_URL").unwrap_or_else(|_| "sqlite://.stepwell/example.db".into());
    let db = Database::connect(&DatabaseOptions::new(url)).await?;
    migrate(&db).await?;
    let options = EngineOptions {
        queues: vec![QueueSettings::unlimited("orders")],
        executor_expiry_ms: 3_000,
        ..EngineOptions::default()
    };
    let engine = Engine::builder(db, options).register(Order)?.launch();
    let id = std::env::args().nth(1).unwrap_or_else(|| "order-1".into());
    let order = StartOptions {
        id: Some(id.clone()),
        queue: "orders".into(),
        ..StartOptions::default()
    };
    engine.client().start::<Order>(&1_999, order).await?;
    // The same message id twice is one message, so it does not matter how often this program runs.
    engine
        .client()
        .send(&id, "parcel", &"parcel 42", Some(format!("{id}-parcel")))
        .await?;
    let result = engine
        .client()
        .result::<String>(&id, Duration::from_millis(50))
        .await?;
    eprintln!("{}", result?);
    engine.shutdown().await;
    Ok(())
}
