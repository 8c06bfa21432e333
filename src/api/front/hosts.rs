//! Owns the names that requests may use for this service. A web page that had its own name resolved to this machine (DNS rebinding) still
//! sends that name; a page of somebody else's still says where it is from.

use std::net::IpAddr;

use openapi::ApiError;
use poem::{
    Request,
    http::{HeaderName, StatusCode, header, uri::Authority},
};

/// The names beside loopback's and the address that a request came to.
#[derive(Debug)]
pub(in crate::api) struct Hosts(pub(in crate::api) Vec<String>);

impl Hosts {
    /// Lets a request pass that calls this service by one of its names and comes from none of another's pages.
    ///
    /// # Errors
    /// 400 without a readable `Host`, 403 for a foreign one or a foreign `Origin`.
    pub(in crate::api) fn check(&self, request: &Request) -> Result<(), ApiError> {
        let bad = |code: &str, message: &str| {
            ApiError::new(StatusCode::BAD_REQUEST, code, message.to_owned())
        };
        let host = match values(request, &header::HOST).as_slice() {
            [] => return Err(bad("missing_host", "the request has no Host header")),
            [Some(host)] => (*host).to_owned(),
            _ => return Err(bad("invalid_host", "the request has more than one Host")),
        };
        let authority = plain_authority(&host)
            .ok_or_else(|| bad("invalid_host", "the Host header is no host and port"))?;
        let here = request.local_addr().as_socket_addr().map(|a| a.ip());
        let in_target = request.uri().authority();
        for named in std::iter::once(&authority).chain(in_target) {
            if !self.are_ours(named, here) {
                return Err(ApiError::new(
                    StatusCode::FORBIDDEN,
                    "forbidden_host",
                    format!(
                        "this service does not answer to {named}; name it in STEPWELL_ALLOWED_HOSTS"
                    ),
                ));
            }
        }
        let origins = values(request, &header::ORIGIN);
        if origins
            .iter()
            .all(|origin| origin.is_some_and(|origin| is_same(origin, &authority)))
        {
            return Ok(());
        }
        Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "forbidden_origin",
            format!("only pages of {authority} may call this service from a browser"),
        ))
    }

    fn are_ours(&self, authority: &Authority, here: Option<IpAddr>) -> bool {
        let host = authority.host().to_ascii_lowercase();
        let host = host.trim_end_matches('.');
        let literal = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<IpAddr>()
            .map(|ip| ip.to_canonical());
        let here = here.map(|ip| ip.to_canonical());
        match literal {
            Ok(ip) => ip.is_loopback() || Some(ip) == here || self.0.contains(&ip.to_string()),
            Err(_) => {
                host == "localhost"
                    || host.ends_with(".localhost")
                    || self.0.iter().any(|name| name == host)
            }
        }
    }
}

/// All values of a header; none for one that is not text.
fn values<'a>(request: &'a Request, name: &HeaderName) -> Vec<Option<&'a str>> {
    let values = request.headers().get_all(name).iter();
    values.map(|value| value.to_str().ok()).collect()
}

/// A host, perhaps with a port, and nothing else.
fn plain_authority(text: &str) -> Option<Authority> {
    let authority: Authority = text.parse().ok()?;
    (!text.contains('@') && !authority.host().is_empty()).then_some(authority)
}

/// Whether a page from `origin` was served by `host`. A proxy may have taken the TLS off, so both schemes are the same; a port that a scheme
/// implies may be left out.
fn is_same(origin: &str, host: &Authority) -> bool {
    let (authority, implied) = if let Some(rest) = origin.strip_prefix("http://") {
        (rest, 80)
    } else if let Some(rest) = origin.strip_prefix("https://") {
        (rest, 443)
    } else {
        return false;
    };
    let port = |authority: &Authority| authority.port_u16().unwrap_or(implied);
    plain_authority(authority).is_some_and(|origin| {
        origin.host().eq_ignore_ascii_case(host.host()) && port(&origin) == port(host)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_has_loopbacks_names_its_address_and_those_it_was_given() {
        let hosts = Hosts(vec!["stepwell.example".into()]);
        let here = Some(IpAddr::from([192, 0, 2, 7]));
        let ours = |text: &str| hosts.are_ours(&text.parse().unwrap(), here);
        for name in [
            "localhost",
            "LocalHost:3001",
            "a.localhost",
            "127.0.0.1:3001",
            "127.8.9.1",
            "[::1]:3001",
            "[::ffff:127.0.0.1]",
            "192.0.2.7:80",
            "stepwell.example",
            "Stepwell.Example.:443",
        ] {
            assert!(ours(name), "{name}");
        }
        for name in [
            "evil.example",
            "localhost.evil.example",
            "192.0.2.8",
            "127.0.0.1.evil.example",
            "notlocalhost",
            "[::2]",
        ] {
            assert!(!ours(name), "{name}");
        }
    }

    #[test]
    fn an_origin_is_the_hosts_own_or_foreign() {
        let same = |origin: &str, host: &str| is_same(origin, &host.parse().unwrap());
        assert!(same("http://127.0.0.1:3001", "127.0.0.1:3001"));
        assert!(same("https://Stepwell.example", "stepwell.example"));
        assert!(same("https://stepwell.example:443", "stepwell.example"));
        assert!(same("http://[::1]:3001", "[::1]:3001"));
        for origin in [
            "null",
            "",
            "http://127.0.0.1",
            "http://127.0.0.1:3002",
            "http://localhost:3001",
            "file://127.0.0.1:3001",
            "http://a@127.0.0.1:3001",
            "http://127.0.0.1:3001/x",
        ] {
            assert!(!same(origin, "127.0.0.1:3001"), "{origin}");
        }
    }
}
