//! Recordings: how they move, who takes them, and what goes wrong on the way (R-VR). One program of many parts, so
//! that it is linked once: `--test vrl -- moving` runs one of them.
//!
//! | part | shows |
//! |---|---|
//! | `moving` | the way of recordings from the backup to the primary |
//! | `hindrances` | killed at each step, full disks, wrong settings |
//! | `breaks` | connections that break in the middle |
//! | `proof` | all of that at once, at each server: each recording arrives, once (`FULL=1`: a thousand of up to 500 MB) |
//! | `foreign`, `servers` | the FTP client at servers of other people |
//! | `test_connection` | Test Connection (R-VR-2) |
//! | `server`, `server_clients` | the embedded FTP server, and other people's clients |
//! | `watch`, `archive` | the folder's watch; what is kept of what was moved |

mod archive;
mod breaks;
mod foreign;
mod hindrances;
mod moving;
mod proof;
mod server;
mod server_clients;
mod servers;
mod support;
mod test_connection;
mod watch;
