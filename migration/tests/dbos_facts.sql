-- Everything that distinguishes one dbos schema from another, one fact a line.
WITH schema AS (SELECT oid FROM pg_namespace WHERE nspname = 'dbos'),
relations AS (SELECT c.* FROM pg_class c JOIN schema s ON c.relnamespace = s.oid)
SELECT fact FROM (
    SELECT 'relation ' || relname || ' ' || relkind::text || ' ' || relpersistence::text AS fact FROM relations WHERE relkind NOT IN ('i', 'I')
    UNION ALL
    SELECT 'column ' || r.relname || ' ' || lpad(row_number() OVER (PARTITION BY r.oid ORDER BY a.attnum)::text, 2, '0') || ' ' || a.attname || ' '
        || format_type(a.atttypid, a.atttypmod) || CASE WHEN a.attnotnull THEN ' not null' ELSE '' END
        || coalesce(' default ' || pg_get_expr(d.adbin, d.adrelid), '')
    FROM relations r JOIN pg_attribute a ON a.attrelid = r.oid LEFT JOIN pg_attrdef d ON d.adrelid = r.oid AND d.adnum = a.attnum
    WHERE r.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT 'index ' || indexdef FROM pg_indexes WHERE schemaname = 'dbos'
    UNION ALL
    -- 'n': Postgres 18 lists NOT NULL here too, which the columns have said.
    SELECT 'constraint ' || r.relname || ' ' || k.conname || ' ' || pg_get_constraintdef(k.oid)
    FROM pg_constraint k JOIN relations r ON r.oid = k.conrelid WHERE k.contype <> 'n'
    UNION ALL
    SELECT 'function ' || p.proname || '(' || pg_get_function_arguments(p.oid) || ') returns ' || pg_get_function_result(p.oid) || ' ' || l.lanname
        || ' ' || p.provolatile::text || ' strict ' || p.proisstrict || ' definer ' || p.prosecdef || ' ' || array_to_string(p.proconfig, ';')
    FROM pg_proc p JOIN schema s ON p.pronamespace = s.oid JOIN pg_language l ON l.oid = p.prolang
    UNION ALL
    SELECT 'trigger ' || pg_get_triggerdef(t.oid) FROM pg_trigger t JOIN relations r ON r.oid = t.tgrelid WHERE NOT t.tgisinternal
    UNION ALL
    SELECT 'version ' || version FROM dbos.dbos_migrations
) facts ORDER BY fact COLLATE "C"
