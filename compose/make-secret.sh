#!/bin/sh
# Makes the cluster's password, once: ./make-secret.sh
set -eu

secret=$(dirname -- "$0")/secrets/postgres_password
if [ -s "$secret" ]; then
    echo "$secret is there already and stays: the cluster's data are tied to it"
    exit 0
fi
umask 077
mkdir -p "$(dirname -- "$secret")"
password=$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')
if [ "${#password}" -ne 48 ]; then
    echo "$0: could not read 24 bytes of /dev/urandom" >&2
    exit 1
fi
# printf is part of the shell, so no process shows the password.
printf '%s\n' "$password" >"$secret"
echo "made $secret; only you can read it"
