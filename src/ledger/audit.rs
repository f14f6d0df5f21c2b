//! Looking at the books of one table: its loads, whether its sources balance, and what of the rows is there.

use std::collections::BTreeMap;

use tokio_postgres::{Client, Row};

use super::history;
use super::outbox::{self, Waiting};
use crate::error::Result;
use crate::postgres::catalog::Target;
use crate::postgres::{pg_error, quote_ident};

/// A load of the table.
#[derive(Debug, Clone)]
pub struct LoadState {
    /// Its id.
    pub load: i64,
    /// How it ended, or `running`.
    pub state: String,
    /// When it began.
    pub started: String,
    /// Its sources that are not all in.
    pub open_sources: i64,
    /// Statements for indexes that it has dropped and not built again.
    pub dropped_indexes: Vec<String>,
}

/// What the ledger says of all sources of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Books {
    /// Sources.
    pub sources: i64,
    /// Of them complete.
    pub complete: i64,
    /// Rows that are committed.
    pub rows: i64,
    /// Rows that are rejected.
    pub rejected: i64,
    /// Names of complete sources whose committed and rejected rows are not all their rows.
    pub unbalanced: Vec<String>,
}

/// What the ledger says of the rows of a load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// The load.
    pub load: i64,
    /// Its committed rows.
    pub rows: i64,
    /// Whether all of them have ids that the ledger knows.
    pub has_ids: bool,
    /// Whether some were written to another storage of the table, before a TRUNCATE or a rewrite.
    pub elsewhere: bool,
    /// Ranges of those ids, without ids that were given again to rows in the present storage.
    pub ids: Vec<(i64, i64)>,
}

/// What is in the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// All rows.
    pub rows: i64,
    /// Rows with the ids of a load.
    pub by_load: BTreeMap<i64, i64>,
}

/// The loads into a table, newest first.
pub async fn loads(client: &Client, target: &Target) -> Result<Vec<LoadState>> {
    let rows = client
        .query(
            "select l.load_id, l.dropped_indexes, count(s.source_id) as open
             from vecload_ledger.loads l
             left join vecload_ledger.sources s on s.load_id = l.load_id and s.state = 'open'
             where l.target = $1 group by l.load_id",
            &[&target.oid],
        )
        .await
        .map_err(|error| pg_error(format!("list the loads into {}", target.name), error))?;
    let mut of_target: BTreeMap<i64, (Vec<String>, i64)> =
        rows.iter().map(|row| (row.get("load_id"), (row.get("dropped_indexes"), row.get("open")))).collect();
    let summaries = history::list(client).await?;
    let state = |load: history::LoadSummary| {
        let (dropped_indexes, open_sources) = of_target.remove(&load.load)?;
        Some(LoadState {
            load: load.load,
            state: load.state,
            started: load.started,
            open_sources,
            dropped_indexes,
        })
    };
    Ok(summaries.into_iter().filter_map(state).collect())
}

/// Adds up the sources of a table. With `asks_workers` what is recorded there, and not taken in yet, is added too.
pub async fn books(client: &Client, target: &Target, asks_workers: bool) -> Result<Books> {
    let row = client
        .query_one(
            "with loaded as (
                 select s.source_id, sum(s.rows)::bigint as rows
                 from vecload_ledger.current_blocks b, unnest(b.source_ids, b.slice_rows) as s(source_id, rows)
                 where b.target = $1 group by 1),
             rejected as (select source_id, count(*) as rows from vecload_ledger.rejects group by 1),
             its as (
                 select s.name, s.state, s.rows, coalesce(l.rows, 0) as loaded, coalesce(r.rows, 0) as rejected
                 from vecload_ledger.sources s
                 left join loaded l using (source_id) left join rejected r using (source_id)
                 where s.target = $1)
             select count(*) as sources, count(*) filter (where state = 'complete') as complete,
                 coalesce(sum(loaded), 0)::bigint as loaded, coalesce(sum(rejected), 0)::bigint as rejected,
                 coalesce(array_agg(name order by name)
                     filter (where state = 'complete' and rows <> loaded + rejected), '{}') as unbalanced
             from its",
            &[&target.oid],
        )
        .await
        .map_err(|error| pg_error(format!("add up the sources of {}", target.name), error))?;
    let waiting = waiting_blocks(client, target, asks_workers).await?;
    Ok(Books {
        sources: row.get("sources"),
        complete: row.get("complete"),
        rows: row.get::<_, i64>("loaded") + waiting.iter().map(|block| block.rows).sum::<i64>(),
        rejected: row.get("rejected"),
        unbalanced: row.get("unbalanced"),
    })
}

