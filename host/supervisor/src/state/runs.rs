//! What jobs did: runs begin and end here, [`RUNS_KEPT_MAX`] of each tenant are kept.
//!
//! A run is written before its program starts, so none goes unrecorded; one that has no end when the
//! host starts was cut off by the host's own death.

use super::read::{head, parsed};
use super::{State, StateError};
use crate::clock;
use insula_model::TenantName;
use insula_model::api::{JobCause, JobResult, JobRun, RUNS_KEPT_MAX};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use std::collections::{HashMap, HashSet};

/// A run that is about to start.
#[derive(Debug, Clone)]
pub(crate) struct Begin {
    pub(crate) name: TenantName,
    pub(crate) revision: u32,
    pub(crate) cause: JobCause,
}

/// The same with its number; none if the tenant is gone.
pub(crate) type Began = Option<JobRun>;

/// A run that has ended.
#[derive(Debug, Clone)]
pub(crate) struct End {
    pub(crate) name: TenantName,
    pub(crate) run: JobRun,
}

const COLUMNS: &str = "j.run, j.revision, j.cause, j.started_at, j.ended_at, j.result";

fn run_from(tenant: &str, row: &Row<'_>) -> Result<JobRun, StateError> {
    let cause: String = row.get(2)?;
    let cause = [JobCause::Schedule, JobCause::Request].into_iter().find(|c| c.as_str() == cause);
    let result: Option<String> = row.get(5)?;
    Ok(JobRun {
        run: parsed(tenant, u64::try_from(row.get::<_, i64>(0)?))?,
        revision: row.get(1)?,
        cause: parsed(tenant, cause.ok_or("a run of an unknown cause"))?,
        started_at: row.get(3)?,
        ended_at: row.get(4)?,
        result: result.as_deref().map(JobResult::from),
    })
}

fn number(run: u64) -> i64 {
    i64::try_from(run).unwrap_or(i64::MAX)
}

impl State {
    /// Writes what has ended and what is about to start; the latter numbered, in order.
    pub(crate) async fn record_runs(
        &self,
        ends: Vec<End>,
        begins: Vec<Begin>,
    ) -> Result<Vec<Began>, StateError> {
        self.call(move |connection| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for end in &ends {
                finish(&transaction, end)?;
            }
            let began = begins.into_iter().map(|begin| start(&transaction, begin));
            let began = began.collect::<Result<_, _>>()?;
            transaction.commit()?;
            Ok(began)
        })
        .await
    }

    /// The runs of a tenant that are kept, newest first.
    pub(crate) async fn runs(&self, name: TenantName) -> Result<Vec<JobRun>, StateError> {
        self.call(move |connection| {
            let Some(head) = head(connection, &name)? else {
                return Err(StateError::NoTenant(name));
            };
            let mut statement = connection.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM job_runs j WHERE j.tenant = ?1 ORDER BY j.run DESC"
            ))?;
            let mut rows = statement.query([head.id])?;
            let mut runs = Vec::new();
            while let Some(row) = rows.next()? {
                runs.push(run_from(name.as_str(), row)?);
            }
            Ok(runs)
        })
        .await
    }

    /// The newest run of a tenant, if there was any.
    pub(crate) async fn last_run(&self, name: TenantName) -> Result<Option<JobRun>, StateError> {
        Ok(self.runs(name).await?.into_iter().next())
    }

    /// At start-up: ends what the host's death cut off, and gives the newest run of every tenant that
    /// had any. Runs that `go_on`, in workers from before an upgrade, are left alone. Blocks.
    pub(crate) fn recover_runs(
        &self,
        go_on: &HashSet<(TenantName, u64)>,
    ) -> Result<HashMap<TenantName, JobRun>, StateError> {
        let mut connection = crate::sync::lock(&self.connection);
        match end_runs(&mut connection, go_on) {
            // What is not recorded now is at the next start; tenants can be served without.
            Err(error @ (StateError::Full(_) | StateError::Disk(_))) => {
                tracing::warn!(%error, "runs that the host's end cut off stay without an end");
            }
            other => other.map_err(|error| super::located(error, &self.path))?,
        }
        last_runs(&connection).map_err(|error| super::located(error, &self.path))
    }
}

