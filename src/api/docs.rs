//! Owns the document and its page; both come out of the binary.

use poem::{Endpoint, IntoResponse, Response, endpoint::make_sync, http::header, web::Html};

/// `/openapi.json`: the document that everything is generated from.
pub(super) fn document(text: String) -> impl Endpoint<Output = Response> {
    make_sync(move |_| {
        Response::builder()
            .header(header::CONTENT_TYPE, "application/json")
            .body(text.clone())
    })
}

/// `/docs`: Swagger UI on that document. `html` is the page as the library writes it, with its own idea of the document, `spec`.
pub(super) fn page(
    html: &str,
    spec: &str,
    document: &str,
) -> impl Endpoint<Output = Response> + use<> {
    let html = html.replace(spec, document);
    make_sync(move |_| Html(html.clone()).into_response())
}
