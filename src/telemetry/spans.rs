//! Owns spans as everybody else sees them: plain data with the ids that the rows say, handed in when it is certain that they happened. Handing
//! in never blocks; without a receiver it is one look at a flag.

use std::{
    borrow::Cow,
    fmt,
    sync::OnceLock,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use sha2::{Digest, Sha256};

use super::queue::Queue;

/// Where spans go; unset without a receiver.
static SINK: OnceLock<Queue<Span>> = OnceLock::new();
/// Which traces are exported, by whatever process: also one without a receiver decides for those that it begins.
static SAMPLER: OnceLock<Sampler> = OnceLock::new();

tokio::task_local! {
    /// The span of the request that this task answers.
    static CURRENT: TraceContext;
}

/// Sends spans there, from now on.
pub(super) fn send_to(queue: Queue<Span>) {
    // A second call, by an embedding program, keeps the first one's.
    let _ = SINK.set(queue);
}

/// Decides like this, from now on.
pub(super) fn decide_by(sampler: Sampler) {
    // As above.
    let _ = SAMPLER.set(sampler);
}

/// Whether anybody wants spans.
pub fn wanted() -> bool {
    SINK.get().is_some()
}

/// Whether one more span of `trace` would be told. If not, it need not be built: where that is for lack of room it is counted as lost. What the
/// trace says of itself is a caller's decision to the sampler of this process.
pub fn takes(trace: TraceContext) -> bool {
    SINK.get()
        .is_some_and(|queue| sampled(trace.trace_id, Some(trace.sampled)) && queue.has_room())
}

/// Hands in a span that happened, of a trace that [`takes`] one more.
pub fn record(span: Span) {
    if let Some(queue) = SINK.get() {
        queue.push(span);
    }
}

/// Whether a trace is exported whose caller, where there is one, said `of_caller`.
pub fn sampled(trace_id: TraceId, of_caller: Option<bool>) -> bool {
    let sampler = SAMPLER.get().copied().unwrap_or_default();
    sampler.samples(trace_id, of_caller)
}

/// Runs `work` as the answer to the request whose span is `context`.
pub async fn within<T>(context: TraceContext, work: impl Future<Output = T>) -> T {
    CURRENT.scope(context, work).await
}

/// The span of the request that is being answered.
pub fn current() -> Option<TraceContext> {
    CURRENT.try_with(|context| *context).ok()
}

/// The id of a trace; never zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId([u8; 16]);

/// The id of a span; never zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId([u8; 8]);

impl TraceId {
    /// A new one.
    pub fn random() -> Self {
        Self(*uuid::Uuid::new_v4().as_bytes())
    }

    /// Reads 32 hexadecimal digits that are not all zero.
    pub fn parse(text: &str) -> Option<Self> {
        parse_hex(text).map(Self)
    }

    /// Its bytes.
    pub fn bytes(&self) -> [u8; 16] {
        self.0
    }
}

impl SpanId {
    /// A new one.
    pub fn random() -> Self {
        Self::of_bytes(uuid::Uuid::new_v4().as_bytes())
    }

    /// The one that always belongs to these words in this trace: whoever executes the same thing again gives it the same id.
    pub fn derived(trace_id: TraceId, words: &[&str]) -> Self {
        let mut hash = Sha256::new();
        hash.update(trace_id.0);
        for word in words {
            hash.update((word.len() as u64).to_be_bytes());
            hash.update(word.as_bytes());
        }
        Self::of_bytes(&hash.finalize())
    }

    fn of_bytes(bytes: &[u8]) -> Self {
        let mut id = [0; 8];
        for (to, from) in id.iter_mut().zip(bytes) {
            *to = *from;
        }
        // Zero means no span.
        if id == [0; 8] { Self([1; 8]) } else { Self(id) }
    }

    /// Reads 16 hexadecimal digits that are not all zero.
    pub fn parse(text: &str) -> Option<Self> {
        parse_hex(text).map(Self)
    }

    /// Its bytes.
    pub fn bytes(&self) -> [u8; 8] {
        self.0
    }
}

fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != N * 2 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; N];
    for (n, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * n..2 * n + 2)?, 16).ok()?;
    }
    (bytes != [0; N]).then_some(bytes)
}

fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

/// A span that others hang below, or link to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace.
    pub trace_id: TraceId,
    /// The span.
    pub span_id: SpanId,
    /// Whether the trace is exported.
    pub sampled: bool,
}

impl TraceContext {
    /// The same trace, another span.
    #[must_use]
    pub fn at(self, span_id: SpanId) -> Self {
        Self { span_id, ..self }
    }

    /// Reads a W3C `traceparent`. One of a later version is read as far as version 00 goes: what follows is for those who know it.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let (version, trace, span, flags) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        match parse_byte(version)? {
            0x00 if parts.next().is_some() => return None,
            0xff => return None,
            _ => {}
        }
        let is_lower = |part: &str| !part.bytes().any(|b| b.is_ascii_uppercase());
        if !is_lower(trace) || !is_lower(span) {
            return None;
        }
        Some(Self {
            trace_id: TraceId::parse(trace)?,
            span_id: SpanId::parse(span)?,
            sampled: parse_byte(flags)? & 1 == 1,
        })
    }
}

