//! What a claim from a limited queue chooses, said twice: here as a pure function over everything that there is, in the store as SQL that looks
//! at little. Random queues must get the same answer from both.
//!
//! `STEPWELL_CLAIM_CASES` says how many queues, `STEPWELL_CLAIM_SEED` which.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use std::collections::BTreeMap;

use harness::*;
use sea_orm::{ConnectionTrait, DbBackend, Statement};
use stepwell::{
    engine::migrate,
    store::{
        Database, DatabaseOptions,
        backend::Transaction,
        candidates,
        claims::{self, Claimer},
        queue_limits::{self, QueueSettings},
        queue_settings,
        turns::{self, Turn, Wish},
    },
};

/// A period that does not end while the test runs.
const HOUR_MS: i64 = 3_600_000;

#[derive(Debug, Clone, PartialEq)]
enum State {
    Queued,
    Due(i64),
    Running { here: bool },
    Ended,
}

#[derive(Debug, Clone)]
struct Job {
    id: String,
    partition: Option<String>,
    priority: i64,
    created_at: i64,
    state: State,
}

/// Everything about a queue, as the pure function sees it.
#[derive(Debug)]
struct Model {
    settings: QueueSettings,
    started: i64,
    jobs: Vec<Job>,
    /// The partition that was served last.
    after: Option<String>,
}

impl Model {
    fn running(&self, counts: impl Fn(&Job, bool) -> bool) -> i64 {
        let live = self
            .jobs
            .iter()
            .filter(|job| matches!(job.state, State::Running { here } if counts(job, here)));
        live.count() as i64
    }

    fn room(&self, partition: &Option<String>, chosen: &[usize]) -> i64 {
        let Some(most) = self.settings.partition_concurrency else {
            return i64::MAX;
        };
        let live = self.running(|job, _| job.partition == *partition);
        let mine = chosen
            .iter()
            .filter(|n| self.jobs[**n].partition == *partition);
        i64::from(most) - live - mine.count() as i64
    }

    /// The jobs to be claimed, in order, and the partition that has been served last then.
    fn choose(&self, slots: i64, due: bool) -> (Vec<usize>, Option<String>) {
        let left = |most: Option<i32>, used: i64| {
            most.map_or(i64::MAX, |most| (i64::from(most) - used).max(0))
        };
        let wake = slots
            .min(left(self.settings.concurrency, self.running(|_, _| true)))
            .min(left(
                self.settings.worker_concurrency,
                self.running(|_, here| here),
            ));
        let mut chosen = Vec::new();
        if due {
            let mut waiting: Vec<usize> = (0..self.jobs.len())
                .filter(|n| matches!(self.jobs[*n].state, State::Due(_)))
                .collect();
            waiting.sort_by_key(|n| match &self.jobs[*n].state {
                State::Due(at) => (*at, self.jobs[*n].id.clone()),
                _ => unreachable!(),
            });
            if self.settings.partition_concurrency.is_some() {
                self.take_turns(waiting, wake, &mut chosen);
            } else {
                chosen.extend(waiting.into_iter().take(wake as usize));
            }
        }
        let start = wake
            .min(left(self.settings.rate_limit_max, self.started))
            .min(wake - chosen.len() as i64);
        let mut queued: Vec<usize> = (0..self.jobs.len())
            .filter(|n| self.jobs[*n].state == State::Queued)
            .collect();
        queued.sort_by_key(|n| (self.jobs[*n].priority, self.jobs[*n].created_at));
        if !self.settings.fair && self.settings.partition_concurrency.is_none() {
            chosen.extend(queued.into_iter().take(start as usize));
            return (chosen, self.after.clone());
        }
        if start == 0 {
            return (chosen, self.after.clone());
        }
        // By key; those without one stand behind all keys.
        let mut partitions: BTreeMap<(bool, Option<String>), Vec<usize>> = BTreeMap::new();
        for n in queued {
            let partition = self.jobs[n].partition.clone();
            if self.room(&partition, &chosen) > 0 {
                partitions
                    .entry((partition.is_none(), partition))
                    .or_default()
                    .push(n);
            }
        }
        let behind = |(keyless, partition): &(bool, Option<String>)| match &self.after {
            None => true,
            Some(after) => *keyless || partition.as_ref() > Some(after),
        };
        let (first, second): (Vec<_>, Vec<_>) =
            partitions.into_iter().partition(|(key, _)| behind(key));
        let window: Vec<_> = first
            .into_iter()
            .chain(second)
            .take(start as usize)
            .collect();
        let Some(((_, last), _)) = window.last().cloned() else {
            return (chosen, self.after.clone());
        };
        let share = (start as usize).div_ceil(window.len());
        let offered: Vec<usize> = window
            .into_iter()
            .flat_map(|(_, jobs)| jobs.into_iter().take(share))
            .collect();
        let (woken, offers) = (chosen.len(), offered.len());
        self.take_turns(offered, start, &mut chosen);
        let full = (chosen.len() - woken) as i64 == start;
        let after = if full && offers as i64 > start {
            self.jobs[*chosen.last().unwrap()].partition.clone()
        } else {
            last
        };
        (chosen, after)
    }

