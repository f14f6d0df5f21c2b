#!/bin/sh
# Starts a node; its arguments are options of the server.
#
# The usual entry point would leave the password in the server's environment. So it only makes the data directory
# here, in a process of its own, and the server finds the password for other nodes in a file.
set -eu

secret=/run/secrets/postgres_password
pgpass.sh "$secret" "$PGPASSFILE"
chown postgres:postgres "$PGPASSFILE"
POSTGRES_PASSWORD_FILE=$secret docker-ensure-initdb.sh
exec gosu postgres postgres "$@"
