//! What is read of telemetry over OTLP.

use super::{
    SWITCH,
    Unset::{self, Is, Means},
    Variable, variable,
};

const OTLP_URL: &str = "an http or https URL, like http://127.0.0.1:4318";
const EXPORTER: &str = "otlp or none";
const PROTOCOL: &str = "http/protobuf or grpc";
const PAIRS: &str = "key=value,key=value";
const MILLISECONDS: &str = "milliseconds from 0";
const COMPRESSION: &str = "none or gzip";
const BATCH: &str = "a whole number from 1 to 1000000";
const OF_ALL: Unset = Means("that of all signals");
const WHERE_NAMED: Unset = Means("`otlp` where an endpoint is named");

pub(super) const OTLP: &[Variable] = &[
    variable(
        "OTLP_REQUIRED",
        Is("0"),
        SWITCH,
        "whether the process starts only when its receivers answer; exit code 78 otherwise",
    ),
    variable(
        "OTEL_SDK_DISABLED",
        Is("false"),
        "true or false",
        "whether nothing is exported",
    ),
    variable(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        Means("nothing is exported"),
        OTLP_URL,
        "the receiver of all signals",
    ),
    variable(
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        OF_ALL,
        OTLP_URL,
        "the receiver of spans",
    ),
    variable(
        "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
        OF_ALL,
        OTLP_URL,
        "the receiver of log records",
    ),
    variable(
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
        OF_ALL,
        OTLP_URL,
        "the receiver of metrics",
    ),
    variable(
        "OTEL_TRACES_EXPORTER",
        WHERE_NAMED,
        EXPORTER,
        "whether spans are exported; `otlp` without an endpoint means the standard's, `http://localhost:4318` (`4317` for gRPC)",
    ),
    variable(
        "OTEL_LOGS_EXPORTER",
        WHERE_NAMED,
        EXPORTER,
        "the same for log records",
    ),
    variable(
        "OTEL_METRICS_EXPORTER",
        WHERE_NAMED,
        "otlp or none or prometheus",
        "the same for metrics; `prometheus`: not over OTLP, `/metrics` has them in any case",
    ),
    variable(
        "OTEL_EXPORTER_OTLP_PROTOCOL",
        Is("http/protobuf"),
        PROTOCOL,
        "how OTLP is spoken",
    ),
    variable(
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
        OF_ALL,
        PROTOCOL,
        "the same for spans",
    ),
    variable(
        "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL",
        OF_ALL,
        PROTOCOL,
        "the same for log records",
    ),
    variable(
        "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL",
        OF_ALL,
        PROTOCOL,
        "the same for metrics",
    ),
    variable(
        "OTEL_EXPORTER_OTLP_HEADERS",
        Means("none"),
        PAIRS,
        "headers of every request, percent-encoded; never shown",
    ),
    variable(
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
        OF_ALL,
        PAIRS,
        "the same for spans",
    ),
    variable(
        "OTEL_EXPORTER_OTLP_LOGS_HEADERS",
        OF_ALL,
        PAIRS,
        "the same for log records",
    ),
    variable(
        "OTEL_EXPORTER_OTLP_METRICS_HEADERS",
        OF_ALL,
        PAIRS,
        "the same for metrics",
    ),
    variable(
        "OTEL_EXPORTER_OTLP_TIMEOUT",
        Is("10000"),
        MILLISECONDS,
        "milliseconds that a request may take; 0 is no limit",
    ),
    variable(
        "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
        OF_ALL,
        MILLISECONDS,
        "the same for spans",
    ),
    variable(
        "OTEL_EXPORTER_OTLP_LOGS_TIMEOUT",
        OF_ALL,
        MILLISECONDS,
        "the same for log records",
    ),
    variable(
        "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT",
        OF_ALL,
        MILLISECONDS,
        "the same for metrics",
    ),
    variable(
        "OTEL_EXPORTER_OTLP_COMPRESSION",
        Is("none"),
        COMPRESSION,
        "how requests are compressed",
    ),
    variable(
        "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION",
        OF_ALL,
        COMPRESSION,
        "the same for spans",
    ),
    variable(
        "OTEL_EXPORTER_OTLP_LOGS_COMPRESSION",
        OF_ALL,
        COMPRESSION,
        "the same for log records",
    ),
    variable(
        "OTEL_EXPORTER_OTLP_METRICS_COMPRESSION",
        OF_ALL,
        COMPRESSION,
        "the same for metrics",
    ),
    variable(
        "OTEL_TRACES_SAMPLER",
        Is("parentbased_always_on"),
        "parentbased_always_on or parentbased_always_off or parentbased_traceidratio or always_on or always_off or traceidratio",
        "which traces are exported; the decision is stored with the run",
    ),
    variable(
        "OTEL_TRACES_SAMPLER_ARG",
        Is("1"),
        "a number from 0 to 1",
        "the share that the samplers with `ratio` in their name export",
    ),
    variable(
        "OTEL_BSP_MAX_QUEUE_SIZE",
        Is("2048"),
        BATCH,
        "spans that may wait; what comes then is lost and counted",
    ),
    variable(
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
        Is("512"),
        BATCH,
        "most spans in one request",
    ),
    variable(
        "OTEL_BSP_SCHEDULE_DELAY",
        Is("5000"),
        MILLISECONDS,
        "milliseconds that the first span of a batch waits for others",
    ),
    variable(
        "OTEL_BLRP_MAX_QUEUE_SIZE",
        Is("2048"),
        BATCH,
        "log records that may wait; what comes then is lost and counted",
    ),
    variable(
        "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE",
        Is("512"),
        BATCH,
        "most log records in one request",
    ),
    variable(
        "OTEL_BLRP_SCHEDULE_DELAY",
        Is("1000"),
        MILLISECONDS,
        "milliseconds that the first record of a batch waits for others",
    ),
    variable(
        "OTEL_METRIC_EXPORT_INTERVAL",
        Is("60000"),
        "milliseconds from 1",
        "milliseconds between two exports of metrics",
    ),
    variable(
        "OTEL_SERVICE_NAME",
        Is("stepwell"),
        "any text",
        "who this is; counts before `service.name` of the next one",
    ),
    variable(
        "OTEL_RESOURCE_ATTRIBUTES",
        Means("`service.name=stepwell`"),
        PAIRS,
        "what else is to be said of this process, percent-encoded; counts before what it says of itself",
    ),
];