/// Blocks of the table that are recorded on the workers. Asked for after the ledger's own: one that is taken in
/// meanwhile is missed, not counted twice.
async fn waiting_blocks(client: &Client, target: &Target, asks_workers: bool) -> Result<Vec<Waiting>> {
    let mut waiting = match asks_workers && target.citus.is_some() {
        true => outbox::waiting(client, None).await?,
        false => Vec::new(),
    };
    waiting.retain(|block| block.target == target.oid);
    Ok(waiting)
}

/// What the ledger has of each load's rows, with what is recorded on the workers.
pub async fn recorded(client: &Client, target: &Target) -> Result<Vec<Recorded>> {
    let blocks = client
        .query(
            "select load_id, relfilenode = $2 as present, rows, id_firsts, id_lasts
             from vecload_ledger.current_blocks where target = $1",
            &[&target.oid, &target.relfilenode],
        )
        .await
        .map_err(|error| pg_error(format!("read the blocks of {}", target.name), error))?;
    let mut loads: BTreeMap<i64, Recorded> = BTreeMap::new();
    let mut former: BTreeMap<i64, Vec<(i64, i64)>> = BTreeMap::new();
    let of_row = |block: &Row| {
        let (firsts, lasts): (Vec<i64>, Vec<i64>) = (block.get("id_firsts"), block.get("id_lasts"));
        let ids: Vec<(i64, i64)> = firsts.into_iter().zip(lasts).collect();
        (block.get::<_, i64>("load_id"), block.get::<_, i64>("rows"), block.get::<_, bool>("present"), ids)
    };
    let of_waiting =
        |block: Waiting| (block.load_id, block.rows, block.relfilenode == target.relfilenode, block.ids);
    let waiting = waiting_blocks(client, target, true).await?;
    for (load, rows, present, own) in blocks.iter().map(of_row).chain(waiting.into_iter().map(of_waiting)) {
        let recorded = loads.entry(load).or_insert_with(|| Recorded {
            load,
            rows: 0,
            has_ids: true,
            elsewhere: false,
            ids: Vec::new(),
        });
        recorded.rows += rows;
        recorded.has_ids &= rows == 0 || !own.is_empty();
        recorded.elsewhere |= !present;
        let ids = if present { &mut recorded.ids } else { former.entry(load).or_default() };
        ids.extend(own);
    }
    // A sequence that was restarted has given ids again: they are those of the rows that came last.
    let mut given = joined(loads.values().flat_map(|load| load.ids.iter().copied()).collect());
    for (load, ids) in former.into_iter().rev() {
        let own = without(&joined(ids), &given);
        given.extend(&own);
        given = joined(given);
        if let Some(recorded) = loads.get_mut(&load) {
            recorded.ids.extend(own);
        }
    }
    for recorded in loads.values_mut() {
        recorded.ids = joined(std::mem::take(&mut recorded.ids));
    }
    Ok(loads.into_values().collect())
}

/// Counts the rows of the table, and those of each load where the table's ids tell them; reads the table once.
pub async fn count(
    client: &Client,
    target: &Target,
    id_column: Option<&str>,
    recorded: &[Recorded],
) -> Result<Counted> {
    let with_ids = recorded.iter().filter(|load| load.has_ids && id_column.is_some());
    let mut by_load: BTreeMap<i64, i64> = with_ids.clone().map(|load| (load.load, 0)).collect();
    let (bounds, owners) = buckets(with_ids);
    let table = target.name.sql();
    let counted = match id_column.filter(|_| !bounds.is_empty()) {
        Some(id) => {
            let id = quote_ident(id);
            let sql =
                format!("select width_bucket({id}::bigint, $1::bigint[]), count(*) from {table} group by 1");
            client.query(&sql, &[&bounds]).await
        }
        None => client.query(&format!("select null::integer, count(*) from {table}"), &[]).await,
    };
    let counted = counted.map_err(|error| pg_error(format!("count the rows of {}", target.name), error))?;
    let mut rows = 0;
    for row in &counted {
        let (bucket, count): (Option<i32>, i64) = (row.get(0), row.get(1));
        rows += count;
        let owner = bucket.and_then(|bucket| *owners.get(usize::try_from(bucket).ok()?)?);
        if let Some(load) = owner {
            *by_load.entry(load).or_default() += count;
        }
    }
    Ok(Counted { rows, by_load })
}

