//! The environment is read as the standard means it.

use super::*;

fn read(pairs: &[(&str, &str)]) -> Result<TelemetryConfig, ConfigError> {
    let lookup = |name: &str| {
        pairs
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, v)| (*v).to_owned())
    };
    Lookup(&lookup).telemetry()
}

fn endpoint_of(target: Option<OtlpTarget>) -> String {
    target.map_or("none".into(), |target| target.endpoint.to_string())
}

#[test]
fn without_an_endpoint_nothing_is_exported() {
    let config = read(&[]).unwrap();
    assert_eq!(
        (config.traces, config.logs, config.metrics),
        (None, None, None)
    );
    let required = read(&[("OTLP_REQUIRED", "1")]).unwrap();
    assert_eq!(
        endpoint_of(required.traces),
        "http://localhost:4318/v1/traces"
    );
    let traces_alone = [
        ("OTLP_REQUIRED", "1"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://h:1"),
    ];
    assert_eq!(read(&traces_alone).unwrap().logs, None);
    let disabled = read(&[("OTLP_REQUIRED", "1"), ("OTEL_SDK_DISABLED", "true")]).unwrap();
    assert_eq!(disabled.traces, None);
}

#[test]
fn an_endpoint_is_taken_with_and_without_the_path_of_its_signal() {
    for (signal, url, expected) in [
        ("TRACES_ENDPOINT", "http://h:1", "http://h:1/v1/traces"),
        (
            "TRACES_ENDPOINT",
            "http://h:1/v1/traces",
            "http://h:1/v1/traces",
        ),
        ("TRACES_ENDPOINT", "http://h:1/own", "http://h:1/own"),
        ("ENDPOINT", "http://h:1/base/", "http://h:1/base/v1/traces"),
        ("ENDPOINT", "http://h:1/v1/traces", "http://h:1/v1/traces"),
        ("ENDPOINT", "http://h:1/v1/logs/", "http://h:1/v1/traces"),
        (
            "ENDPOINT",
            "http://h:1/a/v1/metrics",
            "http://h:1/a/v1/traces",
        ),
        (
            "ENDPOINT",
            "http://h:1/av1/logs",
            "http://h:1/av1/logs/v1/traces",
        ),
    ] {
        let config = read(&[(&format!("OTEL_EXPORTER_OTLP_{signal}"), url)]).unwrap();
        assert_eq!(endpoint_of(config.traces), expected, "{signal} {url}");
    }
    let logs = read(&[("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://h:1")]).unwrap();
    assert_eq!(endpoint_of(logs.logs), "http://h:1/v1/logs");
    assert_eq!(logs.traces, None);
}

#[test]
fn a_base_that_is_the_url_of_one_signal_is_the_base_of_all() {
    let config = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h:1/v1/traces")]).unwrap();
    let urls = [config.traces, config.logs, config.metrics].map(endpoint_of);
    assert_eq!(
        urls,
        ["traces", "logs", "metrics"].map(|signal| format!("http://h:1/v1/{signal}"))
    );
}

#[test]
fn values_mean_what_the_standard_says() {
    let shown = |config: TelemetryConfig| {
        let batches = [config.span_batches, config.log_batches];
        let timeout = |target: &OtlpTarget| target.timeout.map(|limit| limit.as_millis());
        (
            config.traces.as_ref().map(timeout),
            config.logs.is_some(),
            config.metrics.is_some(),
            batches.map(|batches| batches.delay.as_millis()),
        )
    };
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h:1");
    let (limit, delays) = (Some(Some(10_000)), [5_000, 1_000]);
    for (said, expected) in [
        (vec![], (None, false, false, delays)),
        (vec![endpoint], (limit, true, true, delays)),
        (
            vec![endpoint, ("OTEL_SDK_DISABLED", "True")],
            (None, false, false, delays),
        ),
        (
            vec![endpoint, ("OTEL_SDK_DISABLED", "FALSE")],
            (limit, true, true, delays),
        ),
        (
            vec![endpoint, ("OTEL_METRICS_EXPORTER", "prometheus")],
            (limit, true, false, delays),
        ),
        (
            vec![("OTEL_TRACES_EXPORTER", "otlp")],
            (limit, false, false, delays),
        ),
        (
            vec![
                ("OTEL_LOGS_EXPORTER", "otlp"),
                ("OTEL_METRICS_EXPORTER", "otlp"),
            ],
            (None, true, true, delays),
        ),
        (
            vec![endpoint, ("OTEL_EXPORTER_OTLP_TIMEOUT", "0")],
            (Some(None), true, true, delays),
        ),
        (
            vec![endpoint, ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "0")],
            (Some(None), true, true, delays),
        ),
        (
            vec![
                ("OTEL_BSP_SCHEDULE_DELAY", "0"),
                ("OTEL_BLRP_SCHEDULE_DELAY", "0"),
            ],
            (None, false, false, [0, 0]),
        ),
    ] {
        assert_eq!(shown(read(&said).unwrap()), expected, "{said:?}");
    }
}

