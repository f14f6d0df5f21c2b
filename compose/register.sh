#!/bin/sh
# Makes one Citus cluster of servers: register.sh COORDINATOR[:PORT] WORKER[:PORT]…
#
# Waits for the servers, creates the extensions citus and vector on each, and registers the coordinator's own address
# and the workers. What is done already stays, so it is safe to run again; nothing is ever removed.
#
#     PGUSER, PGDATABASE    as for psql; the same on all servers
#     PASSWORD_FILE         a file with the password, if one is needed
#     WAIT_SECONDS          how long to wait for the servers (120)
set -eu

export LC_ALL=C PGCONNECT_TIMEOUT=5 PGOPTIONS="-c client_min_messages=warning"
wait_seconds=${WAIT_SECONDS:-120}
scratch=$(mktemp -d)
trap 'rm -rf -- "$scratch"' EXIT
trap 'exit 130' INT TERM

say() {
    echo "register: $*"
}

fail() {
    echo "register: error: $*" >&2
    exit 1
}

# with_port HOST[:PORT]
with_port() {
    case $1 in
        *:*) echo "$1" ;;
        *) echo "$1:5432" ;;
    esac
}

# ask HOST:PORT [NAME=VALUE…]: runs the SQL on standard input; :'NAME' stands for a value.
ask() (
    export PGHOST="${1%:*}" PGPORT="${1##*:}"
    shift
    for value do
        set -- "$@" -v "$value"
        shift
    done
    exec psql -X -q -A -t -w -v ON_ERROR_STOP=1 "$@"
)

# answer DOING HOST:PORT [NAME=VALUE…]: as ask; a failure ends the script and says what was being done.
answer() {
    doing=$1
    shift
    ask "$@" 2>"$scratch/why" || fail "$1: could not $doing: $(cat "$scratch/why")"
}

# wait_for HOST:PORT
wait_for() {
    is_told=
    until why=$(echo "select 1" | ask "$1" 2>&1); do
        case $why in
            *"password authentication failed"*)
                fail "$1: $why (was the password changed after the server's data were made?)" ;;
            *"no password supplied"* | *"no pg_hba.conf entry"* | *" does not exist"*)
                fail "$1: $why" ;;
        esac
        [ "$(date +%s)" -lt "$deadline" ] || fail "$1 did not answer within $wait_seconds s: $why"
        [ -n "$is_told" ] || say "waiting for $1"
        is_told=1
        sleep 1
    done
}

# listed HOST:PORT VIEW COLUMN: which of the extensions a view of the server has, one a line.
listed() {
    echo "select $3 from $2 where $3 in ('citus', 'vector')" | answer "look for extensions" "$1"
}

# check_available HOST:PORT
check_available() {
    found=$(listed "$1" pg_available_extensions name)
    for extension in citus vector; do
        case $found in
            *"$extension"*) ;;
            *) fail "$1 has no extension $extension: install its package there, for the server's major version of" \
                "PostgreSQL (postgresql-NN-pgvector, postgresql-NN-citus)" ;;
        esac
    done
}

# create_extensions HOST:PORT
create_extensions() {
    found=$(listed "$1" pg_extension extname)
    for extension in citus vector; do
        case $found in
            *"$extension"*) continue ;;
        esac
        echo "create extension if not exists $extension" | answer "create the extension $extension" "$1"
        say "$1: created the extension $extension"
    done
}

# versions HOST:PORT
versions() {
    answer "ask for versions" "$1" <<'SQL'
select 'PostgreSQL ' || current_setting('server_version_num')::int / 10000 || ', '
    || string_agg(extname || ' ' || extversion, ', ' order by extname)
from pg_extension where extname in ('citus', 'vector');
SQL
}

# group HOST:PORT: the node's number in its cluster; 0 is a coordinator, or a server in no cluster.
group() {
    echo "select groupid from pg_dist_local_group" | answer "ask for its place in a cluster" "$1"
}

# coordinator_of HOST:PORT: the coordinator that a server knows; of a server in no cluster, none.
coordinator_of() {
    answer "look for its coordinator" "$1" <<'SQL'
select nodename || ':' || nodeport from pg_dist_node where groupid = 0 and noderole = 'primary';
SQL
}

register_coordinator() {
    group=$(group "$coordinator")
    [ "$group" = 0 ] ||
        fail "$coordinator is a worker of another coordinator; name that one instead"
    is=$(coordinator_of "$coordinator")
    if [ "$is" = "$coordinator" ]; then
        say "coordinator $coordinator: registered already"
        return
    fi
    answer "register it as coordinator" "$coordinator" host="${coordinator%:*}" port="${coordinator##*:}" \
        >/dev/null <<'SQL'
select citus_set_coordinator_host(:'host', :'port'::int);
SQL
    say "coordinator $coordinator: registered${is:+, before as $is}"
}

