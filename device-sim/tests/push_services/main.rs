//! The simulated push services, tried over real sockets by clients that share no code with them: `h2` for APNs,
//! `reqwest` for FCM and the control API, `jsonwebtoken` for signatures.

mod apns_connection;
mod apns_reasons;
mod client;
mod control;
mod delivery;
mod faults;
mod fcm;
mod oauth;
mod program;
mod throughput;