    /// One of each partition, in the order in which they first appear, then the second of each.
    fn take_turns(&self, mut rows: Vec<usize>, want: i64, chosen: &mut Vec<usize>) {
        let mut order: Vec<Option<String>> = Vec::new();
        for n in &rows {
            if !order.contains(&self.jobs[*n].partition) {
                order.push(self.jobs[*n].partition.clone());
            }
        }
        let mut wanted = want;
        while wanted > 0 && !rows.is_empty() {
            for partition in &order {
                let Some(place) = rows
                    .iter()
                    .position(|n| self.jobs[*n].partition == *partition)
                else {
                    continue;
                };
                let n = rows.remove(place);
                if self.room(partition, chosen) > 0 && wanted > 0 {
                    chosen.push(n);
                    wanted -= 1;
                }
            }
        }
    }

    /// What must hold whatever was chosen.
    fn assert_limits(&self) {
        let within = |most: Option<i32>, used: i64| most.is_none_or(|most| used <= i64::from(most));
        assert!(within(self.settings.concurrency, self.running(|_, _| true)));
        assert!(within(
            self.settings.worker_concurrency,
            self.running(|_, here| here)
        ));
        assert!(within(self.settings.rate_limit_max, self.started));
        for job in &self.jobs {
            assert!(self.room(&job.partition, &[]) >= 0, "{:?}", job.partition);
        }
    }
}

fn limit(random: &mut Random, percent: u64, most: u64) -> Option<i32> {
    random
        .percent(percent)
        .then(|| i32::try_from(1 + random.below(most)).unwrap())
}

fn job(random: &mut Random, queue: &str, n: usize, states: &[State]) -> Job {
    let partition = match random.below(7) {
        0 => None,
        1..=3 => Some("a".to_owned()),
        n => Some(format!("p{n}")),
    };
    let state = match &states[random.below(states.len() as u64) as usize] {
        State::Due(_) => State::Due(1 + random.below(20) as i64),
        other => other.clone(),
    };
    Job {
        id: format!("{queue}-{n:04}"),
        partition,
        priority: random.below(3) as i64,
        created_at: 1_000 + ((n as i64 * 7_919) % 1_009) * 10_000 + n as i64,
        state,
    }
}

async fn insert(stage: &Stage, queue: &str, jobs: &[Job]) {
    if jobs.is_empty() {
        return;
    }
    let text = |value: &Option<String>| {
        value
            .as_ref()
            .map_or("NULL".to_owned(), |text| format!("'{text}'"))
    };
    let (mut rows, mut claims, mut waits) = (Vec::new(), Vec::new(), Vec::new());
    for job in jobs {
        let (status, owner) = match &job.state {
            State::Queued => ("ENQUEUED", "NULL".to_owned()),
            State::Due(_) => ("PENDING", "NULL".to_owned()),
            State::Running { .. } => ("PENDING", format!("'t-{}'", job.id)),
            State::Ended => unreachable!(),
        };
        rows.push(format!(
            "('{}', '{status}', 'test.job', '{queue}', {}, {}, {}, 1, 'v1', 'stepwell', 0, {owner})",
            job.id, text(&job.partition), job.priority, job.created_at
        ));
        match &job.state {
            State::Due(at) => waits.push(format!("('{}', '{queue}', '[]', {at}, 1)", job.id)),
            State::Running { here } => claims.push(format!(
                "('{0}', 't-{0}', '{1}', '{queue}', {2}, 0, 1)",
                job.id,
                if *here { "me" } else { "other" },
                text(&job.partition)
            )),
            _ => {}
        }
    }
    for (into, rows) in [
        (
            "dbos.workflow_status (workflow_uuid, status, name, queue_name, queue_partition_key, priority, created_at, updated_at, \
             application_version, application_name, recovery_attempts, owner_xid)",
            rows,
        ),
        (
            "app.claims (workflow_id, token, executor_id, queue_name, queue_partition_key, outputs_at_claim, claimed_at)",
            claims,
        ),
        (
            "app.waits (workflow_id, queue_name, conditions, due_at, created_at)",
            waits,
        ),
    ] {
        if !rows.is_empty() {
            stage
                .sql_execute(&format!("INSERT INTO {into} VALUES {}", rows.join(", ")))
                .await;
        }
    }
}

