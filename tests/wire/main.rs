//! What goes over the wire, against the embedded AWS.

mod embedded;
