//! The client's side of the registry protocol, for pulling (OCI distribution specification 1.1, "Pull").
//!
//! A connection is made for one pull and knows one repository, so that one tenant's credentials and connections never
//! serve another. References and document types are oci-distribution's; its HTTP client isn't used, for what it
//! can't be told: it can't be made on a machine without CA files, and it reads documents and error bodies of any size
//! into memory.

mod auth;
mod blob;
mod http;
mod login;
mod manifest;
mod names;

pub(crate) use blob::Fetch;
pub(crate) use http::Registry;
pub(crate) use manifest::{Document, Resolved, parse_manifest, select_platform};