/// The ids of loads as bounds in order, and for each number of bounds at or below an id, whose id it is.
fn buckets<'a>(loads: impl Iterator<Item = &'a Recorded>) -> (Vec<i64>, Vec<Option<i64>>) {
    let mut ranges: Vec<(i64, i64, i64)> =
        loads.flat_map(|load| load.ids.iter().map(|(first, last)| (*first, *last, load.load))).collect();
    ranges.sort_unstable();
    let (mut bounds, mut owners) = (Vec::new(), vec![None]);
    for (first, last, load) in ranges {
        // Where a range touches the one before it, that one's end is this one's beginning.
        if bounds.last() == Some(&first) {
            bounds.pop();
            owners.pop();
        }
        bounds.push(first);
        owners.push(Some(load));
        if let Some(next) = last.checked_add(1) {
            bounds.push(next);
            owners.push(None);
        }
    }
    (bounds, owners)
}

/// Ranges in order, joined where they touch.
fn joined(mut ranges: Vec<(i64, i64)>) -> Vec<(i64, i64)> {
    ranges.sort_unstable();
    let mut joined: Vec<(i64, i64)> = Vec::new();
    for (first, last) in ranges {
        match joined.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => joined.push((first, last)),
        }
    }
    joined
}

/// What is in some ranges and in none of others; both are in order and joined.
fn without(ranges: &[(i64, i64)], others: &[(i64, i64)]) -> Vec<(i64, i64)> {
    let mut left = Vec::new();
    for (start, last) in ranges {
        // None: nothing is left of it.
        let mut rest = Some(*start);
        for (from, to) in others.iter().filter(|(from, to)| to >= start && from <= last) {
            left.extend(rest.filter(|first| from > first).map(|first| (first, from - 1)));
            rest = (to < last).then(|| to + 1);
        }
        left.extend(rest.map(|first| (first, *last)));
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_ids_are_joined_and_subtracted() {
        assert_eq!(joined(vec![(5, 9), (1, 3), (4, 4), (20, 30)]), [(1, 9), (20, 30)]);
        assert_eq!(without(&[(1, 10)], &[]), [(1, 10)]);
        assert_eq!(without(&[(1, 10)], &[(3, 4), (6, 6), (10, 12)]), [(1, 2), (5, 5), (7, 9)]);
        assert_eq!(without(&[(1, 10), (20, 30)], &[(5, 25)]), [(1, 4), (26, 30)]);
        assert_eq!(without(&[(3, 4)], &[(1, 10)]), []);
        assert_eq!(without(&[(1, i64::MAX)], &[(5, i64::MAX)]), [(1, 4)]);
    }

    #[test]
    fn each_id_is_its_loads() {
        let load = |load, ids: &[(i64, i64)]| Recorded {
            load,
            rows: 0,
            has_ids: true,
            elsewhere: false,
            ids: ids.to_vec(),
        };
        let loads = [load(1, &[(5, 9), (20, 29)]), load(2, &[(10, 12), (40, i64::MAX)])];
        let (bounds, owners) = buckets(loads.iter());
        let owner = |id: i64| owners[bounds.iter().filter(|bound| **bound <= id).count()];
        for (id, load) in [
            (i64::MIN, None),
            (4, None),
            (5, Some(1)),
            (9, Some(1)),
            (10, Some(2)),
            (12, Some(2)),
            (13, None),
            (20, Some(1)),
            (30, None),
            (40, Some(2)),
            (i64::MAX, Some(2)),
        ] {
            assert_eq!(owner(id), load, "{id}");
        }
        assert!(bounds.is_sorted() && bounds.len() + 1 == owners.len());
    }
}
