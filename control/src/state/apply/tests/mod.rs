//! What the state promises: whatever commands come, in whatever order; and case by case.

mod changes;
mod images;
mod lifecycle;
mod limits;
mod moves;
mod promises;
mod properties;
mod steps;
mod world;