/// Ends some of what runs.
async fn end_some(stage: &Stage, random: &mut Random, model: &mut Model) {
    let mut ended = Vec::new();
    for job in &mut model.jobs {
        if matches!(job.state, State::Running { .. }) && random.percent(40) {
            job.state = State::Ended;
            ended.push(format!("'{}'", job.id));
        }
    }
    if ended.is_empty() {
        return;
    }
    let ids = ended.join(", ");
    stage
        .sql_execute(&format!("UPDATE dbos.workflow_status SET status = 'SUCCESS', owner_xid = NULL WHERE workflow_uuid IN ({ids})"))
        .await;
    stage
        .sql_execute(&format!(
            "DELETE FROM app.claims WHERE workflow_id IN ({ids})"
        ))
        .await;
}

/// Claims once, as the engine does; answers the ids in order, and whether there may be more.
async fn claim(
    db: &Database,
    claimer: &Claimer,
    wish: Wish<'_>,
    turn: &mut Turn,
) -> (Vec<String>, bool) {
    let tx = db.begin().await.unwrap();
    let row = queue_limits::lock(&tx, wish.queue).await.unwrap().unwrap();
    let live = queue_limits::live(&tx, wish.queue, &claimer.executor_id, row.takes_turns())
        .await
        .unwrap();
    let allowance = queue_limits::allowance(&row, &live, wish.slots);
    let choice = turns::choose(&tx, claimer, wish, &row, (&live, &allowance), turn)
        .await
        .unwrap();
    let ids: Vec<String> = choice
        .candidates
        .iter()
        .map(|candidate| candidate.workflow_uuid.clone())
        .collect();
    let started = ids.len() - choice.woken;
    let rated_at = allowance.rate_limited.then_some(live.now);
    let taken = claims::take(&tx, claimer, choice.candidates, rated_at)
        .await
        .unwrap();
    assert_eq!(taken.claimed.len(), ids.len());
    if allowance.rate_limited && started > 0 {
        queue_limits::spend(&tx, wish.queue, &row, live.now, started)
            .await
            .unwrap();
    }
    tx.commit().await.unwrap();
    *turn = choice.turn;
    (ids, choice.more)
}

async fn one_queue(stage: &Stage, db: &Database, seed: u64) {
    let random = &mut Random::new(seed);
    let queue = format!("q{seed}");
    let settings = QueueSettings {
        name: queue.clone(),
        concurrency: limit(random, 50, 8),
        worker_concurrency: limit(random, 40, 6),
        partition_concurrency: limit(random, 60, 3),
        rate_limit_max: limit(random, 30, 12),
        rate_limit_period_ms: None,
        max_backlog: None,
        fair: random.percent(50),
    };
    let settings = QueueSettings {
        rate_limit_period_ms: settings.rate_limit_max.map(|_| HOUR_MS),
        ..settings
    };
    queue_settings::ensure(&db.write(), std::slice::from_ref(&settings))
        .await
        .unwrap();
    let claimer = claimer();
    let mut model = Model {
        settings,
        started: 0,
        jobs: Vec::new(),
        after: None,
    };
    let mut turn = Turn::default();
    for step in 0..6 {
        let states = [
            State::Queued,
            State::Queued,
            State::Queued,
            State::Due(0),
            State::Running { here: false },
        ];
        // Only a limit that is not there cannot be exceeded by what is put there as running.
        let free =
            model.settings.concurrency.is_none() && model.settings.partition_concurrency.is_none();
        let states = if free { &states[..] } else { &states[..4] };
        let new: Vec<Job> = (0..random.below(12) as usize)
            .map(|n| job(random, &queue, model.jobs.len() + n, states))
            .collect();
        insert(stage, &queue, &new).await;
        model.jobs.extend(new);
        let (slots, due) = (1 + random.below(10), random.percent(60));
        let (expected, after) = model.choose(slots as i64, due);
        let expected_ids: Vec<String> =
            expected.iter().map(|n| model.jobs[*n].id.clone()).collect();
        let wish = Wish {
            queue: &queue,
            due,
            slots,
            front: None,
        };
        let (claimed, _) = claim(db, &claimer, wish, &mut turn).await;
        assert_eq!(
            claimed, expected_ids,
            "STEPWELL_CLAIM_SEED={seed}, step {step}, {slots} slots, due {due}: {model:#?}"
        );
        model.after = after;
        for n in expected {
            if model.jobs[n].state == State::Queued && model.settings.rate_limit_max.is_some() {
                model.started += 1;
            }
            model.jobs[n].state = State::Running { here: true };
        }
        model.assert_limits();
        end_some(stage, random, &mut model).await;
    }
}

