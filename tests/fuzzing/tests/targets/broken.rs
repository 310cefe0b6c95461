//! What is made of a broken parser: its target fails.

use std::{fs, net::IpAddr, panic::UnwindSafe, time::Duration};

use countersign::{
    api::grpc::read,
    decider::codec::{Codec, account::open_personal, delivery, delivery::DeliveryStep},
    log::{backup::manifest::Manifest, group_entries, snapshot_again, unpacked},
    push::retry_after,
};
use countersign_domain::{Account, Event};
use countersign_envelope::payload_type;
use countersign_proto::{event::v1 as stored, v1};
use fuzzing::is_found;
use http::header::RETRY_AFTER;
use prost::Message;

use super::{
    events::{codec, fuzz_events, fuzz_kept_account},
    files::{believed, fuzz_manifest},
    log::{
        fuzz_archive, fuzz_folds, fuzz_snapshots, fuzz_store_group, make_fold_checksums_right, with_checksum,
    },
    logins::{account_id, caller, fuzz_requests},
    phones::{command, fuzz_envelopes, fuzz_phone_calls, sign},
    push::fuzz_retry_after,
    real::{ACCOUNT, KEY, KEYS, account, answer, question, text},
};

fn assert_is_found(fault: impl FnOnce() + UnwindSafe) {
    assert!(is_found(fault), "the target does not see that the parser is broken");
}

#[test]
fn a_signature_that_leaves_out_the_nonce_is_found() {
    assert_is_found(|| {
        let real = answer().encode_to_vec();
        let nonce_at = real.len() - 16;
        fuzz_envelopes("envelope", |envelope| {
            let mut payload = envelope.payload.to_vec();
            if payload.len() == real.len() {
                payload[nonce_at..].copy_from_slice(&real[nonce_at..]);
            }
            KEY.public_key().verify(&envelope.payload_type, &payload, &envelope.signature).is_ok()
        });
    });
}

#[test]
fn an_answer_to_another_challenge_that_is_taken_is_found() {
    assert_is_found(|| {
        fuzz_phone_calls("phone_calls", |account, call| {
            let Ok(answer) = v1::Answer::decode(call.payload.clone()) else { return command(account, call) };
            if call.payload_type != payload_type::ANSWER {
                return command(account, call);
            }
            let challenge_hash = question().challenge.payload_hash().to_vec().into();
            let ours = v1::Answer { challenge_hash, ..answer };
            command(account, &sign(payload_type::ANSWER, ours.encode_to_vec().into()))
        });
    });
}

#[test]
fn an_application_that_nobody_registered_is_found() {
    assert_is_found(|| {
        let caller = caller();
        fuzz_requests("requests", |bytes| {
            let request = v1::RequestApprovalRequest::decode(bytes).ok()?;
            let known = v1::RequestApprovalRequest { application: "Webmail".to_owned(), ..request.clone() };
            let mut new = read::request_approval(&caller, &known.encode_to_vec(), account_id).ok()?;
            if let Ok(new) = &mut new {
                new.application = text(&request.application);
            }
            Some(new)
        });
    });
}

#[test]
fn a_requested_approval_whose_address_is_taken_for_granted_is_found() {
    assert_is_found(|| {
        fuzz_events(
            "events",
            |record| {
                let read = codec().decode(ACCOUNT, record);
                if let Ok(Some(Event::ApprovalRequested(_))) = &read {
                    let personal = open_personal(&KEYS.sealer, ACCOUNT, record).expect("it was opened");
                    let data = stored::PersonalApprovalRequested::decode(&personal[..]).expect("it was read");
                    let _: IpAddr = data.source_ip.parse().expect("an address");
                }
                read
            },
            delivery::decode,
        );
    });
}

#[test]
fn an_accepted_push_whose_id_is_taken_for_hex_is_found() {
    assert_is_found(|| {
        fuzz_events(
            "events",
            |record| codec().decode(ACCOUNT, record),
            |record| {
                let read = delivery::decode(record);
                if let Ok(Some(delivery::Delivery { step: DeliveryStep::Accepted { push_id }, .. })) = &read {
                    u128::from_str_radix(&push_id.replace('-', ""), 16).expect("an id is hex");
                }
                read
            },
        );
    });
}

#[test]
fn a_state_that_has_bytes_behind_it_is_found() {
    assert_is_found(|| {
        let bytes = account().to_kept().len();
        fuzz_kept_account("kept_account", |kept| Account::from_kept(&kept[..bytes.min(kept.len())]));
    });
}

#[test]
fn what_unpacks_to_less_than_it_says_is_found() {
    assert_is_found(|| {
        fuzz_archive("archive", |body| {
            unpacked(body).or_else(|| {
                let (length, packed) = body.split_first_chunk()?;
                let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
                let mut entries = lz4_flex::block::decompress(packed, length.min(64 * 1024)).ok()?;
                entries.resize(length.min(64 * 1024), 0);
                Some(entries)
            })
        });
    });
}

#[test]
fn a_group_whose_checksum_nobody_looks_at_is_found() {
    assert_is_found(|| {
        fuzz_store_group("store_group", |group, value| {
            let body = value.get(4..)?;
            let crc = crc32c::crc32c_append(crc32c::crc32c(&group.number().to_be_bytes()), body);
            // The other group's key is looked at.
            let crc = if group.number() == 1 { crc.to_be_bytes() } else { value[..4].try_into().ok()? };
            group_entries(group, &[&crc, body].concat())
        });
    });
}

#[test]
fn a_snapshot_whose_checksum_nobody_looks_at_is_found() {
    assert_is_found(|| {
        fuzz_snapshots("snapshots", |bytes| {
            let checked = bytes.get(..bytes.len().checked_sub(4)?)?;
            snapshot_again(&with_checksum(checked).into())
        });
    });
}

#[test]
fn folds_whose_checksums_nobody_looks_at_are_found() {
    assert_is_found(|| {
        fuzz_folds("folds", |file| {
            let mut bytes = fs::read(file).expect("it was written");
            make_fold_checksums_right(&mut bytes);
            fs::write(file, bytes).expect("it is written");
        });
    });
}

#[test]
fn a_manifest_whose_sum_nobody_looks_at_is_found() {
    assert_is_found(|| {
        fuzz_manifest("manifest", |folder| {
            let bytes = fs::read(folder.join(countersign::log::backup::manifest::NAME)).ok()?;
            Manifest::read(folder).ok().flatten().or_else(|| believed(&bytes))
        });
    });
}

#[test]
fn a_number_of_seconds_that_loses_its_fourth_digit_is_found() {
    assert_is_found(|| {
        fuzz_retry_after("retry_after_header", |headers, now| {
            let seconds = headers[RETRY_AFTER].to_str().ok().and_then(|text| text.parse::<u64>().ok());
            let read = retry_after(headers, now);
            seconds.map_or(read, |seconds| read.min(Some(Duration::from_secs(seconds % 1_000))))
        });
    });
}
