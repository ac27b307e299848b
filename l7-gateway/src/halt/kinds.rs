//! The table of everything that this gateway answers by itself: status, code and title. Called by `halt`.
//!
//! Invariant: a code means one thing, and stays what it is.

use http::StatusCode;

/// Everything that this gateway answers by itself; `docs/errors.md` lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the table below says what each one is")]
pub enum Kind {
    Preflight,
    Malformed,
    Unauthenticated,
    Forbidden,
    NoRoute,
    MethodNotAllowed,
    HeadTimeout,
    BodyTimeout,
    Gone,
    BodyTooLarge,
    TargetTooLong,
    Misdirected,
    TooManyRequests,
    HeadTooLarge,
    Expectation,
    UpstreamFailed,
    UpstreamUnavailable,
    Overloaded,
    LimitsUnavailable,
    IdentityUnavailable,
    UpstreamTimeout,
    Moved,
    NotFound,
    PreconditionFailed,
    RangeNotSatisfiable,
    FilesUnavailable,
    NotKept,
    Unchangeable,
    AnswerUnchangeable,
    Invalid,
    UnsupportedType,
    FilterUnavailable,
    AnswerUnfiltered,
    Closed,
}

/// One line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The status.
    pub status: StatusCode,
    /// Stable word for programs.
    pub code: &'static str,
    /// One sentence for people.
    pub title: &'static str,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 34] = [
        Self::Preflight,
        Self::Malformed,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::NoRoute,
        Self::MethodNotAllowed,
        Self::HeadTimeout,
        Self::BodyTimeout,
        Self::Gone,
        Self::BodyTooLarge,
        Self::TargetTooLong,
        Self::Misdirected,
        Self::TooManyRequests,
        Self::HeadTooLarge,
        Self::Expectation,
        Self::UpstreamFailed,
        Self::UpstreamUnavailable,
        Self::Overloaded,
        Self::LimitsUnavailable,
        Self::IdentityUnavailable,
        Self::UpstreamTimeout,
        Self::Moved,
        Self::NotFound,
        Self::PreconditionFailed,
        Self::RangeNotSatisfiable,
        Self::FilesUnavailable,
        Self::NotKept,
        Self::Unchangeable,
        Self::AnswerUnchangeable,
        Self::Invalid,
        Self::UnsupportedType,
        Self::FilterUnavailable,
        Self::AnswerUnfiltered,
        Self::Closed,
    ];

    /// Its line of the table.
    pub const fn row(self) -> Row {
        let (status, code, title) = match self {
            Self::Preflight => (StatusCode::NO_CONTENT, "preflight", "Preflight"),
            Self::Malformed => {
                (StatusCode::BAD_REQUEST, "malformed_request", "The request is malformed")
            }
            Self::Unauthenticated => {
                (StatusCode::UNAUTHORIZED, "unauthenticated", "Valid credentials are needed")
            }
            Self::Forbidden => (StatusCode::FORBIDDEN, "forbidden", "The caller may not do this"),
            Self::NoRoute => (StatusCode::NOT_FOUND, "no_route", "There is nothing at this path"),
            Self::MethodNotAllowed => (
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "The path exists for other methods",
            ),
            Self::HeadTimeout => {
                (StatusCode::REQUEST_TIMEOUT, "header_timeout", "The headers came too slowly")
            }
            Self::BodyTimeout => {
                (StatusCode::REQUEST_TIMEOUT, "body_timeout", "The body came too slowly")
            }
            Self::Gone => (StatusCode::GONE, "sunset", "This version has been withdrawn"),
            Self::BodyTooLarge => {
                (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "The body is too large")
            }
            Self::TargetTooLong => {
                (StatusCode::URI_TOO_LONG, "target_too_long", "The path is too long")
            }
            Self::Misdirected => (
                StatusCode::MISDIRECTED_REQUEST,
                "misdirected",
                "This connection does not serve that host",
            ),
            Self::TooManyRequests => {
                (StatusCode::TOO_MANY_REQUESTS, "rate_limited", "Too many requests")
            }
            Self::HeadTooLarge => (
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "headers_too_large",
                "The headers are too large",
            ),
            Self::Expectation => (
                StatusCode::EXPECTATION_FAILED,
                "expectation_failed",
                "The expectation cannot be met",
            ),
            Self::UpstreamFailed
            | Self::UpstreamUnavailable
            | Self::Overloaded
            | Self::LimitsUnavailable
            | Self::IdentityUnavailable
            | Self::FilterUnavailable
            | Self::UpstreamTimeout => return self.row_of_others(),
            Self::Closed
            | Self::Moved
            | Self::NotFound
            | Self::PreconditionFailed
            | Self::RangeNotSatisfiable
            | Self::FilesUnavailable
            | Self::NotKept => return self.row_of_held(),
            Self::Unchangeable
            | Self::AnswerUnchangeable
            | Self::AnswerUnfiltered
            | Self::Invalid
            | Self::UnsupportedType => return self.row_of_changes(),
        };
        Row { status, code, title }
    }

    /// The lines about others who are away, busy or odd.
    const fn row_of_others(self) -> Row {
        let (status, code, title) = match self {
            Self::UpstreamFailed => {
                (StatusCode::BAD_GATEWAY, "upstream_failed", "The service did not answer properly")
            }
            Self::UpstreamUnavailable => (
                StatusCode::SERVICE_UNAVAILABLE,
                "upstream_unavailable",
                "The service cannot be reached",
            ),
            Self::Overloaded => {
                (StatusCode::SERVICE_UNAVAILABLE, "overloaded", "Too many at a time")
            }
            Self::LimitsUnavailable => {
                (StatusCode::SERVICE_UNAVAILABLE, "limits_unavailable", "Limits cannot be checked")
            }
            Self::IdentityUnavailable => (
                StatusCode::SERVICE_UNAVAILABLE,
                "identity_unavailable",
                "Callers cannot be checked at the moment",
            ),
            Self::FilterUnavailable => (
                StatusCode::SERVICE_UNAVAILABLE,
                "filter_unavailable",
                "Nobody says what becomes of this at the moment",
            ),
            // Self::UpstreamTimeout
            _ => (StatusCode::GATEWAY_TIMEOUT, "upstream_timeout", "The service took too long"),
        };
        Row { status, code, title }
    }

    /// The lines about what the file changes, and asks of requests.
    const fn row_of_changes(self) -> Row {
        let (status, code, title) = match self {
            Self::Unchangeable => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "request_not_transformed",
                "The request cannot be put into the form that the service takes",
            ),
            Self::Invalid => (
                StatusCode::BAD_REQUEST,
                "invalid_request",
                "The request is not as its description says",
            ),
            Self::UnsupportedType => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_type",
                "The body has a type or a coding that is not taken here",
            ),
            Self::AnswerUnfiltered => (
                StatusCode::BAD_GATEWAY,
                "answer_not_filtered",
                "The request was carried out, but what becomes of its answer is not said",
            ),
            // Self::AnswerUnchangeable
            _ => (
                StatusCode::BAD_GATEWAY,
                "answer_not_transformed",
                "The answer of the service cannot be put into the form that is promised",
            ),
        };
        Row { status, code, title }
    }

    /// The lines about files, kept answers and closed routes.
    const fn row_of_held(self) -> Row {
        let (status, code, title) = match self {
            Self::Closed => {
                (StatusCode::SERVICE_UNAVAILABLE, "maintenance", "This is closed for a while")
            }
            Self::Moved => (StatusCode::PERMANENT_REDIRECT, "moved", "A slash is missing"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found", "There is no such file"),
            Self::PreconditionFailed => (
                StatusCode::PRECONDITION_FAILED,
                "precondition_failed",
                "It is not in the state that the request asks for",
            ),
            Self::RangeNotSatisfiable => (
                StatusCode::RANGE_NOT_SATISFIABLE,
                "range_not_satisfiable",
                "There are no such bytes in it, or too many ranges are asked for",
            ),
            Self::FilesUnavailable => (
                StatusCode::SERVICE_UNAVAILABLE,
                "files_unavailable",
                "Files cannot be read at the moment",
            ),
            // Self::NotKept
            _ => (
                StatusCode::GATEWAY_TIMEOUT,
                "not_kept",
                "It is not in the cache, and nothing else may be asked",
            ),
        };
        Row { status, code, title }
    }
}