/// Ends the runs that the host's death cut off.
fn end_runs(
    connection: &mut Connection,
    go_on: &HashSet<(TenantName, u64)>,
) -> Result<(), StateError> {
    let open = open_runs(connection)?;
    if open.is_empty() {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for (tenant, name, run) in open {
        if !go_on.contains(&(parsed(&name, name.parse())?, run)) {
            transaction.execute(
                "UPDATE job_runs SET ended_at = ?1, result = ?2 WHERE tenant = ?3 AND run = ?4",
                params![
                    clock::from_millis(clock::now_ms()),
                    crate::jobs::HOST_DIED,
                    tenant,
                    number(run)
                ],
            )?;
        }
    }
    Ok(transaction.commit()?)
}

/// Runs without an end: their tenants' ids and names, and their numbers.
fn open_runs(connection: &Connection) -> Result<Vec<(i64, String, u64)>, StateError> {
    let mut statement = connection.prepare(
        "SELECT t.id, t.name, j.run FROM job_runs j JOIN tenants t ON t.id = j.tenant
         WHERE j.ended_at IS NULL",
    )?;
    let open = statement.query_map([], |row| {
        Ok((row.get(0)?, row.get(1)?, u64::try_from(row.get::<_, i64>(2)?).unwrap_or_default()))
    })?;
    Ok(open.collect::<Result<_, _>>()?)
}

fn last_runs(connection: &Connection) -> Result<HashMap<TenantName, JobRun>, StateError> {
    let mut statement = connection.prepare(&format!(
        "SELECT {COLUMNS}, t.name FROM tenants t JOIN job_runs j ON j.tenant = t.id
         WHERE j.run = (SELECT max(run) FROM job_runs WHERE tenant = t.id)"
    ))?;
    let mut rows = statement.query([])?;
    let mut last = HashMap::new();
    while let Some(row) = rows.next()? {
        let name: String = row.get(6)?;
        let run = run_from(&name, row)?;
        last.insert(parsed(&name, name.parse())?, run);
    }
    Ok(last)
}

fn start(transaction: &Transaction<'_>, begin: Begin) -> Result<Began, StateError> {
    let Some(head) = head(transaction, &begin.name)? else { return Ok(None) };
    let last: Option<i64> = transaction
        .prepare_cached("SELECT run FROM job_runs WHERE tenant = ?1 ORDER BY run DESC LIMIT 1")?
        .query_row([head.id], |row| row.get(0))
        .optional()?;
    let last = u64::try_from(last.unwrap_or(0)).unwrap_or(0);
    let run = JobRun {
        run: last + 1,
        revision: begin.revision,
        cause: begin.cause,
        started_at: clock::from_millis(clock::now_ms()),
        ended_at: None,
        result: None,
    };
    transaction
        .prepare_cached(
            "INSERT INTO job_runs (tenant, run, revision, cause, started_at)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![
            head.id,
            number(run.run),
            run.revision,
            run.cause.as_str(),
            run.started_at
        ])?;
    transaction
        .prepare_cached("DELETE FROM job_runs WHERE tenant = ?1 AND run <= ?2")?
        .execute(params![head.id, number(run.run.saturating_sub(RUNS_KEPT_MAX.into()))])?;
    Ok(Some(run))
}

fn finish(transaction: &Transaction<'_>, end: &End) -> Result<(), StateError> {
    let result = end.run.result.as_ref().map(ToString::to_string);
    // The revision again: a deploy may have come between the begin and the start.
    transaction
        .prepare_cached(
            "UPDATE job_runs SET ended_at = ?3, result = ?4, revision = ?5
             WHERE tenant = (SELECT id FROM tenants WHERE name = ?1) AND run = ?2",
        )?
        .execute(params![
            end.name.as_str(),
            number(end.run.run),
            end.run.ended_at,
            result,
            end.run.revision
        ])?;
    Ok(())
}
