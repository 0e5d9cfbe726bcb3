//! What goes over the wire, against the embedded AWS.

mod calls;
mod embedded;
mod signature;
