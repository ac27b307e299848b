//! From what was typed to what runs: names become values, defaults are filled in, and everything
//! that the text alone can tell to be wrong is told. Not for what depends on the world (ports that
//! are busy, certificates): whoever starts finds that, at the places kept in the model.
//!
//! Invariant: when no error was noted, the result keeps every promise of `model`.

mod answers;
mod cache;
mod certificates;
mod claims;
mod contract;
mod cors;
mod discover;
mod exposure;
mod external;
mod files;
mod gateway;
mod identity;
mod inherited;
mod l4;
mod names;
mod overlap;
mod policy;
mod pool;
mod register;
mod servers;
mod service;
mod split;
mod store;
mod telemetry;
mod tls;
mod transcode;
mod transform;
mod upstream;
mod wiring;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use crate::model::{SourceFile, Topology};
use crate::raw::{self, Findings, Named, Spot, Text, Typed};
use crate::units::{At, SecretRef, Size, Time};
use names::Names;

/// The whole file.
pub(crate) fn topology(
    source: &Arc<SourceFile>,
    mut file: raw::File,
    out: &mut Findings,
) -> Topology {
    // There is one version of the format, so nothing depends on it.
    let raw::Version = or(file.version.take(), raw::Version);
    let services = service::all(file.services.as_ref(), &source.folder, out);
    let names = Names::collect(&source.folder, services, &file, out);
    claims::check(&file, &names, out);
    wiring::check(&file, &names, out);
    exposure::check(&file, &names, out);
    let nlbs = file.nlbs.unwrap_or_default().into_iter();
    let nlbs = nlbs.map(|group| l4::group(group, &names, out)).collect();
    let gateways = file.gateways.unwrap_or_default().into_iter();
    let gateways = gateways.map(|group| gateway::group(group, &names, out)).collect();
    let pools = file.pools.unwrap_or_default().into_iter();
    let pools = pools.map(|group| pool::group(group, &names, out)).collect();
    let admin_token = file.admin_token.map(|typed| secret(typed, &names));
    let source = Arc::clone(source);
    let services = names.services;
    Topology { source, services, nlbs, gateways, pools, admin_token, warnings: Vec::new() }
}

/// The value, or its default.
fn or<T>(typed: Option<Typed<T>>, default: T) -> T {
    typed.map_or(default, |typed| typed.value)
}

/// A time, or its default.
fn time(typed: Option<Typed<Time>>, default: Duration) -> Duration {
    or(typed, Time(default)).0
}

/// A time that must be longer than nothing, or its default.
fn positive(typed: Option<Typed<Time>>, default: Duration, out: &mut Findings) -> Duration {
    if let Some(typed) = &typed
        && typed.value.0.is_zero()
    {
        out.error(&typed.spot, "0 is no length of time here").allowed("1ms or more");
    }
    time(typed, default)
}

/// A time that must be longer than nothing, if it is given.
fn bound(typed: Option<Typed<Time>>, out: &mut Findings) -> Option<Duration> {
    typed.map(|typed| positive(Some(typed), Duration::ZERO, out))
}

/// Bytes of something that is held in memory: 1 B to 64 MiB.
fn held(typed: Option<Typed<Size>>, default: u64, out: &mut Findings) -> u64 {
    let Some(typed) = typed else { return default };
    if !(1..=64 << 20).contains(&typed.value.0) {
        out.error(&typed.spot, format!("{} is too much to hold", typed.value))
            .allowed("1B to 64MiB");
    }
    typed.value.0
}

/// Whether a text is JSON; notes why not.
fn is_json(typed: &Typed<Text>, allowed: &str, out: &mut Findings) -> bool {
    let text = &typed.value.0;
    let read = serde_json::from_str::<serde_json::Value>(text);
    if let Err(fault) = &read {
        out.error(&typed.spot, format!("`{text}` is no JSON: {fault}")).allowed(allowed);
    }
    read.is_ok()
}

/// `http://HOST:PORT` or the like, without a `/` at its end; without a user, for whom there are keys of their
/// own.
fn web_address(typed: &Typed<Text>, whose: &str, out: &mut Findings) -> Option<String> {
    let text = typed.value.0.trim_end_matches('/');
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let lawful = |b: u8| b.is_ascii_alphanumeric() || b".-_~:/[]%".contains(&b);
    let authority = rest.and_then(|rest| rest.split('/').next()).unwrap_or_default();
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let reached = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port != 0));
    if !host.is_empty() && reached && rest.is_some_and(|rest| rest.bytes().all(lawful)) {
        return Some(text.to_owned());
    }
    // It may hold a password.
    let spot = gateway::hidden(&typed.spot, text.contains('@'));
    out.error(&spot, format!("this is no address of {whose}"))
        .allowed("http://HOST:PORT or https://HOST:PORT, without a user");
    None
}

/// A count whose default is known not to be zero.
fn count(typed: Option<Typed<NonZeroU32>>, default: u32) -> NonZeroU32 {
    or(typed, NonZeroU32::new(default).unwrap_or(NonZeroU32::MIN))
}

/// A reference with its path made absolute.
fn secret(typed: Typed<SecretRef>, names: &Names) -> At<SecretRef> {
    let place = typed.spot.extent.place;
    let value = match typed.value {
        SecretRef::File(path) => SecretRef::File(names.folder.join(path)),
        other => other,
    };
    At { value, place }
}

/// A reference that must be a file.
fn file(typed: Typed<SecretRef>, names: &Names, out: &mut Findings) -> At<SecretRef> {
    if !matches!(typed.value, SecretRef::File(_)) {
        out.error(&typed.spot, "this must be a file").allowed("file:PATH");
    }
    secret(typed, names)
}

/// How long a drain may take.
fn drain(typed: Option<Typed<Time>>) -> Duration {
    time(typed, Duration::from_secs(30))
}

/// Notes a section that may not be empty and is.
fn filled<T>(items: Option<&[T]>, key: &str, at: &Spot, out: &mut Findings) {
    if items.is_some_and(<[T]>::is_empty) {
        out.error(at, format!("`{key}` is empty")).allowed("at least one");
    }
}

/// The entries of a section by name.
fn entries<T>(named: Option<&Named<T>>) -> &[raw::Entry<T>] {
    named.map_or(&[], |named| &named.0)
}

/// The text of a reference, if it was given.
fn text(typed: Option<&Typed<Text>>) -> Option<(&str, &Spot)> {
    typed.map(|typed| (typed.value.0.as_str(), &typed.spot))
}
