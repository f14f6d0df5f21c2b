#!/bin/sh
# Writes a password file for libpq that has a secret for all servers: pgpass.sh SECRET OUT
set -eu

secret=$1 out=$2
if [ ! -r "$secret" ]; then
    echo "the password file $secret can't be read; ./make-secret.sh makes it" >&2
    exit 1
fi
password=$(cat -- "$secret")
newline='
'
case $password in
    '') echo "the password file $secret is empty; remove it, and make one by ./make-secret.sh" >&2; exit 1 ;;
    *"$newline"*) echo "the password file $secret has more than one line" >&2; exit 1 ;;
esac
umask 077
# Colons part the fields, and backslashes escape.
printf '%s\n' "$password" | sed 's/[\\:]/\\&/g; s/^/*:*:*:*:/' >"$out"
