//! The target table as the server's catalog has it.

use std::sync::Arc;

use tokio_postgres::{Client, Row};

use super::types::TargetType;
use super::{QualifiedName, pg_error};
use crate::error::{Error, Result};

/// Columns of a table with their types; a domain is followed to its base type, whose modifier it may set.
const COLUMNS_SQL: &str = "
    with recursive typed as (
        select a.attnum, a.atttypid as type, a.atttypmod as modifier, a.attnotnull as not_null
        from pg_attribute a
        where a.attrelid = $1 and a.attnum > 0 and not a.attisdropped
        union all
        select typed.attnum, t.typbasetype, t.typtypmod, typed.not_null or t.typnotnull
        from typed join pg_type t on t.oid = typed.type
        where t.typtype = 'd'
    )
    select a.attname, format_type(a.atttypid, a.atttypmod) as shown, a.attgenerated <> '' as generated,
        a.atthasdef or a.attidentity <> '' as has_default, typed.not_null, typed.modifier,
        t.typname, t.typtype::text as type_kind, n.nspname = 'pg_catalog' as built_in,
        case when pg_type_is_visible(t.oid) then '' else quote_ident(n.nspname) || '.' end as type_prefix,
        coalesce(element.typname, '') as element,
        exists (select from pg_depend d join pg_extension e on e.oid = d.refobjid
                where d.classid = 'pg_type'::regclass and d.objid = t.oid and d.deptype = 'e'
                  and d.refclassid = 'pg_extension'::regclass and e.extname = 'vector') as of_pgvector,
        array(select l.enumlabel::text from pg_enum l where l.enumtypid = t.oid order by l.enumsortorder) as labels,
        coalesce((select pg_get_expr(ad.adbin, ad.adrelid) like '%nextval(%' from pg_attrdef ad
            where ad.adrelid = $1 and ad.adnum = a.attnum), false) as draws,
        s.seqrelid::regclass::text as sequence, s.seqincrement as increment,
        has_sequence_privilege(s.seqrelid, 'usage') as may_use_sequence
    from typed
    join pg_type t on t.oid = typed.type and t.typtype <> 'd'
    join pg_namespace n on n.oid = t.typnamespace
    join pg_attribute a on a.attrelid = $1 and a.attnum = typed.attnum
    left join pg_type element on element.oid = t.typelem and t.typcategory = 'A'
    left join lateral (
        select s.* from pg_sequence s
        where s.seqrelid = any (
            select d.refobjid from pg_attrdef ad join pg_depend d
                on d.classid = 'pg_attrdef'::regclass and d.objid = ad.oid and d.refclassid = 'pg_class'::regclass
            where ad.adrelid = $1 and ad.adnum = a.attnum
                and pg_get_expr(ad.adbin, ad.adrelid) like 'nextval(%'
            union all
            select d.objid from pg_depend d
            where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass
                and d.refobjid = $1 and d.refobjsubid = a.attnum and d.deptype = 'i')
        limit 1
    ) s on true
    order by a.attnum";

/// A table that rows can be loaded into.
#[derive(Debug, Clone)]
pub struct Target {
    /// Its name with its schema.
    pub name: QualifiedName,
    /// Its OID: the ledger's key, which a rename keeps and a drop ends.
    pub oid: u32,
    /// Its storage: a TRUNCATE or rewrite changes it.
    pub relfilenode: u32,
    /// Its columns in order.
    pub columns: Vec<TargetColumn>,
    /// Whether constraints may be checked as late as at commit.
    pub has_deferrable: bool,
    /// Whether its secondary indexes may be dropped and built: by its owner, and not on a partitioned table.
    pub indexes_can_change: bool,
    /// Whether Citus distributes it, and how.
    pub citus: Option<Distribution>,
}

/// How Citus distributes the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distribution {
    /// The distribution column.
    pub column: String,
    /// Number of shards.
    pub shards: i64,
    /// Whether this server is a worker of the cluster.
    pub on_worker: bool,
    /// Whether policies hide rows from this role or keep them out.
    pub has_policies: bool,
    /// The group of tables whose shards of one range lie on one node.
    pub colocation: i32,
}

/// A column of the target.
#[derive(Debug, Clone)]
pub struct TargetColumn {
    /// Its name.
    pub name: String,
    /// Its type as SQL writes it.
    pub type_name: String,
    /// What comes before its type's name in SQL: nothing, or the schema where the search path does not have it.
    pub type_prefix: String,
    /// Its type, if vecload writes it.
    pub target_type: Option<TargetType>,
    /// Whether null is refused.
    pub not_null: bool,
    /// Whether it has a default, an identity's included.
    pub has_default: bool,
    /// Whether it is computed from other columns, and can't be written.
    pub is_generated: bool,
    /// Whether its default draws from a sequence, also as a part of an expression.
    pub draws: bool,
    /// The sequence behind its default.
    pub sequence: Option<Sequence>,
}

/// A sequence that ids come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    /// Its name as SQL text, quoted where needed.
    pub name: String,
    /// Distance of successive values.
    pub increment: i64,
    /// Whether this role may take values from it.
    pub usable: bool,
}

