//! Secondary indexes around a load: dropped before the rows, built after them.

use super::load::{Prepared, REBUILD};
use super::observer::Observer;
use super::plan::IndexPolicy;
use crate::error::{Error, Kind, Result};
use crate::index::{self, BuildProgress, IndexDefinition};
use crate::ledger::settle::note_dropped_indexes;
use crate::postgres::SessionOptions;

impl Prepared {
    /// Drops secondary indexes that come back after the rows; the ledger knows them first.
    pub(super) async fn drop_indexes(&self, observer: &dyn Observer) -> Result<()> {
        if self.index != IndexPolicy::Defer {
            return Ok(());
        }
        let target = &self.plan.target;
        let present =
            self.control.run(async |session| index::secondary_indexes(session, target).await).await?;
        if present.is_empty() {
            return Ok(());
        }
        let mut definitions = self.claim.dropped_indexes.clone();
        definitions.extend(present.iter().map(|index| index.sql.clone()));
        definitions.sort();
        definitions.dedup();
        let run = self.claim.run.ok_or_else(|| Error::bug("indexes are dropped outside a run"))?;
        let names: Vec<&str> = present.iter().map(|index| index.name.as_str()).collect();
        observer.say(&format!("dropping {} until the rows are in", names.join(", ")));
        let stop = &self.connector.stop;
        self.control
            .run(async |session| {
                note_dropped_indexes(session, &run, &definitions).await?;
                // A try whose answer was lost has dropped them.
                let present = index::secondary_indexes(session, target).await?;
                let canceller = session.canceller();
                tokio::select! {
                    dropped = index::drop_indexes(session, target, &present) => dropped,
                    () = stop.stopping() => {
                        canceller.cancel().await?;
                        Err(stop.take().unwrap_or_else(|| Error::interrupted("interrupted")))
                    }
                }
            })
            .await
    }

    pub(super) async fn build_indexes(&self, observer: &dyn Observer, built: &mut Vec<String>) -> Result<()> {
        let (target, stop, connect) = (&self.plan.target, &self.connector.stop, &self.connector.connect);
        let label = |what: &str| SessionOptions {
            application_name: Some(format!("vecload load {} {what}", self.claim.load_id)),
            transaction_timeout: None,
        };
        let session =
            connect.connect(&label("index")).await.map_err(|error| error.with_kind(Kind::Failed))?;
        let noted = "select dropped_indexes from vecload_ledger.loads where load_id = $1";
        let row = session.query_one(noted, &[&self.claim.load_id]).await;
        let row = row.map_err(|error| session.error("read the dropped indexes from the ledger", error))?;
        let mut wanted: Vec<IndexDefinition> =
            row.get::<_, Vec<String>>(0).into_iter().filter_map(IndexDefinition::parse).collect();
        // Only a table that was empty gets the standard ones; a user's table gets back what it had.
        if self.index == IndexPolicy::Defer && self.claim.index_plan != REBUILD {
            let standard = index::standard_indexes(target, &self.plan.embedding_column);
            if let Some(why) = standard.without_hnsw {
                observer.warn(&format!("no HNSW index: {why}"));
            }
            for index in standard.indexes {
                if !wanted.iter().any(|other| index::same_index(other, &index)) {
                    wanted.push(index);
                }
            }
        }
        let present = index::secondary_indexes(&session, target).await?;
        wanted.retain(|index| !present.iter().any(|other| index::same_index(other, index)));
        let watcher =
            connect.connect(&label("watch")).await.map_err(|error| error.with_kind(Kind::Failed))?;
        let progress = |name: &str, progress: Option<BuildProgress>| observer.indexing(name, progress);
        let outcome = {
            let mut build = std::pin::pin!(index::build(&session, &watcher, target, &wanted, &progress));
            tokio::select! {
                outcome = &mut build => outcome,
                () = stop.stopping() => {
                    session.cancel().await?;
                    // It ends with the cancelled statement, and puts the table's settings back before.
                    if let Err(cancelled) = build.await {
                        tracing::debug!("{cancelled}");
                    }
                    Err(stop.take().unwrap_or_else(|| Error::interrupted("interrupted")))
                }
            }
        };
        outcome?;
        built.extend(wanted.into_iter().map(|index| index.name));
        if let Some(run) = &self.claim.run {
            note_dropped_indexes(&session, run, &[]).await?;
        }
        watcher.close().await;
        session.close().await;
        Ok(())
    }
}
