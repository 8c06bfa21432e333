//! What is refused for where it goes, what its head looks like, and who sends it.

use super::{
    cases::{INTENTS, RUNS},
    request::{Case, Sender},
};

pub(super) fn of_queries(sender: &Sender) -> Vec<Case> {
    let mut cases = Vec::new();
    for list in ["/api/runs", "/api/ops/wf"] {
        for (query, code) in [
            ("unknown=1", "invalid_query"),
            ("limit=1&limit=2", "invalid_query"),
            ("limit=1&l%69mit=2", "invalid_query"),
            ("Limit=1", "invalid_query"),
            ("status=%00", "invalid_query"),
            ("status=%ff", "invalid_query"),
            ("status=%zz", "invalid_query"),
            ("=1", "invalid_query"),
            ("limit=0", "schema_violation"),
            ("limit=201", "schema_violation"),
            ("limit=-1", "schema_violation"),
            ("limit=ten", "schema_violation"),
            ("limit=", "schema_violation"),
            ("limit=99999999999999999999", "schema_violation"),
            ("since=-1", "schema_violation"),
            ("since=yesterday", "schema_violation"),
            ("status=DONE", "schema_violation"),
            ("status=success", "schema_violation"),
            ("cursor=x", "schema_violation"),
            ("cursor=1.%20", "schema_violation"),
            ("cursor=9999999999999999.aa", "schema_violation"),
        ] {
            let target = format!("{list}?{query}");
            cases.push(sender.get(target.clone()).is(target, 400, code));
        }
    }
    let long = format!("/api/runs?tenantId={}", "x".repeat(201));
    cases.push(
        sender
            .get(long)
            .is("tenant too long", 400, "schema_violation"),
    );
    for path in [
        "/healthz?deep=1",
        "/docs?x=1",
        "/api/runs/nobody?verbose=1",
        "/api/artifacts/x?download=1",
    ] {
        cases.push(sender.get(path).is(path, 400, "invalid_query"));
    }
    let body = r#"{"goal":"g","inputs":{},"constraints":{}}"#;
    cases.push(sender.post("/api/intents?dry=1", body).is(
        "query key of a post",
        400,
        "invalid_query",
    ));
    cases
}

pub(super) fn of_routes(sender: &Sender) -> Vec<Case> {
    let mut cases = Vec::new();
    for path in [
        "/",
        "/api",
        "/api/",
        "/api/runs/",
        "/api//runs",
        "/API/runs",
        "/api/runs/a/b",
        "/api/runs/a/steps/",
        "/api/ops/wf/a/b",
        "/api/ops",
        "/metrics",
        "/healthz/",
        "/docs/",
        "/api/runs/../intents",
        "/favicon.ico",
        "/api/runs/%2E%2E/x",
    ] {
        cases.push(
            sender
                .get(path)
                .is(format!("no route {path}"), 404, "route_not_found"),
        );
    }
    for (method, path) in [
        ("DELETE", "/api/runs/a"),
        ("PUT", "/api/intents"),
        ("PATCH", "/api/runs"),
        ("GET", "/api/intents"),
        ("HEAD", "/api/intents/"),
        ("POST", "/healthz"),
        ("POST", "/docs"),
        ("DELETE", "/openapi.json"),
        ("OPTIONS", "/api/runs"),
        ("TRACE", "/api/runs"),
        ("BREW", "/api/runs"),
        ("get", "/api/runs"),
        ("GET", "/api/runs/a/approve-plan"),
        ("POST", "/api/ops/wf"),
    ] {
        let (status, code) = if path.ends_with('/') {
            (404, "route_not_found")
        } else {
            (405, "method_not_allowed")
        };
        // A refusal of HEAD has no body to look at.
        if method != "HEAD" {
            cases.push(
                sender
                    .bodiless(method, path)
                    .is(format!("{method} {path}"), status, code),
            );
        }
    }
    cases.push(
        sender
            .bodiless("OPTIONS", "*")
            .is("OPTIONS *", 404, "route_not_found"),
    );
    cases.push(sender.bodiless("PUT", "/api/nowhere").is(
        "no route before no method",
        404,
        "route_not_found",
    ));
    let with_bad_body = sender.post("/api/nowhere", "{bad");
    cases.push(with_bad_body.is("no route before a bad body", 404, "route_not_found"));
    cases
}

