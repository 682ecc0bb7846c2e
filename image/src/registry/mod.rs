//! The client's side of the registry protocol, for pulling (OCI distribution specification 1.1, "Pull").
//!
//! A connection is made for one pull and knows one repository, so that one tenant's credentials and connections never
//! serve another. References and document types are oci-distribution's; its HTTP client isn't used: it reads documents
//! and error bodies of any size into memory, and answers a challenge whoever it came from.

pub(crate) mod auth;
mod blob;
mod http;
mod login;
mod manifest;
mod names;
mod tags;

pub(crate) use blob::Fetch;
pub(crate) use http::Registry;
pub(crate) use manifest::{Document, Resolved, may_run_here, parse_manifest, select_platform};
