//! The controller and the keeper over a real replicated log, with a machine whose containers do as they are told.

mod boot;
mod fake;
mod images;
mod lifecycle;
mod moves;
mod node;
mod placement;
mod policies;
mod quotas;
