//! Ports for brokers that are started here.

use std::{io, net::TcpListener};

use crate::entropy::Names;

/// A port of the loopback interface that is free, and stays so while the broker does not run: below those that the
/// operating system gives to every connection (`net.ipv4.ip_local_port_range`).
pub fn free_port() -> io::Result<u16> {
    let names = Names::new();
    for _ in 0..1_000 {
        let port = 10_000 + u16::try_from(names.next() % 20_000).expect("less than 20,000");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, "no port from 10,000 to 29,999 is free"))
}
