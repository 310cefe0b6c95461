//! The .proto files are the reference: every message, field, value and method in them says what it is.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto};

/// Numbers of fields in descriptor.proto: a location's path is made of them and of indices.
mod number {
    pub(super) const FILE_MESSAGE: i32 = 4;
    pub(super) const FILE_ENUM: i32 = 5;
    pub(super) const FILE_SERVICE: i32 = 6;
    pub(super) const MESSAGE_FIELD: i32 = 2;
    pub(super) const MESSAGE_MESSAGE: i32 = 3;
    pub(super) const MESSAGE_ENUM: i32 = 4;
    pub(super) const MESSAGE_ONEOF: i32 = 8;
    pub(super) const ENUM_VALUE: i32 = 2;
    pub(super) const SERVICE_METHOD: i32 = 2;
}

#[test]
fn every_message_field_value_and_method_says_what_it_is() {
    let files = [
        "countersign/v1/approvals.proto",
        "countersign/v1/authenticators.proto",
        "countersign/v1/enrolments.proto",
        "countersign/v1/administration.proto",
    ];
    let compiled = protox::compile(files, [env!("CARGO_MANIFEST_DIR")]).unwrap();
    let ours: Vec<_> = compiled.file.iter().filter(|file| file.package() == "countersign.v1").collect();
    assert_eq!(ours.len(), 6, "with those that they import");
    let silent: Vec<String> = ours.into_iter().flat_map(silent).collect();
    assert!(silent.is_empty(), "no comment stands above {silent:#?}");
}

/// What has a name in this file and no comment above it.
fn silent(file: &FileDescriptorProto) -> Vec<String> {
    let mut named = Vec::new();
    for (at, message) in (0..).zip(&file.message_type) {
        in_message(message, message.name(), &[number::FILE_MESSAGE, at], &mut named);
    }
    for (at, one) in (0..).zip(&file.enum_type) {
        in_enum(one, one.name(), &[number::FILE_ENUM, at], &mut named);
    }
    for (at, service) in (0..).zip(&file.service) {
        named.push((vec![number::FILE_SERVICE, at], service.name().to_owned()));
        for (of, method) in (0..).zip(&service.method) {
            let path = vec![number::FILE_SERVICE, at, number::SERVICE_METHOD, of];
            named.push((path, format!("{}.{}", service.name(), method.name())));
        }
    }
    let commented = |path: &[i32]| {
        let locations = &file.source_code_info.as_ref().unwrap().location;
        let of = locations.iter().find(|location| location.path == path);
        of.is_some_and(|location| !location.leading_comments().trim().is_empty())
    };
    named.retain(|(path, _)| !commented(path));
    named.into_iter().map(|(_, name)| format!("{}: {name}", file.name())).collect()
}

fn in_message(message: &DescriptorProto, name: &str, path: &[i32], named: &mut Vec<(Vec<i32>, String)>) {
    let inside = |number: i32, at: i32| [path, &[number, at]].concat();
    named.push((path.to_vec(), name.to_owned()));
    for (at, field) in (0..).zip(&message.field) {
        named.push((inside(number::MESSAGE_FIELD, at), format!("{name}.{}", field.name())));
    }
    for (at, oneof) in (0..).zip(&message.oneof_decl) {
        named.push((inside(number::MESSAGE_ONEOF, at), format!("{name}.{}", oneof.name())));
    }
    for (at, inner) in (0..).zip(&message.nested_type) {
        let path = inside(number::MESSAGE_MESSAGE, at);
        in_message(inner, &format!("{name}.{}", inner.name()), &path, named);
    }
    for (at, inner) in (0..).zip(&message.enum_type) {
        in_enum(inner, &format!("{name}.{}", inner.name()), &inside(number::MESSAGE_ENUM, at), named);
    }
}

fn in_enum(one: &EnumDescriptorProto, name: &str, path: &[i32], named: &mut Vec<(Vec<i32>, String)>) {
    named.push((path.to_vec(), name.to_owned()));
    for (at, value) in (0..).zip(&one.value) {
        named.push(([path, &[number::ENUM_VALUE, at]].concat(), format!("{name}.{}", value.name())));
    }
}
