//! Runs a command beside a broker of its own: `with-broker tests/python/run`. The command finds it by variables of the
//! environment: COUNTERSIGN_TEST_ADDRESS, _SIGN_IN_KEY, _ENROLMENT_KEY, _APPLICATION, _FCM_REGISTRATION_TOKEN,
//! _APNS_DEVICE_TOKEN.

use std::{env, process::ExitCode};

use anyhow::Context as _;
use countersign_tests::{World, world::APPLICATION};
use device_sim::push_services::Service;

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let mut command = env::args_os().skip(1);
    let program = command.next().context("say which command: with-broker COMMAND [ARGUMENT...]")?;
    let world = World::with("").await?;
    let phones = [world.push.new_device(Service::Fcm)?, world.push.new_device(Service::Apns)?];
    let status = tokio::process::Command::new(program)
        .args(command)
        .env("COUNTERSIGN_TEST_ADDRESS", world.broker.address())
        .env("COUNTERSIGN_TEST_SIGN_IN_KEY", &world.sign_in_key)
        .env("COUNTERSIGN_TEST_ENROLMENT_KEY", &world.enrolment_key)
        .env("COUNTERSIGN_TEST_APPLICATION", APPLICATION)
        .env("COUNTERSIGN_TEST_FCM_REGISTRATION_TOKEN", phones[0].target())
        .env("COUNTERSIGN_TEST_APNS_DEVICE_TOKEN", phones[1].target())
        .status()
        .await?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