/// Two hexadecimal digits, lower case.
fn parse_byte(text: &str) -> Option<u8> {
    let digits = text.len() == 2 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    digits.then(|| u8::from_str_radix(text, 16).ok()).flatten()
}

impl fmt::Display for TraceContext {
    /// As W3C's `traceparent`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = u8::from(self.sampled);
        write!(f, "00-{}-{}-{flags:02x}", self.trace_id, self.span_id)
    }
}

/// Something that took its time.
#[derive(Debug, Clone)]
pub struct Span {
    /// Its own ids.
    pub context: TraceContext,
    /// The span above it, in the same trace.
    pub parent: Option<SpanId>,
    /// What it is, in few different words.
    pub name: Cow<'static, str>,
    /// Which side of a conversation it is.
    pub kind: SpanKind,
    /// When it began.
    pub started: SystemTime,
    /// When it ended.
    pub ended: SystemTime,
    /// What else is known; no secrets.
    pub attributes: Vec<(&'static str, Attribute)>,
    /// What it has to do with.
    pub links: Vec<TraceContext>,
    /// The code of the error it ended in.
    pub error: Option<String>,
}

impl Span {
    /// A span below `parent` that began at `started` and ends now.
    pub fn below(
        parent: TraceContext,
        span_id: SpanId,
        name: impl Into<Cow<'static, str>>,
        started: SystemTime,
    ) -> Self {
        Self {
            context: parent.at(span_id),
            parent: Some(parent.span_id),
            name: name.into(),
            kind: SpanKind::Internal,
            started,
            ended: SystemTime::now(),
            attributes: Vec::new(),
            links: Vec::new(),
            error: None,
        }
    }

    /// The same span with one more attribute.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Attribute>) -> Self {
        self.attributes.push((name, value.into()));
        self
    }
}

/// Which side of a conversation a span is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    /// Neither.
    Internal,
    /// It answers a request.
    Server,
    /// It takes from a queue.
    Consumer,
}

/// What is known of a span.
#[derive(Debug, Clone, PartialEq)]
pub enum Attribute {
    /// In words.
    Text(String),
    /// As a number.
    Int(i64),
    /// As yes or no.
    Bool(bool),
}

impl From<&str> for Attribute {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Attribute {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Attribute {
    fn from(n: i64) -> Self {
        Self::Int(n)
    }
}

impl From<bool> for Attribute {
    fn from(yes: bool) -> Self {
        Self::Bool(yes)
    }
}

/// A time of rows, epoch milliseconds, as a time of spans.
pub fn at_ms(epoch_ms: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(epoch_ms.max(0).unsigned_abs())
}

/// Which traces are exported.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampler {
    /// Whether a caller's decision counts first.
    pub parent_based: bool,
    /// The share of the other traces, 0 to 1.
    pub ratio: f64,
}

impl Default for Sampler {
    fn default() -> Self {
        Self {
            parent_based: true,
            ratio: 1.0,
        }
    }
}

impl Sampler {
    /// The decision follows from the trace's id, so that every process comes to the same.
    fn samples(self, trace_id: TraceId, of_caller: Option<bool>) -> bool {
        if let (true, Some(sampled)) = (self.parent_based, of_caller) {
            return sampled;
        }
        let [.., a, b, c, d, e, f, g] = trace_id.0;
        let random = u64::from_be_bytes([0, a, b, c, d, e, f, g]);
        #[allow(clippy::cast_precision_loss)] // 56 random bits; the last ones do not matter
        let place = random as f64 / (1_u64 << 56) as f64;
        place < self.ratio
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_is_written_as_it_was_read() {
        let context = TraceContext::parse(PARENT).unwrap();
        assert!(context.sampled);
        assert_eq!(context.to_string(), PARENT);
    }

    #[test]
    fn a_traceparent_of_a_later_version_is_read_as_far_as_it_is_known() {
        let known = TraceContext::parse(PARENT);
        for later in [
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03",
            "fe-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-What-follows",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
        ] {
            assert_eq!(TraceContext::parse(later), known, "{later}");
        }
    }

    #[test]
    fn a_traceparent_that_is_none_is_refused() {
        for bad in [
            "",
            "garbage",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "0A-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01x",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-+1",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(TraceContext::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn derived_ids_depend_on_every_word() {
        let trace = TraceId::parse("0af7651916cd43dd8448eb211c80319c").unwrap();
        let id = |words: &[&str]| SpanId::derived(trace, words);
        assert_eq!(id(&["a", "b"]), id(&["a", "b"]));
        assert_ne!(id(&["a", "b"]), id(&["ab"]));
        assert_ne!(
            id(&["a", "b"]),
            SpanId::derived(TraceId::random(), &["a", "b"])
        );
    }

    #[test]
    fn a_ratio_samples_about_its_share_and_a_caller_decides_first() {
        let sampler = Sampler {
            parent_based: true,
            ratio: 0.25,
        };
        let share = (0..4_000)
            .filter(|_| sampler.samples(TraceId::random(), None))
            .count();
        assert!((800..1_200).contains(&share), "{share}");
        assert!(sampler.samples(TraceId([255; 16]), Some(true)));
        assert!(!Sampler::default().samples(TraceId::random(), Some(false)));
        assert!(Sampler::default().samples(TraceId::random(), None));
        let alone = Sampler {
            parent_based: false,
            ratio: 0.0,
        };
        assert!(!alone.samples(TraceId([255; 16]), Some(true)));
    }
}
