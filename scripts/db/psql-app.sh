#!/usr/bin/env bash
# SQL on the product's tables (schema app) of the configured database, Postgres or SQLite, answered in psql's format.
# usage: scripts/db/psql-app.sh [-t] [-A] [-c SQL]…
#   -c SQL  run it and leave; may be given several times. Without it SQL is read from standard input
#   -t      rows only: no header, no count
#   -A      unaligned: values separated by |
# Flags combine as in psql (-tAc SQL). Postgres needs psql, SQLite needs sqlite3 (3.38 or later).
# On SQLite the file is attached under the names app and dbos; one transaction can write through only one of them, and
# a -c with several SELECTs shows their rows as one table.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../lib.sh"
. "$here/psql.sh"
help_if_asked "$@"

run_psql app,manual,public "$@"
