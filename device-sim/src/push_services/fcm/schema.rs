//! The shape of a request, and the check that a body has it: what Google's front end refuses before FCM sees it.
//!
//! Source: Google, 'projects.messages' (the message and everything in it, as of September 2026) and 'proto3 JSON
//! mapping'.

use super::{
    errors::Violation,
    json::{Json, snake_case},
};

/// More violations than this are not told.
const VIOLATIONS_MAX: usize = 10;

/// What a field may hold.
#[derive(Clone, Copy, Debug)]
enum Kind {
    String,
    Bool,
    Int32,
    Float,
    /// Seconds with an `s` behind them.
    Duration,
    Timestamp,
    /// One of these names, in any case.
    Enum(&'static str, &'static [&'static str]),
    /// Strings by strings.
    StringMap,
    Strings,
    Durations,
    /// `google.protobuf.Struct`: any object.
    Struct,
    Message(&'static str, &'static [(&'static str, Kind)]),
}

const FCM: &str = "google.firebase.fcm.v1";

const REQUEST: Kind = Kind::Message(
    "SendMessageRequest",
    &[("validate_only", Kind::Bool), ("message", Kind::Message("Message", MESSAGE))],
);

const MESSAGE: &[(&str, Kind)] = &[
    ("name", Kind::String),
    ("data", Kind::StringMap),
    (
        "notification",
        Kind::Message(
            "Notification",
            &[("title", Kind::String), ("body", Kind::String), ("image", Kind::String)],
        ),
    ),
    ("android", Kind::Message("AndroidConfig", ANDROID)),
    ("webpush", Kind::Message("WebpushConfig", WEBPUSH)),
    ("apns", Kind::Message("ApnsConfig", APNS)),
    ("fcm_options", Kind::Message("FcmOptions", &[("analytics_label", Kind::String)])),
    ("token", Kind::String),
    ("topic", Kind::String),
    ("condition", Kind::String),
    ("fid", Kind::String),
];

const ANDROID: &[(&str, Kind)] = &[
    ("collapse_key", Kind::String),
    ("priority", Kind::Enum("AndroidMessagePriority", &["NORMAL", "HIGH"])),
    ("ttl", Kind::Duration),
    ("restricted_package_name", Kind::String),
    ("data", Kind::StringMap),
    ("notification", Kind::Message("AndroidNotification", ANDROID_NOTIFICATION)),
    ("fcm_options", Kind::Message("AndroidFcmOptions", &[("analytics_label", Kind::String)])),
    ("direct_boot_ok", Kind::Bool),
    ("bandwidth_constrained_ok", Kind::Bool),
    ("restricted_satellite_ok", Kind::Bool),
];

const ANDROID_NOTIFICATION: &[(&str, Kind)] = &[
    ("title", Kind::String),
    ("body", Kind::String),
    ("icon", Kind::String),
    ("color", Kind::String),
    ("sound", Kind::String),
    ("tag", Kind::String),
    ("click_action", Kind::String),
    ("body_loc_key", Kind::String),
    ("body_loc_args", Kind::Strings),
    ("title_loc_key", Kind::String),
    ("title_loc_args", Kind::Strings),
    ("channel_id", Kind::String),
    ("ticker", Kind::String),
    ("sticky", Kind::Bool),
    ("event_time", Kind::Timestamp),
    ("local_only", Kind::Bool),
    (
        "notification_priority",
        Kind::Enum(
            "AndroidNotification.NotificationPriority",
            &[
                "PRIORITY_UNSPECIFIED",
                "PRIORITY_MIN",
                "PRIORITY_LOW",
                "PRIORITY_DEFAULT",
                "PRIORITY_HIGH",
                "PRIORITY_MAX",
            ],
        ),
    ),
    ("default_sound", Kind::Bool),
    ("default_vibrate_timings", Kind::Bool),
    ("default_light_settings", Kind::Bool),
    ("vibrate_timings", Kind::Durations),
    (
        "visibility",
        Kind::Enum(
            "AndroidNotification.Visibility",
            &["VISIBILITY_UNSPECIFIED", "PRIVATE", "PUBLIC", "SECRET"],
        ),
    ),
    ("notification_count", Kind::Int32),
    (
        "light_settings",
        Kind::Message(
            "LightSettings",
            &[
                (
                    "color",
                    Kind::Message(
                        "Color",
                        &[
                            ("red", Kind::Float),
                            ("green", Kind::Float),
                            ("blue", Kind::Float),
                            ("alpha", Kind::Float),
                        ],
                    ),
                ),
                ("light_on_duration", Kind::Duration),
                ("light_off_duration", Kind::Duration),
            ],
        ),
    ),
    ("image", Kind::String),
    ("bypass_proxy_notification", Kind::Bool),
    (
        "proxy",
        Kind::Enum(
            "AndroidNotification.Proxy",
            &["PROXY_UNSPECIFIED", "ALLOW", "DENY", "IF_PRIORITY_LOWERED"],
        ),
    ),
];

const WEBPUSH: &[(&str, Kind)] = &[
    ("headers", Kind::StringMap),
    ("data", Kind::StringMap),
    ("notification", Kind::Struct),
    (
        "fcm_options",
        Kind::Message("WebpushFcmOptions", &[("link", Kind::String), ("analytics_label", Kind::String)]),
    ),
];

const APNS: &[(&str, Kind)] = &[
    ("headers", Kind::StringMap),
    ("payload", Kind::Struct),
    ("live_activity_token", Kind::String),
    (
        "fcm_options",
        Kind::Message("ApnsFcmOptions", &[("analytics_label", Kind::String), ("image", Kind::String)]),
    ),
];

/// Everything in `request` that no `SendMessageRequest` has.
pub(crate) fn violations(request: &Json) -> Vec<Violation> {
    let mut found = Vec::new();
    check(REQUEST, request, "", &mut found);
    found.truncate(VIOLATIONS_MAX);
    found
}

fn check(kind: Kind, value: &Json, path: &str, found: &mut Vec<Violation>) {
    match (kind, value) {
        (_, Json::Null)
        | (Kind::String, Json::String(_))
        | (Kind::Bool, Json::Bool(_))
        | (Kind::Float, Json::Number(_))
        | (Kind::Struct, Json::Object(_)) => {}
        (Kind::Int32, Json::Number(number)) if is_int32(number) => {}
        (Kind::Timestamp, Json::String(text)) if looks_like_rfc3339(text) => {}
        (Kind::Duration, Json::String(text)) => {
            if duration_ms(text).is_none() {
                let name = path.rsplit('.').next().unwrap_or(path);
                found.push(invalid(
                    path,
                    "type.googleapis.com/google.protobuf.Duration",
                    &format!("Field '{name}', Illegal duration format; duration must end with 's'"),
                ));
            }
        }
        (Kind::Enum(type_name, names), Json::String(text)) => {
            if !names.iter().any(|name| name.eq_ignore_ascii_case(text)) {
                found.push(invalid(
                    path,
                    &format!("type.googleapis.com/{FCM}.{type_name}"),
                    &value.to_string(),
                ));
            }
        }
        (Kind::StringMap, Json::Object(entries)) => {
            for (at, (_, value)) in entries.iter().enumerate() {
                if !matches!(value, Json::String(_)) {
                    found.push(invalid(&format!("{path}[{at}].value"), "TYPE_STRING", &value.to_string()));
                }
            }
        }
        (Kind::Strings, Json::Array(values)) => check_each(Kind::String, values, path, found),
        (Kind::Durations, Json::Array(values)) => check_each(Kind::Duration, values, path, found),
        (Kind::Message(_, fields), Json::Object(given)) => check_fields(fields, given, path, found),
        (kind, value) => found.push(invalid(path, &type_name(kind), &value.to_string())),
    }
}

fn check_each(kind: Kind, values: &[Json], path: &str, found: &mut Vec<Violation>) {
    for (at, value) in values.iter().enumerate() {
        check(kind, value, &format!("{path}[{at}]"), found);
    }
}

fn check_fields(
    fields: &[(&'static str, Kind)],
    given: &[(String, Json)],
    path: &str,
    found: &mut Vec<Violation>,
) {
    for (name, value) in given {
        let snake = snake_case(name);
        match fields.iter().find(|(known, _)| *known == snake) {
            Some((known, kind)) => {
                let path = if path.is_empty() { (*known).to_owned() } else { format!("{path}.{known}") };
                check(*kind, value, &path, found);
            }
            None => found.push(unknown(name, path)),
        }
    }
}

fn unknown(name: &str, path: &str) -> Violation {
    let place = if path.is_empty() { String::new() } else { format!(" at '{path}'") };
    Violation {
        field: path.to_owned(),
        description: format!(
            "Invalid JSON payload received. Unknown name \"{name}\"{place}: Cannot find field."
        ),
    }
}

fn invalid(path: &str, type_name: &str, value: &str) -> Violation {
    Violation {
        field: path.to_owned(),
        description: format!("Invalid value at '{path}' ({type_name}), {value}"),
    }
}

fn type_name(kind: Kind) -> String {
    match kind {
        Kind::String | Kind::Strings => "TYPE_STRING".to_owned(),
        Kind::Bool => "TYPE_BOOL".to_owned(),
        Kind::Int32 => "TYPE_INT32".to_owned(),
        Kind::Float => "TYPE_FLOAT".to_owned(),
        Kind::Duration | Kind::Durations => "type.googleapis.com/google.protobuf.Duration".to_owned(),
        Kind::Timestamp => "type.googleapis.com/google.protobuf.Timestamp".to_owned(),
        Kind::Struct => "type.googleapis.com/google.protobuf.Struct".to_owned(),
        Kind::StringMap => "Map".to_owned(),
        Kind::Enum(name, _) | Kind::Message(name, _) => format!("type.googleapis.com/{FCM}.{name}"),
    }
}

fn is_int32(number: &serde_json::Number) -> bool {
    number.as_i64().is_some_and(|value| i32::try_from(value).is_ok())
}

/// Date, `T`, time, and `Z` or an offset; the calendar is not checked.
fn looks_like_rfc3339(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() >= 20
        && bytes[..10].iter().enumerate().all(|(at, byte)| match at {
            4 | 7 => *byte == b'-',
            _ => byte.is_ascii_digit(),
        })
        && bytes[10] == b'T'
        && (text.ends_with('Z') || bytes[19..].iter().any(|byte| matches!(byte, b'+' | b'-')))
}

/// The milliseconds of a `google.protobuf.Duration` (nanoseconds are cut off); negative ones are durations too.
pub(crate) fn duration_ms(text: &str) -> Option<i64> {
    const NANOSECOND_DIGITS: usize = 9;
    let number = text.strip_suffix('s')?;
    let (sign, number) = number.strip_prefix('-').map_or((1, number), |number| (-1, number));
    let (seconds, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits(seconds) || !is_digits(fraction) || fraction.len() > NANOSECOND_DIGITS {
        return None;
    }
    let milliseconds: i64 = format!("{fraction:0<3}")[..3].parse().ok()?;
    let seconds: i64 = seconds.parse().ok()?;
    seconds.checked_mul(1000)?.checked_add(milliseconds).map(|length| sign * length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptions(body: &str) -> Vec<String> {
        let request = serde_json::from_str(body).expect("JSON");
        violations(&request).into_iter().map(|violation| violation.description).collect()
    }

    #[test]
    fn a_message_of_every_kind_of_field_is_accepted_in_both_spellings() {
        let body = r#"{"validateOnly": false, "message": {
            "token": "t", "data": {"a": "b"}, "notification": {"title": "t", "body": null},
            "android": {"collapseKey": "k", "priority": "high", "ttl": "3.5s", "direct_boot_ok": true,
                "notification": {"notification_count": 3, "visibility": "PUBLIC", "body_loc_args": ["x"],
                    "vibrate_timings": ["1s", "0.5s"], "event_time": "2026-11-24T10:00:00Z",
                    "light_settings": {"color": {"red": 0.5}, "light_on_duration": "1s"}}},
            "webpush": {"headers": {"TTL": "60"}, "notification": {"any": {"thing": 1}}},
            "apns": {"headers": {"apns-priority": "10"}, "payload": {"aps": {"badge": 1}}},
            "fcm_options": {"analytics_label": "l"}}}"#;
        assert_eq!(descriptions(body), [""; 0]);
    }

    #[test]
    fn a_data_value_that_is_no_string_is_named_by_its_place() {
        assert_eq!(
            descriptions(r#"{"message": {"data": {"first": "1", "second": 12}}}"#),
            ["Invalid value at 'message.data[1].value' (TYPE_STRING), 12"]
        );
    }

    #[test]
    fn an_unknown_field_is_named_with_where_it_stands() {
        assert_eq!(
            descriptions(r#"{"message": {"android": {"colapse_key": "k"}}, "dry_run": true}"#),
            [
                "Invalid JSON payload received. Unknown name \"colapse_key\" at 'message.android': Cannot find field.",
                "Invalid JSON payload received. Unknown name \"dry_run\": Cannot find field.",
            ]
        );
    }

    #[test]
    fn a_wrong_type_names_the_right_one() {
        assert_eq!(
            descriptions(r#"{"message": {"token": 5, "android": {"priority": "urgent", "ttl": "60"}}}"#),
            [
                "Invalid value at 'message.token' (TYPE_STRING), 5",
                "Invalid value at 'message.android.priority' \
                 (type.googleapis.com/google.firebase.fcm.v1.AndroidMessagePriority), \"urgent\"",
                "Invalid value at 'message.android.ttl' (type.googleapis.com/google.protobuf.Duration), Field \
                 'ttl', Illegal duration format; duration must end with 's'",
            ]
        );
    }

    #[test]
    fn durations_are_read_to_the_millisecond() {
        for (text, ms) in [
            ("0s", Some(0)),
            ("3.5s", Some(3500)),
            ("-1s", Some(-1000)),
            ("3.000000001s", Some(3000)),
            ("2419200s", Some(2_419_200_000)),
            ("60", None),
            ("s", None),
            ("1.s", None),
            ("1.0000000001s", None),
            ("99999999999999999999s", None),
        ] {
            assert_eq!(duration_ms(text), ms, "{text}");
        }
    }
}
