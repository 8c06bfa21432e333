//! Owns what only Postgres has in `dbos`: the two functions that plain SQL clients call, and the trigger that announces messages. Names,
//! arguments, defaults and error codes are DBOS Transact's.

/// Each is one statement. The pinned search path keeps a caller's own operators and tables out.
pub(super) const STATEMENTS: &[&str] = &[
    ATTRIBUTES_INDEX,
    ENQUEUE_WORKFLOW,
    SEND_MESSAGE,
    ANNOUNCE_MESSAGE,
    ANNOUNCE_TRIGGER,
];

/// SQLite has no index for containment in JSON.
const ATTRIBUTES_INDEX: &str = "CREATE INDEX idx_workflow_status_attributes ON dbos.workflow_status USING gin (attributes) WHERE attributes IS NOT NULL";

/// An id that exists already is answered with itself: nothing starts twice.
const ENQUEUE_WORKFLOW: &str = r"
CREATE FUNCTION dbos.enqueue_workflow(
    workflow_name text, queue_name text, positional_args json[] DEFAULT ARRAY[]::json[], named_args json DEFAULT '{}'::json,
    class_name text DEFAULT NULL, config_name text DEFAULT NULL, workflow_id text DEFAULT NULL, app_version text DEFAULT NULL,
    timeout_ms bigint DEFAULT NULL, deadline_epoch_ms bigint DEFAULT NULL, deduplication_id text DEFAULT NULL,
    priority integer DEFAULT NULL, queue_partition_key text DEFAULT NULL, authenticated_user text DEFAULT NULL,
    authenticated_roles text DEFAULT NULL, delay_until_epoch_ms bigint DEFAULT NULL, application_name text DEFAULT NULL
) RETURNS text LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
    id_given_or_new text := coalesce(workflow_id, gen_random_uuid()::text);
    now_ms bigint := extract(epoch FROM now()) * 1000;
BEGIN
    IF coalesce(workflow_name, '') = '' THEN
        RAISE EXCEPTION 'workflow_name must not be empty';
    ELSIF coalesce(queue_name, '') = '' THEN
        RAISE EXCEPTION 'queue_name must not be empty';
    ELSIF workflow_id = '' THEN
        RAISE EXCEPTION 'workflow_id must not be empty; leave it out to get a new one';
    ELSIF jsonb_typeof(named_args::jsonb) <> 'object' THEN
        RAISE EXCEPTION 'named_args must be a JSON object';
    ELSIF delay_until_epoch_ms < 0 THEN
        RAISE EXCEPTION 'delay_until_epoch_ms must not be negative';
    END IF;
    INSERT INTO dbos.workflow_status AS w (workflow_uuid, name, class_name, config_name, application_name, application_version, status,
            queue_name, queue_partition_key, priority, deduplication_id, delay_until_epoch_ms, workflow_timeout_ms,
            workflow_deadline_epoch_ms, authenticated_user, authenticated_roles, owner_xid, serialization, recovery_attempts, created_at,
            updated_at)
        SELECT id_given_or_new, workflow_name, class_name, config_name, application_name, app_version,
            CASE WHEN delay_until_epoch_ms IS NULL THEN 'ENQUEUED' ELSE 'DELAYED' END,
            queue_name, queue_partition_key, coalesce(priority, 0), deduplication_id, delay_until_epoch_ms, timeout_ms,
            deadline_epoch_ms, authenticated_user, authenticated_roles, gen_random_uuid()::text, 'portable_json', 0, now_ms, now_ms
        ON CONFLICT (workflow_uuid) DO UPDATE SET updated_at = now_ms;
    INSERT INTO dbos.workflow_input (workflow_uuid, inputs, retention_timestamp)
        SELECT id_given_or_new, json_build_object('positionalArgs', positional_args, 'namedArgs', named_args)::text, now_ms
        ON CONFLICT (workflow_uuid) DO NOTHING;
    RETURN id_given_or_new;
EXCEPTION WHEN unique_violation THEN
    RAISE unique_violation USING MESSAGE = 'DBOS queue duplicated',
        DETAIL = format('queue %s already holds deduplication id %s; workflow %s was not enqueued', queue_name, deduplication_id, id_given_or_new);
END $body$";

/// A message id that exists already is ignored: a sender may repeat itself.
const SEND_MESSAGE: &str = r"
CREATE FUNCTION dbos.send_message(destination_id text, message json, topic text DEFAULT NULL, message_id text DEFAULT NULL)
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    INSERT INTO dbos.notifications (message_uuid, destination_uuid, topic, message, serialization)
        SELECT coalesce(message_id, gen_random_uuid()::text), destination_id, coalesce(topic, '__null__topic__'), message::text, 'portable_json'
        ON CONFLICT (message_uuid) DO NOTHING;
EXCEPTION WHEN foreign_key_violation THEN
    RAISE foreign_key_violation USING MESSAGE = 'DBOS non-existent workflow', DETAIL = format('there is no workflow %s', destination_id);
END $body$";

const ANNOUNCE_MESSAGE: &str = r"
CREATE FUNCTION dbos.notifications_function() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    PERFORM pg_notify('dbos_notifications_channel', NEW.destination_uuid || '::' || NEW.topic);
    RETURN NULL;
END $body$";

const ANNOUNCE_TRIGGER: &str = "CREATE TRIGGER dbos_notifications_trigger AFTER INSERT ON dbos.notifications \
     FOR EACH ROW EXECUTE FUNCTION dbos.notifications_function()";