pub(super) fn of_heads(sender: &Sender) -> Vec<Case> {
    let raw = |name: &str, text: &[u8], code| Case {
        name: name.into(),
        bytes: text.to_vec(),
        status: 400,
        code,
    };
    let host = format!("Host: {}", sender.host);
    let intents = |headers: &str| {
        format!(
            "POST /api/intents HTTP/1.1\r\n{host}\r\nContent-Type: application/json\r\n{headers}\r\n\r\n"
        )
    };
    let many = "x-a: b\r\n".repeat(200);
    vec![
        raw("no HTTP at all", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", "malformed_request"),
        raw("two words", b"GET /\r\n\r\n", "malformed_request"),
        raw("a version of nobody", format!("GET /healthz HTTP/9.9\r\n{host}\r\n\r\n").as_bytes(), "malformed_request"),
        raw("a blank in a header's name", format!("GET /healthz HTTP/1.1\r\n{host}\r\nBad Name: x\r\n\r\n").as_bytes(), "malformed_request"),
        raw("NUL in a header", format!("GET /healthz HTTP/1.1\r\n{host}\r\nx-a: \0\r\n\r\n").as_bytes(), "malformed_request"),
        raw("NUL in the path", format!("GET /healthz\0 HTTP/1.1\r\n{host}\r\n\r\n").as_bytes(), "malformed_request"),
        raw("raw bytes in the path that are not UTF-8", format!("GET /api/runs/\u{1} HTTP/1.1\r\n{host}\r\n\r\n").as_bytes(), "malformed_request"),
        raw("a length that is no number", intents("Content-Length: ten").as_bytes(), "malformed_request"),
        raw("a length below 0", intents("Content-Length: -1").as_bytes(), "malformed_request"),
        raw("two lengths", intents("Content-Length: 2\r\nContent-Length: 3").as_bytes(), "malformed_request"),
        raw("two lengths in one line", intents("Content-Length: 2, 3").as_bytes(), "malformed_request"),
        raw("length and chunks", format!("{}0\r\n\r\n", intents("Content-Length: 5\r\nTransfer-Encoding: chunked")).as_bytes(), "ambiguous_length"),
        raw("chunks and length", format!("{}0\r\n\r\n", intents("transfer-encoding: chunked\r\ncontent-length: 5")).as_bytes(), "ambiguous_length"),
        raw("a coding after the chunks", intents("Transfer-Encoding: chunked, identity").as_bytes(), "malformed_request"),
        raw("an unknown coding", intents("Transfer-Encoding: xchunked").as_bytes(), "malformed_request"),
        raw("chunks in HTTP/1.0", format!("POST /api/intents HTTP/1.0\r\n{host}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n").as_bytes(), "malformed_request"),
        raw("too many headers", format!("GET /healthz HTTP/1.1\r\n{host}\r\n{many}\r\n").as_bytes(), "headers_too_large"),
        sender.get("/healthz").with(format!("x-a: {}", "b".repeat(70_000))).is("a header too large", 400, "headers_too_large"),
        sender.get(format!("/{}", "a".repeat(20_000))).is("path too long", 400, "uri_too_long"),
        sender.get(format!("/api/runs?tenantId={}", "a".repeat(20_000))).is("query too long", 400, "uri_too_long"),
        sender.get("/api/runs/%00").is("NUL in an id", 400, "invalid_path"),
        sender.get("/api/runs/%ff%fe").is("id that is not UTF-8", 400, "invalid_path"),
        sender.get("/api/runs/%C0%AF").is("overlong UTF-8 in an id", 400, "invalid_path"),
        sender.get("/api/runs/%zz").is("broken percent-encoding", 400, "invalid_path"),
        sender.get("/api/runs/a%2").is("half a percent-encoding", 400, "invalid_path"),
    ]
}

pub(super) fn of_names(sender: &Sender) -> Vec<Case> {
    let health = || sender.get("/healthz");
    let named = |host: &str| health().without("Host").with(format!("Host: {host}"));
    let body = r#"{"goal":"g","inputs":{},"constraints":{}}"#;
    let from = |origin: &str| sender.post(INTENTS, body).with(format!("Origin: {origin}"));
    let absolute = sender.get("http://evil.example/api/runs");
    vec![
        health().without("Host").is("no host", 400, "missing_host"),
        health()
            .with("Host: localhost")
            .is("two hosts", 400, "invalid_host"),
        named("").is("an empty host", 400, "invalid_host"),
        named("a b").is("a blank in a host", 400, "invalid_host"),
        named("user@localhost").is("a user in a host", 400, "invalid_host"),
        named("localhost/x").is("a path in a host", 400, "invalid_host"),
        named("evil.example").is("a foreign host", 403, "forbidden_host"),
        named("localhost.evil.example:80").is(
            "a foreign host that looks like ours",
            403,
            "forbidden_host",
        ),
        named("169.254.169.254").is("an address that is not ours", 403, "forbidden_host"),
        absolute.is("a foreign host in the target", 403, "forbidden_host"),
        sender
            .bodiless("PUT", "/nowhere")
            .without("Host")
            .with("Host: evil.example")
            .is("who asks before what for", 403, "forbidden_host"),
        from("null").is("an origin that hides", 403, "forbidden_origin"),
        from("https://evil.example").is("a foreign origin", 403, "forbidden_origin"),
        from("http://127.0.0.1:1").is("another port of this machine", 403, "forbidden_origin"),
        from(&format!("http://{}.evil.example", sender.host)).is(
            "an origin that looks like ours",
            403,
            "forbidden_origin",
        ),
        from(&format!("http://{}", sender.host))
            .with("Origin: null")
            .is("two origins", 403, "forbidden_origin"),
        sender.get(RUNS).with("Origin: https://evil.example").is(
            "a foreign origin that reads",
            403,
            "forbidden_origin",
        ),
        sender
            .bodiless("OPTIONS", RUNS)
            .with("Origin: https://evil.example")
            .with("Access-Control-Request-Method: POST")
            .is("a preflight", 403, "forbidden_origin"),
    ]
}

/// What a service with tokens refuses.
pub(crate) fn of_tokens(host: &str, token: &str, read_token: &str) -> Vec<Case> {
    let sender = Sender { host };
    let body = r#"{"goal":"g","inputs":{},"constraints":{}}"#;
    let bearing = |token: &str| sender.get(RUNS).with(format!("Authorization: {token}"));
    let twice = format!("Authorization: Bearer {token}");
    vec![
        sender.get(RUNS).is("no token", 401, "unauthorized"),
        sender
            .post(INTENTS, body)
            .is("a post without a token", 401, "unauthorized"),
        sender
            .post(INTENTS, "{bad")
            .is("a token before the body", 401, "unauthorized"),
        sender
            .get("/nowhere")
            .is("a token before the route", 401, "unauthorized"),
        sender
            .bodiless("PUT", RUNS)
            .is("a token before the method", 401, "unauthorized"),
        bearing("Bearer wrong-0123456789abcdef").is("a wrong token", 401, "unauthorized"),
        bearing(&format!("Bearer {token}x")).is("more than the token", 401, "unauthorized"),
        bearing(&format!("Bearer {}", &token[..token.len() - 1])).is(
            "less than the token",
            401,
            "unauthorized",
        ),
        bearing(&format!("Basic {token}")).is("another scheme", 401, "unauthorized"),
        bearing(token).is("no scheme", 401, "unauthorized"),
        bearing("Bearer").is("no token after the scheme", 401, "unauthorized"),
        sender.get(RUNS).with(twice.clone()).with(twice.clone()).is(
            "the token twice",
            401,
            "unauthorized",
        ),
        sender.get(format!("{RUNS}?token={token}")).is(
            "the token in the query",
            401,
            "unauthorized",
        ),
        sender
            .post(INTENTS, body)
            .with(format!("Authorization: Bearer {read_token}"))
            .is("a read token that writes", 403, "read_only_token"),
        sender
            .bodiless("DELETE", RUNS)
            .with(format!("Authorization: Bearer {read_token}"))
            .is(
                "a read token with a method of nobody",
                403,
                "read_only_token",
            ),
        sender
            .get(RUNS)
            .with(twice.clone())
            .without("Host")
            .with("Host: evil.example")
            .is("a foreign host with a token", 403, "forbidden_host"),
        sender
            .get(RUNS)
            .with(twice.clone())
            .with("Origin: https://evil.example")
            .is("a foreign origin with a token", 403, "forbidden_origin"),
        sender.bodiless("PUT", RUNS).with(twice).is(
            "a token and a method of nobody",
            405,
            "method_not_allowed",
        ),
    ]
}