on_both_databases! {
    async fn the_store_chooses_what_the_pure_function_chooses(stage: Stage) {
        let db = database(&stage).await;
        let (seed, cases) = (number_from("STEPWELL_CLAIM_SEED", 1), number_from("STEPWELL_CLAIM_CASES", 150));
        for case in 0..cases {
            one_queue(&stage, &db, seed + case).await;
        }
    }

    /// Two hundred partitions of a version that nobody serves any more, and one of ours behind them.
    async fn partitions_that_nobody_here_may_claim_are_passed_within_few_hints(stage: Stage) {
        let db = database(&stage).await;
        let settings = QueueSettings { fair: true, ..QueueSettings::unlimited("leftQ") };
        queue_settings::ensure(&db.write(), &[settings]).await.unwrap();
        for (id, version, partition, rows) in [("left", "v0", "'p' || (1000 + i)", 200), ("ours", "v1", "'z'", 1)] {
            let inserted = stage.sql_execute(&format!(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) INSERT INTO dbos.workflow_status \
                 (workflow_uuid, status, name, queue_name, queue_partition_key, application_version, application_name, priority, \
                 recovery_attempts, created_at, updated_at) SELECT '{id}-' || i, 'ENQUEUED', 'test.job', 'leftQ', {partition}, '{version}', \
                 'stepwell', 0, 0, 1, 1 FROM n"
            )).await;
            assert_eq!(inserted, rows);
        }
        let claimer = claimer();
        let (mut turn, mut claimed, mut more, mut hints) = (Turn::default(), Vec::new(), false, 0);
        while claimed.is_empty() && hints < 200 {
            hints += u32::from(!more);
            let wish = Wish { queue: "leftQ", due: false, slots: 10, front: None };
            (claimed, more) = claim(&db, &claimer, wish, &mut turn).await;
        }
        // Ten partitions a claim, and eight claims in a row that find nothing.
        assert_eq!((claimed, hints), (vec!["ours-1".to_owned()], 3));

        // With nothing left to be found a hint is not followed for ever.
        let mut claims = 0;
        loop {
            let wish = Wish { queue: "leftQ", due: false, slots: 10, front: None };
            let (claimed, more) = claim(&db, &claimer, wish, &mut turn).await;
            claims += 1;
            assert_eq!(claimed, Vec::<String>::new());
            if !more {
                break;
            }
        }
        assert!(claims <= turns::BARREN, "{claims} claims for nothing");
    }
}

fn claimer() -> Claimer {
    Claimer {
        executor_id: "me".into(),
        app_version: "v1".into(),
        newest_version: true,
        names: vec!["test.job".into()],
        max_recovery_attempts: 20,
    }
}

async fn take_ten(tx: &Transaction, claimer: &Claimer) {
    let found = candidates::lock_queued(tx, claimer, "growingQ", 10, None)
        .await
        .unwrap();
    let taken = claims::take(tx, claimer, found, None).await.unwrap();
    assert_eq!(taken.claimed.len(), 10);
}

on_postgres! {
    /// A table that has grown since Postgres last counted it: plans that read all of it are kept until it counts again.
    async fn a_claim_goes_along_the_index_before_anybody_has_counted_the_table(stage: Stage) {
        let one = DatabaseOptions { max_connections: 1, ..DatabaseOptions::new(stage.database_url()) };
        migrate(&Database::connect(&one).await.unwrap()).await.unwrap();
        stage.sql_execute("ALTER TABLE dbos.workflow_status SET (autovacuum_enabled = false)").await;
        let db = Database::connect(&one).await.unwrap();
        let claimer = claimer();
        let grow = |rows: i64| format!(
            "INSERT INTO dbos.workflow_status (workflow_uuid, status, name, queue_name, application_version, application_name, priority, recovery_attempts, created_at, updated_at) \
             SELECT 'job-' || count(*) OVER () || '-' || i, 'ENQUEUED', 'test.job', 'growingQ', 'v1', 'stepwell', 0, 0, i, i FROM generate_series(1, {rows}) AS i"
        );
        stage.sql_execute(&grow(100)).await;
        // More than five times, after which Postgres keeps one plan for all values.
        for _ in 0..8 {
            let tx = db.begin().await.unwrap();
            take_ten(&tx, &claimer).await;
            tx.rollback().await.unwrap();
        }
        stage.sql_execute(&grow(20_000)).await;

        let tx = db.begin().await.unwrap();
        take_ten(&tx, &claimer).await;
        let counted = "SELECT seq_scan, seq_tup_read, idx_tup_fetch FROM pg_stat_xact_user_tables WHERE schemaname = 'dbos' AND relname = 'workflow_status'";
        let row = tx.query_one_raw(Statement::from_string(DbBackend::Postgres, counted)).await.unwrap().unwrap();
        let read = |column: &str| row.try_get::<i64>("", column).unwrap();
        assert_eq!((read("seq_scan"), read("seq_tup_read")), (0, 0));
        assert!(read("idx_tup_fetch") < 1_000, "{} rows", read("idx_tup_fetch"));
        tx.rollback().await.unwrap();
    }
}