#[test]
fn an_exporter_that_is_asked_for_has_the_receiver_of_the_standard() {
    let asked = ("OTEL_LOGS_EXPORTER", "otlp");
    let logs = |more| endpoint_of(read(&[asked, more]).unwrap().logs);
    let grpc = logs(("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"));
    assert_eq!(grpc, "http://localhost:4317/");
    let http = logs(("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://h:1"));
    assert_eq!(http, "http://localhost:4318/v1/logs");
    let own = logs(("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://h:1"));
    assert_eq!(own, "http://h:1/v1/logs");
}

#[test]
fn requests_are_compressed_where_that_is_said() {
    let config = read(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h:1"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_LOGS_COMPRESSION", "none"),
    ])
    .unwrap();
    assert_eq!(config.traces.unwrap().compression, Compression::Gzip);
    assert_eq!(config.logs.unwrap().compression, Compression::None);
}

#[test]
fn only_what_changes_something_is_set_in_vain() {
    for (name, said, in_vain) in [
        ("OTEL_PROPAGATORS", "tracecontext, baggage", false),
        ("OTEL_PROPAGATORS", "tracecontext", false),
        ("OTEL_PROPAGATORS", "tracecontext,b3", true),
        ("OTEL_METRICS_EXEMPLAR_FILTER", "trace_based", true),
        (
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
            "Cumulative",
            false,
        ),
        (
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
            "delta",
            true,
        ),
        ("OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE", "/ca.pem", true),
        ("OTEL_BSP_EXPORT_TIMEOUT", "1", true),
        ("OTEL_SPAN_LINK_COUNT_LIMIT", "1", true),
    ] {
        let found = read(&[(name, said)]).unwrap().not_honoured;
        assert_eq!(found == [name], in_vain, "{name}={said}: {found:?}");
    }
}

#[test]
fn what_is_said_of_one_signal_counts_before_what_is_said_of_all() {
    let config = read(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h:1"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "http/protobuf"),
        (
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
            "authorization=Bearer%20t,x-a=b",
        ),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "5"),
        ("OTEL_METRICS_EXPORTER", "none"),
    ])
    .unwrap();
    let (traces, logs) = (config.traces.unwrap(), config.logs.unwrap());
    assert_eq!(traces.protocol, OtlpProtocol::Grpc);
    assert_eq!(traces.endpoint.as_str(), "http://h:1/");
    assert_eq!(
        traces.headers.0[0],
        ("authorization".into(), "Bearer t".into())
    );
    assert!(!format!("{traces:?}").contains("Bearer"));
    assert_eq!(logs.endpoint.as_str(), "http://h:1/v1/logs");
    assert_eq!(logs.timeout, Some(Duration::from_millis(5)));
    assert_eq!(config.metrics, None);
}

#[test]
fn bad_values_are_errors_and_secrets_are_not_repeated() {
    for (name, value) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "-1"),
        ("OTEL_TRACES_EXPORTER", "console"),
        ("OTEL_TRACES_EXPORTER", "prometheus"),
        ("OTEL_SDK_DISABLED", "1"),
        ("OTEL_SDK_DISABLED", "yes"),
        ("OTEL_TRACES_SAMPLER", "sometimes"),
        ("OTEL_TRACES_SAMPLER_ARG", "2"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "soon"),
        ("OTLP_REQUIRED", "yes"),
        ("STEPWELL_LOG", "xml"),
        ("RUST_LOG", "stepwell=loud"),
    ] {
        assert_eq!(read(&[(name, value)]).unwrap_err().name, name);
    }
    let secret = read(&[("OTEL_EXPORTER_OTLP_HEADERS", "s3cret")]).unwrap_err();
    assert!(!secret.to_string().contains("s3cret"), "{secret}");
    let typo = "htp://me:s3cret@h:1/v1?api_key=s3cret";
    let secret = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", typo)]).unwrap_err();
    assert!(!secret.to_string().contains("s3cret"), "{secret}");
}

#[test]
fn resource_and_samplers_are_read() {
    let config = read(&[
        (
            "OTEL_RESOURCE_ATTRIBUTES",
            "service.name=a,deployment.environment=lab%2C1",
        ),
        ("OTEL_SERVICE_NAME", "b"),
        ("OTEL_TRACES_SAMPLER", "traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "0.5"),
        ("OTEL_PROPAGATORS", "b3"),
    ])
    .unwrap();
    assert_eq!(config.resource["service.name"], "b");
    assert_eq!(config.resource["deployment.environment"], "lab,1");
    assert_eq!(
        config.sampler,
        Sampler {
            parent_based: false,
            ratio: 0.5
        }
    );
    assert_eq!(config.not_honoured, ["OTEL_PROPAGATORS"]);
}
