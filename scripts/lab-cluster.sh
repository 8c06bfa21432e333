#!/usr/bin/env bash
# A throwaway Postgres cluster of the failure lab: made, stopped in any way, started again, copied as a standby, promoted.
# usage: scripts/lab-cluster.sh create DIR PORT [SETTING=VALUE…]   makes and starts one in DIR, which must not exist; prints its URL
#        scripts/lab-cluster.sh standby DIR PORT PRIMARY_DIR       makes and starts a copy of another one that follows it
#        scripts/lab-cluster.sh promote DIR                        the copy goes on by itself; returns when it can be written to
#        scripts/lab-cluster.sh stop DIR [smart|fast|immediate]    default: immediate, which is what a crash leaves
#        scripts/lab-cluster.sh start DIR
#        scripts/lab-cluster.sh sql DIR [psql arguments]           runs SQL from standard input as the superuser
# Commits are not flushed to disk: every process may die, the machine may not. The role of the URL may create databases.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
. "$STEPWELL_ROOT/scripts/lib-postgres.sh"
help_if_asked "$@"

[ $# -ge 2 ] || die "$EX_USAGE" "what, and in which directory? (--help shows the usage)"
what=$1 dir=$2
shift 2
[[ $dir == /* ]] || die "$EX_USAGE" "the directory must be an absolute path, got '$dir'"
bin=$(find_postgres_bin) || die "$EX_UNAVAILABLE" "no Postgres binaries found (Debian: apt-get install postgresql)"

# One line of a file that only the owner of our clusters may read.
noted() { as_postgres_owner cat "$dir/$1"; }
note() { printf '%s\n' "$2" | as_postgres_owner tee "$dir/$1" >/dev/null; }

start() { start_cluster "$bin" "$dir/data" "$dir" "$(noted port)" "$dir/postgres.log"; }

case $what in
  create)
    [ $# -ge 1 ] || die "$EX_USAGE" "create needs a port"
    port=$1
    shift
    [ ! -e "$dir/data" ] || die "$EX_USAGE" "$dir holds a cluster already"
    make_private_dir "$dir"
    note port "$port"
    as_postgres_owner "$bin/initdb" --pgdata="$dir/data" --username=postgres --auth=trust --encoding=UTF8 --locale=C --no-sync >/dev/null
    set_access "$dir/data" password
    printf '%s\n' "local replication all trust" "host replication all 127.0.0.1/32 trust" | as_postgres_owner tee -a "$dir/data/pg_hba.conf" >/dev/null
    for setting in fsync=off shared_buffers=32MB max_connections=200 "$@"; do printf "%s = '%s'\n" "${setting%%=*}" "${setting#*=}"; done |
      as_postgres_owner tee -a "$dir/data/postgresql.conf" >/dev/null
    start
    PG_USER=stepwell PG_DATABASE=stepwell PG_PASSWORD=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
    ensure_login "$bin" "$dir" "$port"
    echo "postgres://$PG_USER:$PG_PASSWORD@127.0.0.1:$port/$PG_DATABASE"
    ;;
  standby)
    [ $# -eq 2 ] || die "$EX_USAGE" "standby needs a port and the directory of the cluster to follow"
    port=$1 primary=$2
    make_private_dir "$dir"
    note port "$port"
    as_postgres_owner "$bin/pg_basebackup" --pgdata="$dir/data" --host="$primary" --port="$(as_postgres_owner cat "$primary/port")" --username=postgres \
      --write-recovery-conf --checkpoint=fast --no-sync --dbname="application_name=standby" >/dev/null
    start
    ;;
  promote) as_postgres_owner "$bin/pg_ctl" promote --wait --timeout=60 --pgdata="$dir/data" >/dev/null ;;
  stop) stop_cluster "$bin" "$dir/data" "${1:-immediate}" ;;
  start) start ;;
  sql) admin_sql "$bin" "$dir" "$(noted port)" "$@" ;;
  *) die "$EX_USAGE" "unknown: $what (--help shows the usage)" ;;
esac
