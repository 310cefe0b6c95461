# What one does here. `just` lists it.

default:
    @just --list

# A whole sign-in on this machine
demo:
    cargo build --package countersign --package device-sim --bins && target/debug/countersign demo

# All tests, with what they need installed
test:
    tests/run

# What CI runs
ci:
    .ci/run

# Format, and look for what the compiler and clippy have to say
check:
    cargo fmt --all
    cargo clippy --workspace --all-targets -- -D warnings

# The journal under kill -9 and power cuts
crash rounds="300" mode="power":
    tests/crash --rounds {{rounds}} --mode {{mode}}

# A broker under load for a long time, on a disk that fails and is well again
soak minutes="20":
    tests/soak --minutes {{minutes}} --json soak.json --plot soak.svg

# Broker, phones and logins on a simulated network
simulate seeds="2000" from="0":
    tests/simulate --seeds {{seeds}} --from {{from}}

# The documentation of all crates
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --open
