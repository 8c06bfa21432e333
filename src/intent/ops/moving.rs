//! Owns moving a workflow to another application version, with what is below it: for runs whose version nobody executes any more.

use super::actions::By;
use crate::{
    intent::{IntentError, Product},
    store::{
        backend::retrying,
        cancellations,
        ops::{self, Target},
        status::WorkflowStatus as S,
    },
};

/// As the trail writes it.
const MOVE: &str = "move";
/// Most characters of a version, of who acts, and of why: those that the API accepts of a fork.
const MOST_VERSION: usize = 200;
const MOST_ACTOR: usize = 200;
const MOST_REASON: usize = 2_000;

impl Product {
    /// Gives a workflow that nobody executes, and what below it may still be executed, to the code of `version`. With `dry_run` nothing changes.
    ///
    /// # Errors
    /// [`IntentError::Invalid`] for a version that no process can have, and for words that are too long; [`IntentError::NotFound`];
    /// [`IntentError::Conflict`] while it is executed, and when it has ended for good.
    pub async fn move_workflow(
        &self,
        id: &str,
        version: &str,
        by: &By,
        dry_run: bool,
    ) -> Result<(), IntentError> {
        check(version, by)?;
        let queues = retrying(|| async {
            let tx = self.db().begin().await?;
            // No child is started meanwhile.
            cancellations::lock_trees(&tx, &[id]).await?;
            let target = match self.admitted_if(&tx, id, movable).await? {
                Ok(target) if !dry_run => target,
                refused_or_dry => {
                    tx.rollback().await?;
                    return Ok(refused_or_dry.map(|_| Vec::new()));
                }
            };
            let queues = ops::move_tree(&tx, id, version).await?;
            self.audit(&tx, &target, MOVE, by, None).await?;
            tx.commit().await?;
            Ok(Ok(queues))
        })
        .await??;
        for queue in &queues {
            self.client.queue_changed(queue).await;
        }
        Ok(())
    }
}

/// No route has looked at these words: the command works on the database itself.
fn check(version: &str, by: &By) -> Result<(), IntentError> {
    if version.trim().is_empty() {
        return Err(IntentError::invalid(
            "schema_violation",
            format!("the version is {version:?}, and must not be blank"),
        ));
    }
    for (what, text, most) in [
        ("version", Some(version), MOST_VERSION),
        ("actor", by.actor.as_deref(), MOST_ACTOR),
        ("reason", by.reason.as_deref(), MOST_REASON),
    ] {
        let length = text.unwrap_or_default().chars().count();
        if length > most {
            return Err(IntentError::invalid(
                "schema_violation",
                format!("the {what} has {length} characters, at most {most} are accepted"),
            ));
        }
    }
    Ok(())
}

/// Whether a workflow may be moved. Of a foreign one that has begun nobody here knows whether it is executed.
fn movable(target: &Target) -> Result<(), String> {
    let id = &target.workflow_uuid;
    match target.status {
        S::Enqueued | S::Delayed | S::Cancelled | S::MaxRecoveryAttemptsExceeded => Ok(()),
        S::Pending if target.is_ours() && !target.executed => Ok(()),
        S::Pending => Err(format!(
            "workflow {id} is being executed: move it when it waits, or cancel it, move it and resume it"
        )),
        S::Success | S::Error => Err(format!(
            "workflow {id} is {}: nothing of it is executed any more; a fork with --app-version executes steps of it again",
            target.status
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::workflows::APPLICATION_NAME;

    #[test]
    fn the_words_of_a_move_have_the_limits_of_the_api() {
        let checked = |version: &str, actor: usize, reason: usize| {
            let by = By {
                actor: Some("é".repeat(actor)),
                reason: Some("é".repeat(reason)),
            };
            check(version, &by)
        };
        checked(&"v".repeat(200), 200, 2_000).unwrap();
        check("v2", &By::default()).unwrap();
        for (version, actor, reason, named) in [
            ("", 1, 1, "version"),
            (" \t", 1, 1, "version"),
            (&"v".repeat(201), 1, 1, "version"),
            ("v2", 201, 1, "actor"),
            ("v2", 1, 2_001, "reason"),
        ] {
            let refusal = checked(version, actor, reason).unwrap_err();
            assert!(
                matches!(&refusal, IntentError::Invalid { message, .. } if message.contains(named)),
                "{refusal:?}"
            );
        }
    }

    #[test]
    fn only_what_nobody_executes_and_somebody_may_is_moved() {
        let check = |status, application: &str, executed| {
            movable(&Target {
                workflow_uuid: "w".into(),
                status,
                name: None,
                queue_name: None,
                application_name: Some(application.into()),
                forked_from: None,
                executed,
                now: 0,
            })
            .is_ok()
        };
        for status in [
            S::Enqueued,
            S::Delayed,
            S::Cancelled,
            S::MaxRecoveryAttemptsExceeded,
        ] {
            assert!(check(status, APPLICATION_NAME, false) && check(status, "shop", false));
        }
        for status in [S::Success, S::Error] {
            assert!(!check(status, APPLICATION_NAME, false));
        }
        assert!(check(S::Pending, APPLICATION_NAME, false));
        assert!(!check(S::Pending, APPLICATION_NAME, true));
        assert!(!check(S::Pending, "shop", false));
    }
}
