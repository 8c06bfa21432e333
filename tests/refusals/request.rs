//! Requests as bytes, well-formed until a case spoils them.

/// A request and its refusal.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) status: u16,
    pub(crate) code: &'static str,
}

/// A request that would be well-formed, to be spoiled.
pub(super) struct Sent<'a> {
    pub(super) method: &'a str,
    pub(super) path: String,
    pub(super) headers: Vec<String>,
    pub(super) body: Vec<u8>,
}

impl Sent<'_> {
    pub(super) fn is(self, name: impl Into<String>, status: u16, code: &'static str) -> Case {
        let mut bytes = format!("{} {} HTTP/1.1\r\n", self.method, self.path).into_bytes();
        for header in &self.headers {
            bytes.extend_from_slice(header.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&self.body);
        Case {
            name: name.into(),
            bytes,
            status,
            code,
        }
    }

    pub(super) fn with(mut self, header: impl Into<String>) -> Self {
        self.headers.push(header.into());
        self
    }

    pub(super) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|header| !header.starts_with(name));
        self
    }
}

/// Whoever sends.
pub(super) struct Sender<'a> {
    pub(super) host: &'a str,
}

impl<'a> Sender<'a> {
    pub(super) fn bodiless(&self, method: &'a str, path: impl Into<String>) -> Sent<'a> {
        Sent {
            method,
            path: path.into(),
            headers: vec![format!("Host: {}", self.host)],
            body: Vec::new(),
        }
    }

    pub(super) fn get(&self, path: impl Into<String>) -> Sent<'a> {
        self.bodiless("GET", path)
    }

    pub(super) fn post(&self, path: impl Into<String>, body: impl AsRef<[u8]>) -> Sent<'a> {
        let body = body.as_ref().to_vec();
        Sent {
            body: body.clone(),
            ..self
                .bodiless("POST", path)
                .with("Content-Type: application/json")
                .with(format!("Content-Length: {}", body.len()))
        }
    }
}
