//! Compiles the .proto files with protox: nobody needs protoc.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

const SECRET_MESSAGES: [&str; 10] = [
    ".countersign.v1.Envelope",
    ".countersign.v1.EnrolmentClaim",
    ".countersign.v1.PushTarget",
    ".countersign.v1.Issued",
    ".countersign.v1.Answer",
    ".countersign.v1.TrialAnswer",
    ".countersign.v1.AcknowledgeRequest",
    ".countersign.v1.BeginEnrolmentReply",
    ".countersign.v1.EnrolmentUpdate.Trial",
    ".countersign.v1.IssueCredentialReply",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=countersign");
    println!("cargo:rerun-if-changed=event");
    let out = PathBuf::from(env::var("OUT_DIR")?);

    let public = protox::compile(
        [
            "countersign/v1/approvals.proto",
            "countersign/v1/authenticators.proto",
            "countersign/v1/enrolments.proto",
            "countersign/v1/administration.proto",
        ],
        ["."],
    )?;
    // Reflection serves the descriptors, comments left out.
    let mut bare = public.clone();
    for file in &mut bare.file {
        file.source_code_info = None;
    }
    fs::write(out.join("countersign.v1.bin"), bare.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".countersign.v1")
        .codec_path("crate::codec::SmallBuffers")
        // These hold secrets: src/redacted.rs prints the rest of them.
        .skip_debug(SECRET_MESSAGES)
        .compile_fds(public)?;

    let stored = protox::compile(
        ["event/v1/account.proto", "event/v1/relying_party.proto", "event/v1/delivery.proto"],
        ["."],
    )?;
    // `countersign log show` reads stored events by their descriptors.
    fs::write(out.join("countersign.event.v1.bin"), stored.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".countersign.event.v1").compile_fds(stored)?;
    Ok(())
}
