# shellcheck shell=bash
# psql on whichever database is configured, for psql-app.sh and psql-sys.sh.
# usage: . scripts/lib.sh && . scripts/db/psql.sh && run_psql SEARCH_PATH [psql flags]   (sourced)

# Splits psql's flags into COMMANDS (SQL texts), TUPLES_ONLY and UNALIGNED.
read_flags() {
  local letters
  COMMANDS=() TUPLES_ONLY=0 UNALIGNED=0
  while [ $# -gt 0 ]; do
    case $1 in
      --command=*) COMMANDS+=("${1#*=}") ;;
      --command) [ $# -ge 2 ] || die "$EX_USAGE" "--command needs SQL" && COMMANDS+=("$2") && shift ;;
      --tuples-only) TUPLES_ONLY=1 ;;
      --no-align) UNALIGNED=1 ;;
      -?*)
        letters=${1#-}
        while [ -n "$letters" ]; do
          case $letters in
            t*) TUPLES_ONLY=1 ;;
            A*) UNALIGNED=1 ;;
            [qX]*) ;;
            c) [ $# -ge 2 ] || die "$EX_USAGE" "-c needs SQL" && COMMANDS+=("$2") && shift ;;
            c*) COMMANDS+=("${letters#c}") && break ;;
            *) die "$EX_USAGE" "unknown option -${letters:0:1}; accepted are -c SQL, -t, -A, -q, -X (--help shows the usage)" ;;
          esac
          letters=${letters#?}
        done
        ;;
      *) die "$EX_USAGE" "unexpected argument '$1'; SQL goes after -c (--help shows the usage)" ;;
    esac
    shift
  done
}

run_on_postgres() {
  local path=$1 command flags=(-X -q -v ON_ERROR_STOP=1)
  have psql || die "$EX_UNAVAILABLE" "psql not found: install Postgres's client (Debian: apt-get install postgresql-client; macOS: brew install libpq)"
  parse_postgres_url "$(database_url)"
  export_libpq
  export PGOPTIONS="-c search_path=$path -c lock_timeout=10s"
  if [ "$TUPLES_ONLY" = 1 ]; then flags+=(-t); fi
  if [ "$UNALIGNED" = 1 ]; then flags+=(-A); fi
  for command in ${COMMANDS[@]+"${COMMANDS[@]}"}; do flags+=(-c "$command"); done
  exec psql --pset=pager=off "${flags[@]}"
}

# sqlite_client SQL [sqlite3 options]: on a database in memory, with the file attached as app and as dbos.
# SQL '' starts the client on standard input.
sqlite_client() {
  local file quoted sql=$1
  shift
  file=$(sqlite_path)
  [ -f "$file" ] || die "$EX_UNAVAILABLE" "no database at $file yet: run scripts/db/up.sh or start the server"
  quoted=${file//\'/\'\'}
  sqlite3 -batch -bail -cmd '.timeout 10000' -cmd "ATTACH '$quoted' AS app" -cmd "ATTACH '$quoted' AS dbos" "$@" :memory: ${sql:+"$sql"}
}

# What psql prints after a statement without a result: DELETE 3, UPDATE 1, INSERT 0 2.
sqlite_tag() {
  local word
  word=$(printf '%s' "$1" | awk '{ print toupper($1); exit }')
  case $1 in *[rR][eE][tT][uU][rR][nN][iI][nN][gG]*) return ;; esac
  case $word in
    DELETE | UPDATE) printf "; SELECT '%s ' || changes()" "$word" ;;
    INSERT) printf "; SELECT 'INSERT 0 ' || changes()" ;;
  esac
}

# Rows as psql draws them. Columns end with the unit separator and records with the record separator, the first being the header.
draw_table() {
  awk -v tuples_only="$TUPLES_ONLY" -v unaligned="$UNALIGNED" '
    BEGIN { RS = "\036"; FS = "\037" }
    NR == 1 { columns = NF }
    {
      for (i = 1; i <= columns; i++) {
        value = $i
        gsub(/\n/, "\\n", value)
        cell[NR, i] = value
        if (length(value) > width[i]) width[i] = length(value)
        if (NR > 1 && value != "" && value !~ /^-?[0-9.]+(e[-+]?[0-9]+)?$/) text[i] = 1
      }
    }
    END {
      rows = NR > 0 ? NR - 1 : 0
      for (r = 1; r <= NR; r++) {
        if (r == 1 && tuples_only) continue
        line = ""
        for (i = 1; i <= columns; i++) {
          gap = width[i] - length(cell[r, i])
          left = r == 1 ? int(gap / 2) : (text[i] ? 0 : gap)
          last = i == columns && (r == 1 || text[i])
          line = line (i > 1 ? "| " : " ") sprintf("%" left "s%s", "", cell[r, i]) sprintf("%" (last && r > 1 ? 0 : gap - left + (i < columns || r == 1)) "s", "")
        }
        print line
        if (r == 1) {
          rule = ""
          for (i = 1; i <= columns; i++) {
            dashes = sprintf("%" (width[i] + 2) "s", "")
            gsub(/ /, "-", dashes)
            rule = rule (i > 1 ? "+" : "") dashes
          }
          print rule
        }
      }
      if (!tuples_only) print "(" rows (rows == 1 ? " row)" : " rows)")
      print ""
    }'
}

run_sqlite_command() {
  local sql=$1 tag rows
  tag=$(sqlite_tag "$sql")
  sql=$(printf '%s' "$sql" | sed -e 's/[[:space:];]*$//')
  if [ -n "$tag" ]; then
    sqlite_client "$sql$tag" -list -noheader
  elif [ "$UNALIGNED" = 1 ] && [ "$TUPLES_ONLY" = 1 ]; then
    sqlite_client "$sql" -list -noheader
  elif [ "$UNALIGNED" = 1 ]; then
    rows=$(sqlite_client "$sql" -list -header)
    printf '%s' "$rows" | awk '{ print } END { rows = NR ? NR - 1 : 0; print "(" rows (rows == 1 ? " row)" : " rows)") }'
  else
    rows=$(sqlite_client "$sql" -list -header -separator $'\037' -newline $'\036')
    printf '%s' "$rows" | draw_table
  fi
}

run_on_sqlite() {
  local command
  have sqlite3 || die "$EX_UNAVAILABLE" "sqlite3 not found: install SQLite's client (Debian: apt-get install sqlite3; macOS: brew install sqlite)"
  if [ "${#COMMANDS[@]}" -eq 0 ]; then
    if [ -t 0 ]; then sqlite_client '' -interactive -header -column && exit; fi
    COMMANDS=("$(cat)")
  fi
  for command in "${COMMANDS[@]}"; do run_sqlite_command "$command"; done
}

# run_psql SEARCH_PATH [psql flags]
run_psql() {
  local path=$1
  shift
  read_flags "$@"
  if [ "$(database_kind)" = sqlite ]; then run_on_sqlite; else run_on_postgres "$path"; fi
}
