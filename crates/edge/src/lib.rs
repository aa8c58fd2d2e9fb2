//! The edge: HTTP/1.1 beside gRPC. Health and readiness probes, metrics, version, debug variables; later the JSON
//! gateway. It serves its own listeners and connections that shards handed over after sniffing HTTP/1.x.
//!
//! Invariants: nothing here is on a hot path; everything a client can make grow has a limit in `base::limits`; each
//! request gets exactly one answer, in order. What it reports comes through [`State`].
//!
//! Must not know WAL, tree, keys or revisions, and must not read any file. glommio is met in `executor` alone.
//!
//! | module | job |
//! |---|---|
//! | `request` | bytes in, whole requests or a refusal out (pure) |
//! | `response` | an answer, and its bytes (pure) |
//! | `route` | which path does what, on which listener; path cleaning (pure) |
//! | `access` | host whitelist and CORS (pure) |
//! | `health` | `/health`, `/livez`, `/readyz` and their checks |
//! | `json` | JSON strings as Go writes them (pure) |
//! | `answer` | a request to its answer |
//! | `state` | what the server tells the edge |
//! | `mailbox` | sockets and stop from other threads |
//! | `executor` | the glommio thread: accept, read, time-outs, write |

mod access;
mod answer;
mod date;
mod executor;
mod health;
pub mod json;
mod mailbox;
pub mod request;
mod response;
pub mod route;
mod state;

pub use access::Access;
pub use executor::{Bind, Edge, Listen, Options, StartError, Timeouts, start};
pub use mailbox::Handle;
pub use route::Surface;
pub use state::{Alarm, Reply, State, Versions};