/// The storage of the table of this OID, as SQL. A partitioned table has none of its own: its partitions' together,
/// and it may have no partition yet.
pub fn storage_sql(oid: &str) -> String {
    format!(
        "coalesce(pg_relation_filenode({oid}::oid), (
            select (hashtext(string_agg(pg_relation_filenode(p.relid)::text, ',' order by p.relid))::bigint
                & 2147483647)::oid
            from pg_partition_tree({oid}::oid) p where p.isleaf), 0::oid)"
    )
}

impl Target {
    /// Looks a table up that rows are to be loaded into and searched in; `None` if there is none of that name.
    pub async fn find(client: &Client, name: &QualifiedName) -> Result<Option<Self>> {
        let Some(target) = Self::look_up(client, name).await? else { return Ok(None) };
        let failed = |error| pg_error(format!("look up table {name}"), error);
        let full = target.name.sql();
        let rights = "select has_table_privilege($1::oid, 'insert'), has_table_privilege($1::oid, 'select')";
        let row = client.query_one(rights, &[&target.oid]).await.map_err(failed)?;
        for (index, right) in ["INSERT", "SELECT"].iter().enumerate() {
            if !row.get::<_, bool>(index) {
                return Err(Error::refused(format!("no {right} right on table {}", target.name))
                    .hint(format!("as its owner: GRANT SELECT, INSERT ON {full} TO your_role;")));
            }
        }
        Ok(Some(target))
    }

    /// Whether it holds no row.
    pub async fn is_empty(&self, client: &Client) -> Result<bool> {
        // A subquery over a distributed table would bring every row to the coordinator.
        let first = format!("select 1 from {} limit 1", self.name.sql());
        let row = client.query_opt(&first, &[]).await;
        Ok(row.map_err(|error| pg_error(format!("look for rows in {}", self.name), error))?.is_none())
    }

    /// Looks a table up in the catalog alone, whatever this role may do with it and whichever nodes answer; `None` if
    /// there is none of that name.
    pub async fn look_up(client: &Client, name: &QualifiedName) -> Result<Option<Self>> {
        let failed = |error| pg_error(format!("look up table {name}"), error);
        let row = client
            .query_opt(
                "select c.oid, c.relkind::text as kind, n.nspname, c.relname,
                        pg_has_role(c.relowner, 'usage') as is_owner,
                        exists (select from pg_constraint where conrelid = c.oid and condeferrable) as has_deferrable
                 from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = to_regclass($1)::oid",
                &[&name.sql()],
            )
            .await
            .map_err(failed)?;
        let Some(row) = row else { return Ok(None) };
        let full = QualifiedName::new(Some(row.get("nspname")), row.get("relname"));
        let kind: &str = row.get("kind");
        if !matches!(kind, "r" | "p") {
            let what = match kind {
                "v" => "a view",
                "m" => "a materialized view",
                "f" => "a foreign table",
                _ => "no table",
            };
            return Err(
                Error::refused(format!("{full} is {what}")).hint("name an ordinary table with --table")
            );
        }
        let oid: u32 = row.get("oid");
        let columns = client.query(COLUMNS_SQL, &[&oid]).await.map_err(failed)?;
        let storage = format!("select {}", storage_sql("$1"));
        let relfilenode = client.query_one(&storage, &[&oid]).await.map_err(failed)?.get(0);
        Ok(Some(Self {
            oid,
            relfilenode,
            columns: columns.iter().map(column_of).collect(),
            has_deferrable: row.get("has_deferrable"),
            indexes_can_change: row.get::<_, bool>("is_owner") && kind == "r",
            citus: distribution(client, oid).await.map_err(failed)?,
            name: full,
        }))
    }

    /// Its storage as it is now; `None` if it was dropped, or another table has its name.
    pub async fn storage_now(&self, client: &Client) -> Result<Option<u32>> {
        let sql = format!("select {} where to_regclass($2)::oid = $1::oid", storage_sql("$1"));
        let row = client.query_opt(&sql, &[&self.oid, &self.name.sql()]).await;
        let row = row.map_err(|error| pg_error(format!("look up table {}", self.name), error))?;
        Ok(row.map(|row| row.get(0)))
    }

    /// The table that `migrations/target` creates, before it is there: for trying a mapping on.
    pub fn standard(name: QualifiedName, embedding: TargetType) -> Self {
        let column = |name: &str, target_type: TargetType, has_default: bool| TargetColumn {
            name: name.into(),
            type_name: target_type.to_string(),
            type_prefix: String::new(),
            target_type: Some(target_type),
            not_null: true,
            has_default,
            is_generated: false,
            draws: false,
            sequence: None,
        };
        Self {
            oid: 0,
            relfilenode: 0,
            columns: vec![
                column("id", TargetType::Int8, true),
                column("channel_id", TargetType::Int8, false),
                column("user_id", TargetType::Int8, false),
                column("content", TargetType::Text, false),
                column("embedding", embedding, false),
                column("metadata", TargetType::Jsonb, true),
                column("created_at", TargetType::Timestamptz, true),
            ],
            has_deferrable: false,
            indexes_can_change: true,
            citus: None,
            name,
        }
    }

