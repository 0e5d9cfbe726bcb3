//! The ledger in a file: [`records`] are its rules over one connection, [`embedded`] shares them among
//! processes.

mod embedded;
mod records;

pub use embedded::EmbeddedLedger;
pub use records::Records;
