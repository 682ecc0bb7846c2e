//! A guest that does to each device of its monitor what no driver does, and a trial: the monitor must go on serving its command socket.
//!
//! The guest is an executable of some dozen instructions that is booted instead of a kernel ([`image`]). It knows nothing of
//! devices: it stores numbers where a script says, and the script, the queues and everything in them are made here ([`attack`]),
//! since whoever makes the image knows all addresses beforehand. [`trial`] starts a monitor with it.

mod attack;
mod image;
pub mod trial;
