//! The directions in which the rooms may know each other. Nothing points up.
//!
//! Crates are read from `cargo metadata`, modules from their source: every path that begins with `crate::`, and every
//! crate that is named.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use syn::{
    punctuated::Punctuated,
    visit::{self, Visit},
};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// What each crate of ours may depend on, of ours.
const CRATES: [(&str, &[&str]); 8] = [
    ("countersign-proto", &[]),
    ("countersign-envelope", &[]),
    ("countersign-domain", &["countersign-proto", "countersign-envelope"]),
    ("countersign", &["countersign-domain", "countersign-proto", "countersign-envelope"]),
    // A mistake that it shared with the broker would hide itself.
    ("device-sim", &["countersign-proto", "countersign-envelope"]),
    ("crashfs", &[]),
    ("model", &["countersign-domain", "countersign-proto", "countersign-envelope"]),
    // It plays phones and logins itself, from the seed alone.
    ("simulation", &["countersign", "countersign-domain", "countersign-proto", "countersign-envelope"]),
];

/// Pure: no I/O, no clock, no randomness, no async.
const DOMAIN_MAY_USE: [&str; 11] = [
    "bytes",
    "countersign-envelope",
    "countersign-proto",
    "data-encoding",
    "prost",
    "prost-types",
    "subtle",
    "thiserror",
    "unicase",
    "unicode-normalization",
    "zeroize",
];

#[test]
fn crates_depend_only_downwards() {
    let dependencies = dependencies();
    let ours: BTreeSet<_> = dependencies.keys().cloned().collect();
    for (name, allowed) in CRATES {
        let of_ours: BTreeSet<_> = dependencies[name].intersection(&ours).map(String::as_str).collect();
        let more: Vec<_> = of_ours.iter().filter(|one| !allowed.contains(one)).collect();
        assert!(more.is_empty(), "{name} must not depend on {more:?}");
    }
}

#[test]
fn the_domain_depends_on_nothing_that_does_io() {
    for one in &dependencies()["countersign-domain"] {
        assert!(DOMAIN_MAY_USE.contains(&one.as_str()), "countersign-domain must not depend on {one}");
    }
}

/// What no decision may touch, by whatever it is called: I/O, clock, threads, the environment, randomness, async.
const IMPURE: [&str; 18] = [
    "std::env",
    "std::fs",
    "std::io",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::ToSocketAddrs",
    "std::net::UdpSocket",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "aws_lc_rs",
    "getrandom",
    "rand",
    "rustix",
    "tokio",
    "tracing",
];

/// Standard output is I/O, too.
const PRINTS: [&str; 5] = ["dbg", "eprint", "eprintln", "print", "println"];

/// Dependencies alone do not keep it pure: the standard library has all of it.
#[test]
fn the_domains_source_names_nothing_that_does_io() {
    for (file, used) in used_in(&workspace().join("broker/domain/src")) {
        for path in &used {
            assert!(!is_impure(path), "{}: a decision must not use {path}", file.display());
        }
    }
}

fn is_impure(path: &str) -> bool {
    let is_in =
        |room: &str| path == room || path.strip_prefix(room).is_some_and(|more| more.starts_with("::"));
    // `use std::time::*` would bring the clock with it.
    IMPURE.iter().any(|room| is_in(room))
        || PRINTS.contains(&path)
        || ["std::*", "std::net::*", "std::time::*"].contains(&path)
}

#[test]
fn a_path_into_an_impure_room_is_found_however_it_is_written() {
    let text = "use std::{fmt, time::{Duration, Instant}}; mod inner { fn read() { std::fs::read(\"x\"); } }\n\
                fn draw() { println!(\"{}\", rand::random::<u8>()); }";
    let found: Vec<_> =
        paths_of(&syn::parse_file(text).unwrap()).into_iter().filter(|path| is_impure(path)).collect();
    assert_eq!(found, ["println", "rand::random", "std::fs::read", "std::time::Instant"]);
}

/// What each room of the broker may know of the others.
const ROOMS: [(&str, &[&str]); 18] = [
    ("clock", &[]),
    ("entropy", &[]),
    ("key_file", &[]),
    ("live", &["key_file"]),
    ("shares", &[]),
    // Every room says there what happened in it; it knows none of them.
    ("telemetry", &["clock"]),
    ("log", &["telemetry"]),
    ("push", &["key_file", "live", "telemetry"]),
    ("rates", &["clock", "telemetry"]),
    ("keys", &["clock", "entropy", "log"]),
    ("decider", &["clock", "entropy", "keys", "log", "telemetry"]),
    ("projection", &["decider", "log", "shares", "telemetry"]),
    (
        "signin",
        &["clock", "decider", "entropy", "keys", "log", "projection", "push", "rates", "shares", "telemetry"],
    ),
    ("enrol", &["decider", "log", "projection", "signin"]),
    (
        "api",
        &[
            "clock",
            "decider",
            "enrol",
            "entropy",
            "key_file",
            "live",
            "log",
            "projection",
            "rates",
            "shares",
            "signin",
            "telemetry",
        ],
    ),
    ("config", &["api", "push", "rates", "shares", "telemetry"]),
    // These put the rooms together, and nobody knows them: the program is a crate of its own.
    (
        "broker",
        &[
            "api",
            "clock",
            "config",
            "decider",
            "enrol",
            "entropy",
            "keys",
            "live",
            "log",
            "projection",
            "push",
            "rates",
            "shares",
            "signin",
            "telemetry",
        ],
    ),
    ("commands", &["ConfigFile"]),
];