    /// The column of a name.
    pub fn column(&self, name: &str) -> Option<&TargetColumn> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// Names of all columns, for messages.
    pub fn column_names(&self) -> String {
        self.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// The name of the integer column that partitions the rows: Citus's distribution column, else `channel_id`.
    pub fn channel_column(&self) -> Option<&str> {
        let name = self.citus.as_ref().map_or("channel_id", |citus| &citus.column);
        let column = self.column(name)?;
        column.target_type.as_ref().is_some_and(TargetType::is_integer).then_some(&column.name)
    }
}

/// Versions of the server and of the extensions that matter.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct ServerVersions {
    /// PostgreSQL, as `18.6`.
    pub postgres: String,
    /// pgvector, if it is installed in the database.
    pub pgvector: Option<String>,
    /// Citus, if it is installed in the database.
    pub citus: Option<String>,
}

impl ServerVersions {
    /// Asks the server.
    pub async fn of(client: &Client) -> Result<Self> {
        let row = client
            .query_one(
                "select split_part(current_setting('server_version'), ' ', 1),
                        (select extversion from pg_extension where extname = 'vector'),
                        (select extversion from pg_extension where extname = 'citus')",
                &[],
            )
            .await
            .map_err(|error| pg_error("ask the server for its versions", error))?;
        Ok(Self { postgres: row.get(0), pgvector: row.get(1), citus: row.get(2) })
    }
}

async fn distribution(client: &Client, oid: u32) -> Result<Option<Distribution>, tokio_postgres::Error> {
    let citus =
        client.query_one("select to_regclass('pg_catalog.pg_dist_partition') is not null", &[]).await?;
    if !citus.get::<_, bool>(0) {
        return Ok(None);
    }
    let row = client
        .query_opt(
            "select column_to_column_name(logicalrelid, partkey) as column,
                    (select count(*) from pg_dist_shard s where s.logicalrelid = p.logicalrelid) as shards,
                    colocationid::integer as colocation,
                    (select groupid <> 0 from pg_dist_local_group) as on_worker,
                    row_security_active(logicalrelid::oid) as has_policies
             from pg_dist_partition p where logicalrelid = $1::oid and partmethod = 'h'",
            &[&oid],
        )
        .await?;
    Ok(row.map(|row| Distribution {
        column: row.get("column"),
        shards: row.get("shards"),
        colocation: row.get("colocation"),
        on_worker: row.get("on_worker"),
        has_policies: row.get("has_policies"),
    }))
}

fn column_of(row: &Row) -> TargetColumn {
    let sequence: Option<String> = row.get("sequence");
    TargetColumn {
        name: row.get("attname"),
        type_name: row.get("shown"),
        type_prefix: row.get("type_prefix"),
        target_type: type_of(row),
        not_null: row.get("not_null"),
        has_default: row.get("has_default"),
        is_generated: row.get("generated"),
        draws: row.get("draws"),
        sequence: sequence.map(|name| Sequence {
            name,
            increment: row.get("increment"),
            usable: row.get("may_use_sequence"),
        }),
    }
}

fn type_of(row: &Row) -> Option<TargetType> {
    let modifier: i32 = row.get("modifier");
    let limit = |offset: i32| usize::try_from(modifier - offset).ok();
    let name: &str = row.get("typname");
    if row.get("of_pgvector") {
        return match name {
            "vector" => Some(TargetType::Vector(limit(0))),
            "halfvec" => Some(TargetType::Halfvec(limit(0))),
            _ => None,
        };
    }
    if row.get::<_, &str>("type_kind") == "e" {
        return Some(TargetType::Enum(Arc::from(row.get::<_, Vec<String>>("labels"))));
    }
    if !row.get::<_, bool>("built_in") {
        return None;
    }
    Some(match name {
        "bool" => TargetType::Bool,
        "int2" => TargetType::Int2,
        "int4" => TargetType::Int4,
        "int8" => TargetType::Int8,
        "float4" => TargetType::Float4,
        "float8" => TargetType::Float8,
        // The modifier is precision << 16 | scale (11 bits, signed), plus 4.
        "numeric" => TargetType::Numeric((modifier >= 4).then(|| {
            let packed = modifier - 4;
            ((packed >> 16) as u16, (((packed & 0x7ff) ^ 1024) - 1024) as i16)
        })),
        "text" => TargetType::Text,
        "varchar" => TargetType::Varchar(limit(4)),
        "uuid" => TargetType::Uuid,
        "date" => TargetType::Date,
        "timestamp" => TargetType::Timestamp,
        "timestamptz" => TargetType::Timestamptz,
        "json" => TargetType::Json,
        "jsonb" => TargetType::Jsonb,
        "bytea" => TargetType::Bytea,
        "_text" => TargetType::TextArray,
        "_int8" => TargetType::Int8Array,
        _ => return None,
    })
}