# register_worker HOST:PORT
register_worker() {
    known=$(answer "look for registered nodes" "$coordinator" host="${1%:*}" port="${1##*:}" <<'SQL'
select groupid || case when isactive then '' else ' inactive' end
from pg_dist_node where nodename = :'host' and nodeport = :'port'::int;
SQL
    )
    group=$(group "$1")
    of=$(coordinator_of "$1")
    given=$(echo "select last_value from pg_dist_groupid_seq where is_called" |
        answer "look for registered nodes" "$coordinator")
    if [ -n "$known" ] && [ "${known% inactive}" != "$group" ]; then
        fail "$1 is registered as node ${known% inactive}, and says it is node $group: this is not the server that" \
            "was registered. If its data are lost, so are the shards that it held: vecload cluster remove $1 names the" \
            "tables to drop; after it, run this again"
    elif [ -z "$known" ] && [ "$group" = 0 ] && [ -n "$of" ]; then
        fail "$1 is the coordinator of another cluster"
    elif [ -z "$known" ] && [ "$group" != 0 ]; then
        # A worker that was removed keeps its number and its list of nodes, and may come back. A coordinator that
        # never gave out that number is not the one that it had, whatever its name.
        if [ "$of" = "$coordinator" ] && [ "$group" -gt "${given:-0}" ]; then
            fail "$1 is a worker of another cluster, whose coordinator was $coordinator too: if that one's data are" \
                "lost, restore them from a backup; this one does not know the shards on its workers"
        elif [ "$of" != "$coordinator" ]; then
            fail "$1 is a worker of another cluster"
        fi
    fi
    case $known in
        *inactive)
            answer "activate $1" "$coordinator" host="${1%:*}" port="${1##*:}" >/dev/null <<'SQL'
select citus_activate_node(:'host', :'port'::int);
SQL
            say "worker $1: activated" ;;
        '')
            answer "add $1" "$coordinator" host="${1%:*}" port="${1##*:}" >/dev/null <<'SQL'
select citus_add_node(:'host', :'port'::int);
SQL
            say "worker $1: registered" ;;
        *) say "worker $1: registered already" ;;
    esac
}

# is_among NODE NODE…: whether the first is one of the others.
is_among() (
    sought=$1
    shift
    for node do
        [ "$node" != "$sought" ] || exit 0
    done
    exit 1
)

# check_connections NODE…: these have to reach each other, and not the coordinator alone. Another node of the cluster
# that does not is told, and no more: it may be stopped for now.
check_connections() {
    ways=$(answer "check the connections between nodes" "$coordinator" <<'SQL'
select format('%s:%s %s:%s', from_nodename, from_nodeport, to_nodename, to_nodeport)
from citus_check_cluster_node_health() where result is not true order by 1;
SQL
    )
    broken='' others=''
    while read -r from to; do
        [ -n "$from" ] || continue
        is_ours=1
        for node in "$from" "$to"; do
            if ! is_among "$node" "$@"; then
                is_ours=''
                is_among "$node" $others || others="$others $node"
            fi
        done
        [ -z "$is_ours" ] || broken="${broken:+$broken, }$from to $to"
    done <<WAYS
$ways
WAYS
    [ -z "$others" ] || say "warning: other nodes of the cluster that don't reach all, or that not all reach:$others"
    [ -z "$broken" ] || fail "nodes that can't reach each other: $broken; their logs tell why"
}

if [ $# -lt 2 ]; then
    echo "usage: register.sh COORDINATOR[:PORT] WORKER[:PORT]..." >&2
    exit 2
fi
if [ -n "${PASSWORD_FILE:-}" ]; then
    export PGPASSFILE="$scratch/pgpass"
    "$(dirname -- "$0")/pgpass.sh" "$PASSWORD_FILE" "$PGPASSFILE"
fi
coordinator=$(with_port "$1")
shift
for worker do
    worker=$(with_port "$worker")
    [ "$worker" != "$coordinator" ] || fail "$worker is named as coordinator and as worker"
    set -- "$@" "$worker"
    shift
done

deadline=$(($(date +%s) + wait_seconds))
for node in "$coordinator" "$@"; do
    wait_for "$node"
done
for node in "$coordinator" "$@"; do
    check_available "$node"
done
create_extensions "$coordinator"
expected=$(versions "$coordinator")
for worker do
    create_extensions "$worker"
    found=$(versions "$worker")
    [ "$found" = "$expected" ] || fail "$worker has $found, and $coordinator has $expected: install the same" \
        "versions on all nodes, and run alter extension … update"
done
register_coordinator
for worker do
    register_worker "$worker"
done
check_connections "$coordinator" "$@"
say "the cluster is ready: $expected"