#[test]
fn rooms_know_only_those_below_them() {
    for (room, allowed) in ROOMS {
        for (file, used) in used_by(room) {
            for path in used.iter().filter_map(|path| path.strip_prefix("crate::")) {
                let other = path.split("::").next().unwrap();
                assert!(
                    other == room || allowed.contains(&other),
                    "{}: the room {room} must not know crate::{path}",
                    file.display()
                );
            }
        }
    }
}

#[test]
fn the_story_knows_no_adapter() {
    const ADAPTERS: [&str; 12] = [
        "axum",
        "hyper",
        "hyper_util",
        "jsonwebtoken",
        "opentelemetry",
        "prometheus_client",
        "reqwest",
        "rustls",
        "sled",
        "tonic",
        "tonic_types",
        "tracing_opentelemetry",
    ];
    for room in ["signin", "enrol", "decider", "projection"] {
        for (file, used) in used_by(room) {
            for path in &used {
                let first = path.split("::").next().unwrap();
                assert!(!ADAPTERS.contains(&first), "{}: must not use {path}", file.display());
                let implementation = ["LocalLog", "MemoryLog"].iter().any(|name| path.ends_with(name));
                assert!(!implementation, "{}: must know the trait of the log, not {path}", file.display());
            }
        }
    }
}

#[test]
fn only_the_logs_room_knows_sled_and_only_status_makes_a_status() {
    for (file, used) in used_in(&workspace().join("broker/src")) {
        let in_log = file.starts_with(workspace().join("broker/src/log"));
        assert!(in_log || !used.iter().any(|path| path.starts_with("sled")), "{}: uses sled", file.display());
    }
    let grpc = workspace().join("broker/src/api/grpc");
    for file in rust_files(&grpc).into_iter().filter(|file| !file.ends_with("status.rs")) {
        let text = fs::read_to_string(&file).unwrap();
        for made in
            ["Status::new", "Status::with_", "Status::internal", "Status::not_found", "Status::invalid"]
        {
            assert!(!text.contains(made), "{}: makes a status ({made}); status.rs does that", file.display());
        }
    }
}

/// Each crate of ours, and what it depends on apart from its tests.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["metadata", "--format-version=1", "--no-deps", "--offline"];
    let done = Command::new(cargo).args(arguments).current_dir(workspace()).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let metadata: Value = serde_json::from_slice(&done.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages
        .map(|package| {
            let normal =
                package["dependencies"].as_array().unwrap().iter().filter(|one| one["kind"].is_null());
            let names = normal.map(|one| one["name"].as_str().unwrap().to_owned());
            (package["name"].as_str().unwrap().to_owned(), names.collect())
        })
        .collect()
}

fn used_by(room: &str) -> Vec<(PathBuf, BTreeSet<String>)> {
    let source = workspace().join("broker/src");
    let folder = source.join(room);
    if folder.is_dir() { used_in(&folder) } else { vec![paths_in(source.join(format!("{room}.rs")))] }
}

fn used_in(folder: &Path) -> Vec<(PathBuf, BTreeSet<String>)> {
    rust_files(folder).into_iter().map(paths_in).collect()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        // What a room's own tests use is their business.
        let tests = path.file_stem().is_some_and(|stem| stem == "tests");
        if path.is_dir() && !tests {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") && !tests {
            files.push(path);
        }
    }
    files
}

/// Every path that a file names.
fn paths_in(file: PathBuf) -> (PathBuf, BTreeSet<String>) {
    let text = fs::read_to_string(&file).unwrap();
    let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    (file, paths_of(&parsed))
}

/// Every path that it names, `use` trees spelled out; tests inside it left out.
fn paths_of(file: &syn::File) -> BTreeSet<String> {
    #[derive(Default)]
    struct Paths(BTreeSet<String>);

    impl Visit<'_> for Paths {
        fn visit_item_mod(&mut self, module: &syn::ItemMod) {
            if module.ident != "tests" {
                visit::visit_item_mod(self, module);
            }
        }

        fn visit_item_use(&mut self, item: &syn::ItemUse) {
            spell_out(&item.tree, "", &mut self.0);
        }

        fn visit_path(&mut self, path: &syn::Path) {
            let segments: Vec<_> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            self.0.insert(segments.join("::"));
            visit::visit_path(self, path);
        }

        /// What a macro is given is read where it is a list of expressions, as most are.
        fn visit_macro(&mut self, call: &syn::Macro) {
            type Arguments = Punctuated<syn::Expr, syn::Token![,]>;
            if let Ok(arguments) = call.parse_body_with(Arguments::parse_terminated) {
                arguments.iter().for_each(|one| Visit::visit_expr(self, one));
            }
            visit::visit_macro(self, call);
        }
    }

    fn spell_out(tree: &syn::UseTree, before: &str, paths: &mut BTreeSet<String>) {
        match tree {
            syn::UseTree::Path(path) => spell_out(&path.tree, &format!("{before}{}::", path.ident), paths),
            syn::UseTree::Name(name) => drop(paths.insert(format!("{before}{}", name.ident))),
            syn::UseTree::Rename(rename) => drop(paths.insert(format!("{before}{}", rename.ident))),
            syn::UseTree::Glob(_) => drop(paths.insert(format!("{before}*"))),
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| spell_out(tree, before, paths)),
        }
    }

    let mut paths = Paths::default();
    paths.visit_file(file);
    paths.0
}
