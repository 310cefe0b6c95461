//! An event as people and programs read it: by its descriptor, so that what is shown is what is on disk.

use std::sync::LazyLock;

use countersign::{
    decider::codec::account::{match_number, open_personal},
    keys::Keys,
    log::{EventRecord, StreamId, StreamKind},
};
use countersign_domain::{AccountId, ApprovalId, AuthenticatorId, CredentialId, EnrolmentId, RelyingPartyId};
use countersign_proto::event::v1::{self as stored, EventType};
use data_encoding::HEXLOWER;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage as _, Value,
};
use serde_json::{Map, Value as Json, json};

static DESCRIPTORS: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(stored::FILE_DESCRIPTOR_SET)
        .expect("the compiler of this build made the descriptors")
});

/// The type's name, its fields, and what is sealed, if there is a key to open it.
pub(super) fn event(stream: StreamId, record: &EventRecord, keys: Option<&Keys>) -> Json {
    let kind = i32::try_from(record.kind).ok().and_then(|kind| EventType::try_from(kind).ok());
    let name = kind.map(|kind| camel_case(kind.as_str_name().trim_start_matches("EVENT_TYPE_")));
    let mut shown = Map::new();
    shown.insert(
        "type".to_owned(),
        name.clone().map_or_else(|| json!(format!("unknown {}", record.kind)), Json::from),
    );
    if record.version != 1 {
        shown.insert("version".to_owned(), json!(record.version));
    }
    let body = name.as_deref().and_then(descriptor).and_then(|body| message(body, &record.body));
    let account = (stream.kind() == StreamKind::Account).then(|| AccountId::from_bytes(stream.id()));
    match body {
        Some(body) => fields(&body, account, keys, &mut shown),
        None => {
            shown.insert("body".to_owned(), json!(HEXLOWER.encode(&record.body)));
        }
    }
    if !record.sealed.is_empty() {
        let opened = account.zip(keys).and_then(|(account, keys)| {
            let plain = open_personal(&keys.sealer, account, record).ok()?;
            let personal = descriptor(&format!("Personal{}", name.as_deref()?))?;
            let mut shown = Map::new();
            fields(&message(personal, &plain)?, Some(account), Some(keys), &mut shown);
            Some(Json::Object(shown))
        });
        shown.insert("personal".to_owned(), opened.unwrap_or_else(|| sealed(record.sealed.len())));
    }
    Json::Object(shown)
}

fn descriptor(name: &str) -> Option<MessageDescriptor> {
    DESCRIPTORS.get_message_by_name(&format!("countersign.event.v1.{name}"))
}

fn message(descriptor: MessageDescriptor, bytes: &[u8]) -> Option<DynamicMessage> {
    DynamicMessage::decode(descriptor, bytes).ok()
}

fn fields(
    message: &DynamicMessage,
    account: Option<AccountId>,
    keys: Option<&Keys>,
    shown: &mut Map<String, Json>,
) {
    for (field, value) in message.fields() {
        shown.insert(field.name().to_owned(), show(message, &field, value, account.zip(keys)));
    }
}

fn show(
    within: &DynamicMessage,
    field: &FieldDescriptor,
    value: &Value,
    key: Option<(AccountId, &Keys)>,
) -> Json {
    match value {
        Value::Bool(value) => json!(value),
        Value::U32(value) => json!(value),
        Value::U64(at) if field.name().ends_with("_at_ms") || field.name() == "until_ms" => {
            json!(
                countersign_domain::challenge::timestamp(countersign_domain::Timestamp::from_millis(*at))
                    .to_string()
            )
        }
        Value::U64(value) => json!(value),
        Value::String(value) => json!(value),
        Value::EnumNumber(number) => match field.kind() {
            Kind::Enum(kind) => {
                let prefix = format!("{}_", screaming_case(kind.name()));
                let name = kind
                    .get_value(*number)
                    .map(|value| value.name().trim_start_matches(&prefix).to_lowercase());
                json!(name.map_or_else(|| number.to_string(), |name| name.replace('_', " ")))
            }
            _ => json!(number),
        },
        Value::Bytes(bytes) if field.name().ends_with("_sealed") => {
            key.and_then(|key| open(within, field, bytes, key)).unwrap_or_else(|| sealed(bytes.len()))
        }
        Value::Bytes(bytes) => json!(id(field.name(), bytes).unwrap_or_else(|| HEXLOWER.encode(bytes))),
        Value::List(values) => values.iter().map(|value| show(within, field, value, key)).collect(),
        Value::Message(inner) => {
            let mut shown = Map::new();
            fields(inner, None, None, &mut shown);
            Json::Object(shown)
        }
        other => json!(format!("{other:?}")),
    }
}

/// Ids as every other place writes them.
fn id(field: &str, bytes: &[u8]) -> Option<String> {
    match field {
        "approval" => ApprovalId::from_slice(bytes).map(|id| id.to_string()).ok(),
        "by" => ApprovalId::from_slice(bytes).map(|id| id.to_string()).ok(),
        "authenticator" => AuthenticatorId::from_slice(bytes).map(|id| id.to_string()).ok(),
        "enrolment" => EnrolmentId::from_slice(bytes).map(|id| id.to_string()).ok(),
        "relying_party" => RelyingPartyId::from_slice(bytes).map(|id| id.to_string()).ok(),
        "credential" => CredentialId::from_slice(bytes).map(|id| id.to_string()).ok(),
        "subject" => ApprovalId::from_slice(bytes)
            .map(|id| id.to_string())
            .or_else(|_| EnrolmentId::from_slice(bytes).map(|id| id.to_string()))
            .ok(),
        _ => None,
    }
}

/// A match number and its salt: with the challenge they prove what was asked for. An enrolment code's secret is of
/// no use to anybody afterwards and stays sealed.
fn open(
    within: &DynamicMessage,
    field: &FieldDescriptor,
    bytes: &[u8],
    (account, keys): (AccountId, &Keys),
) -> Option<Json> {
    if field.name() != "number_sealed" {
        return None;
    }
    let id = ["approval", "enrolment"].iter().find_map(|name| {
        let field = within.descriptor().get_field_by_name(name)?;
        within.get_field(&field).as_bytes().cloned()
    })?;
    let plain = keys.sealer.open(match_number(account, &id), bytes).ok()?;
    let (digits, rest) = plain.split_first()?;
    let (value, salt) = rest.split_first_chunk::<4>()?;
    let number = format!("{:0width$}", u32::from_be_bytes(*value), width = usize::from(*digits));
    Some(json!({ "number": number, "salt": HEXLOWER.encode(salt) }))
}

fn sealed(length: usize) -> Json {
    json!(format!("sealed, {length} bytes"))
}

fn camel_case(screaming: &str) -> String {
    screaming
        .split('_')
        .map(|word| word.chars().take(1).chain(word.to_lowercase().chars().skip(1)).collect::<String>())
        .collect()
}

fn screaming_case(camel: &str) -> String {
    let mut text = String::new();
    for symbol in camel.chars() {
        if symbol.is_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.push(symbol.to_ascii_uppercase());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_type_has_a_message_of_its_name() {
        for number in 1..200 {
            if let Ok(kind) = EventType::try_from(number) {
                let name = camel_case(kind.as_str_name().trim_start_matches("EVENT_TYPE_"));
                assert!(descriptor(&name).is_some(), "{name}");
            }
        }
    }
}
