//! `vecload search`

use super::args::SearchArguments;
use super::printer::counted;
use super::server::{Context, key_value};
use crate::batch::embedding::{read_bytes, read_text};
use crate::error::{Context as _, Error, Result};
use crate::postgres::catalog::{ServerVersions, Target};
use crate::search::{EF_SEARCH_MAX, Query, Route, SearchRequest, search};

/// Characters of a text that are shown.
const CONTENT_CHARACTERS: usize = 90;

/// Runs the command.
pub(super) async fn run(context: &Context<'_>, arguments: SearchArguments) -> Result<u8> {
    let printer = context.printer;
    let request = request(context, &arguments)?;
    let server = context.server().await?;
    let mut session = server.connect("vecload search").await?;
    let table = context.table()?;
    let Some(target) = Target::look_up(&session, &table).await? else {
        return Err(Error::refused(format!("there is no table {table} at {}", server.settings.describe()))
            .hint("load something first: vecload load FILE.parquet, or vecload seed"));
    };
    let versions = ServerVersions::of(&session).await?;
    if request.channel.is_none() && target.channel_column().is_some() {
        let cost = match &target.citus {
            Some(citus) => format!("asks all {} shards", citus.shards),
            None => "looks through the index of all channels".into(),
        };
        printer.warn(&format!("without --channel the search {cost}"));
    }
    let result = search(&mut session, &target, &versions, &request).await?;
    session.close().await;
    if printer.is_json() {
        printer.json(&result)?;
        return Ok(0);
    }
    if let Some(like) = &result.like {
        printer.say(&format!("like: {}", cut(like)));
    }
    if result.hits.is_empty() {
        printer.say("no row found");
    } else {
        let mut table = printer.table(&["distance", "id", "content"]);
        for hit in &result.hits {
            let id = hit.id.map_or(String::new(), |id| id.to_string());
            table.add_row([format!("{:.4}", hit.distance), id, cut(hit.content.as_deref().unwrap_or(""))]);
        }
        printer.answer(&table.trim_fmt())?;
    }
    let how = if result.exact { " (all rows compared: the index came back short)" } else { "" };
    printer.say(&format!("{} rows in {:.1} ms{how}", result.hits.len(), result.seconds * 1000.0));
    if let Some(route) = &result.route {
        printer.say(&told(route));
    }
    for line in result.plan.iter().flatten() {
        printer.answer(line)?;
    }
    Ok(0)
}

/// What a search has asked, in a line.
fn told(route: &Route) -> String {
    let nodes = route.nodes.join(", ");
    let asked = match &route.shard {
        Some(shard) => {
            format!("asked 1 of {}: {shard}, on {nodes}", counted(route.of as u64, "shard", "shards"))
        }
        None => {
            let count = counted(route.nodes.len() as u64, "node", "nodes");
            format!("asked all {}, on {count}: {nodes}", counted(route.of as u64, "shard", "shards"))
        }
    };
    match route.lookup_shards {
        lookup if lookup > route.shards => {
            format!("{asked}; and all for the row itself, which is in another channel")
        }
        _ => asked,
    }
}

fn request(context: &Context<'_>, arguments: &SearchArguments) -> Result<SearchRequest> {
    let query = match (&arguments.vector, arguments.like, arguments.random) {
        (Some(path), ..) => Query::Vector(read_vector(path)?),
        (None, Some(id), _) => Query::Like(id),
        (None, None, true) => Query::Random,
        (None, None, false) => {
            return Err(Error::refused("a search needs something to search for")
                .hint("give --like ID, --vector FILE or --random"));
        }
    };
    let file = &context.file.search;
    let k = arguments.k.unwrap_or(file.k);
    if k == 0 || k > EF_SEARCH_MAX {
        return Err(Error::refused(format!("-k {k}")).hint(format!("give 1 to {EF_SEARCH_MAX}")));
    }
    let ef_search = arguments.ef_search.or((file.ef_search > 0).then_some(file.ef_search));
    if ef_search.is_some_and(|ef_search| ef_search == 0 || ef_search > EF_SEARCH_MAX) {
        return Err(Error::refused("--ef-search is out of range").hint(format!("give 1 to {EF_SEARCH_MAX}")));
    }
    let conditions =
        arguments.conditions.iter().map(|text| key_value("--where", text)).collect::<Result<_>>()?;
    Ok(SearchRequest {
        query,
        channel: arguments.channel,
        conditions,
        k,
        ef_search,
        explain: arguments.explain,
    })
}

fn read_vector(path: &std::path::Path) -> Result<Vec<f32>> {
    let bytes = std::fs::read(path).or_refused(|| format!("read {}", path.display()))?;
    let mut vector = Vec::new();
    let read = match bytes.trim_ascii().first() {
        Some(b'[') => read_text(&bytes, &mut vector),
        _ => read_bytes(&bytes, &mut vector),
    };
    match read {
        Ok(()) if !vector.is_empty() => Ok(vector),
        Ok(()) => Err(Error::refused(format!("{} holds no vector", path.display()))),
        Err(reason) => Err(Error::refused(format!("read {}: {reason}", path.display()))
            .hint("write the vector as a JSON array, or as raw little-endian 4-byte floats")),
    }
}

fn cut(text: &str) -> String {
    let line: String =
        text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect();
    match line.char_indices().nth(CONTENT_CHARACTERS) {
        Some((end, _)) => format!("{}…", line[..end].trim_end()),
        None => line,
    }
}
