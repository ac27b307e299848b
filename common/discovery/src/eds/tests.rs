//! Endpoints as control planes assign them: versions and nonces, what is refused and what is left out,
//! streams that end, fall silent or say nonsense.

#[cfg(feature = "verify")]
mod envoy;
mod plane;

use std::net::SocketAddr;

use bytes::Bytes;
use proptest::prelude::*;
use topology::Weight;
use topology::model::{DiscoverSource, Registry};

use self::messages::{
    Assignment, Fields, Group, Locality, Member, Metadata, Number, Server as At, Socket, Value,
    Whereabouts,
};
use self::plane::{Instead, Plane, answer, framed};
use super::*;
use crate::instance::{Instance, Takes};
use crate::testing::{self, Registry as Contract, Server, address};

fn settings(address: &str) -> Settings {
    Settings {
        registry: Registry { address: address.to_owned(), ca: None },
        service: "user".to_owned(),
        node: "gw-1".to_owned(),
        group: "edge".to_owned(),
        token: None,
    }
}

fn at(address: SocketAddr) -> Option<At> {
    let (address, port_value) = (address.ip().to_string(), Some(u32::from(address.port())));
    let socket_address = Some(Socket { address, port_value, named_port: None });
    Some(At { address: Some(Whereabouts { socket_address, ..Whereabouts::default() }) })
}

fn member(number: u16) -> Member {
    Member { endpoint: at(address(number)), ..Member::default() }
}

fn number(value: u32) -> Option<Number> {
    Some(Number { value })
}

fn group(members: &[Member]) -> Group {
    let lb_endpoints = members.iter().map(|member| member.encode_to_vec().into()).collect();
    Group { lb_endpoints, ..Group::default() }
}

fn zone(name: &str) -> Option<Locality> {
    Some(Locality { zone: name.to_owned() })
}

/// An assignment to a service, as bytes.
fn assigned(service: &str, groups: &[Group]) -> Bytes {
    let endpoints = groups.iter().map(|group| group.encode_to_vec().into()).collect();
    Assignment { cluster_name: service.to_owned(), endpoints }.encode_to_vec().into()
}

struct Fake {
    plane: Plane,
    server: Server,
}

impl Fake {
    async fn new() -> Self {
        let plane = Plane::new();
        let answers = plane.clone();
        let server = Server::over_http2(move |request| answers.clone().answer(request)).await;
        Self { plane, server }
    }

    fn source(&self) -> Eds {
        Eds::new(&settings(&self.server.address()), None)
    }

    async fn again(&mut self) {
        let answers = self.plane.clone();
        self.server.again(move |request| answers.clone().answer(request)).await;
    }

    fn say(&self, numbers: &[u16]) {
        let members: Vec<_> = numbers.iter().map(|&number| member(number)).collect();
        self.plane.assign("user", assigned("user", &[group(&members)]));
    }
}

impl Contract for Fake {
    fn source(&self) -> DiscoverSource {
        DiscoverSource::Eds(settings(&self.server.address()))
    }

    async fn name(&mut self, numbers: &[u16]) {
        self.say(numbers);
    }

    async fn babble(&mut self) {
        self.plane.assign("user", Bytes::from_static(b"<html>Welcome</html>"));
    }

    async fn vanish(&mut self) {
        self.server.stop();
    }

    async fn come_back(&mut self, numbers: &[u16]) {
        // Another one, which counts from the beginning.
        self.plane.set(|state| *state = plane::State::default());
        self.say(numbers);
        self.again().await;
    }
}

fn numbers(answer: &Answer) -> Vec<u16> {
    let last = |one: &Instance| match one.address.ip() {
        std::net::IpAddr::V4(ip) => u16::from_be_bytes([ip.octets()[2], ip.octets()[3]]),
        std::net::IpAddr::V6(_) => 0,
    };
    answer.instances.iter().map(last).collect()
}

/// Asks, and hears nothing in time.
async fn asks_in_vain(fake: &Fake, source: &mut Eds) {
    let mut asking = Box::pin(source.ask());
    tokio::select! {
        _ = fake.plane.hears(1) => {}
        outcome = &mut asking => panic!("{outcome:?}"),
    }
    tokio::time::pause();
    let fault = asking.await.expect_err("nothing is said");
    assert!(matches!(fault, Fault::Late(PATIENCE)), "{fault}");
    tokio::time::resume();
}

async fn asked(source: &mut Eds) -> Vec<u16> {
    numbers(&source.ask().await.expect("an answer"))
}

/// D2, D3: the contract, with a control plane.
#[tokio::test]
async fn eds_keeps_the_contract() {
    testing::contract(Fake::new().await).await;
}

/// D2: who we are is said once; each answer is accepted or refused by its own nonce, a refusal with its
/// cause and the version that stays.
#[tokio::test]
async fn answers_are_accepted_or_refused_once() {
    let fake = Fake::new().await;
    fake.say(&[1]);
    let mut source = fake.source();
    assert_eq!(asked(&mut source).await, [1]);
    let twice = group(&[member(2), Member { health_status: 9, ..member(3) }]);
    fake.plane.assign("user", assigned("user", &[twice]));
    let refused = source.ask().await.expect_err("no such status").to_string();
    assert!(refused.contains("there is no health status 9"), "{refused}");
    fake.say(&[3]);
    assert_eq!(asked(&mut source).await, [3]);
    let said = fake.plane.hears(4).await;
    assert!(said.iter().all(|one| one.stream == 1 && !one.stale), "{said:?}");
    assert!(said.iter().all(|one| one.request.resource_names == ["user"]), "{said:?}");
    assert!(said.iter().all(|one| one.request.type_url == ASSIGNMENT), "{said:?}");
    let asker = said[0].request.node.clone().expect("who we are");
    assert_eq!(
        (&*asker.id, &*asker.cluster, &*asker.user_agent_name),
        ("gw-1", "edge", "aqueduct")
    );
    assert!(said[1..].iter().all(|one| one.request.node.is_none()));
    let words: Vec<_> = said
        .iter()
        .map(|one| {
            let refusal = one.request.error_detail.as_ref();
            (&*one.request.version_info, &*one.request.response_nonce, refusal.map(|it| it.code))
        })
        .collect();
    assert_eq!(words, [("", "", None), ("1", "n1", None), ("1", "n2", Some(3)), ("3", "n3", None)]);
    let cause = said[2].request.error_detail.clone().expect("a cause").message;
    assert_eq!(cause, "there is no health status 9");
}

/// D3: a server that says again what was refused is refused with growing pauses, and the set stays.
#[tokio::test]
async fn a_refusal_makes_no_storm() {
    let fake = Fake::new().await;
    fake.say(&[1]);
    let discover = topology::At {
        value: testing::discover(Contract::source(&fake)),
        place: topology::Place::default(),
    };
    let observer = common::observe::Observer::new("gw-1");
    let name = topology::ServiceName::new("user");
    let mut watched = crate::watch(&name, &[], Some(&discover), &observer);
    assert_eq!(testing::numbers(&watched.changed().await), [1]);
    fake.plane.set(|state| state.insists = true);
    fake.plane.assign("user", Bytes::from_static(b"\xff"));
    fake.plane.hears(3).await;
    tokio::time::pause();
    let late = timeout(Duration::from_secs(600), watched.changed()).await;
    assert!(late.is_err(), "the set stays");
    let said = fake.plane.asked();
    let refusals = said.iter().filter(|one| one.request.error_detail.is_some()).count();
    assert!((1..100).contains(&refusals), "{refusals}");
}

/// D3: what an answer does not name is as it was; an assignment that is gone is not an empty one.
#[tokio::test]
async fn what_is_not_named_is_not_removed() {
    let fake = Fake::new().await;
    fake.say(&[1]);
    let mut source = fake.source();
    assert_eq!(asked(&mut source).await, [1]);
    fake.plane.set(|state| {
        (state.tells_all, state.version) = (true, state.version + 1);
        state.resources.clear();
    });
    fake.plane.assign("feed", assigned("feed", &[group(&[member(9)])]));
    let mut asking = Box::pin(source.ask());
    assert!(futures_util::poll!(&mut asking).is_pending());
    let said = tokio::select! {
        said = fake.plane.hears(3) => said,
        news = &mut asking => panic!("{news:?}"),
    };
    assert!(said.iter().all(|one| one.request.error_detail.is_none()), "and accepted: {said:?}");
    fake.say(&[2]);
    assert_eq!(numbers(&asking.await.expect("an answer")), [2]);
    // Asked afresh it is no answer at all, and told as that once.
    fake.plane.set(|state| {
        state.version += 1;
        state.resources.remove("user");
    });
    source.forget();
    let lacks = source.ask().await.expect_err("it is not there").to_string();
    assert!(lacks.contains("names no `user`"), "{lacks}");
    fake.say(&[3]);
    source.nudged().await;
    assert_eq!(asked(&mut source).await, [3]);
}

/// D3: a server that has begun anew, and counts as far as the one before it, is heard all the same; an end in
/// peace is no fault, and one at once is no storm.
#[tokio::test]
async fn a_stream_begins_without_a_version() {
    let fake = Fake::new().await;
    fake.say(&[1]);
    let mut source = fake.source();
    assert_eq!(asked(&mut source).await, [1]);
    fake.plane.set(|state| (state.version, state.ends) = (0, state.ends + 1));
    fake.say(&[2]);
    source.subscription.as_mut().expect("a stream").since -= BRIEF;
    assert_eq!(asked(&mut source).await, [2]);
    fake.plane.set(|state| state.ends += 1);
    let fault = source.ask().await.expect_err("it ends as it has begun");
    assert!(matches!(fault, Fault::Broken), "{fault}");
}

/// D3: a registry that is away for ten minutes, comes back empty and then knows all again.
#[tokio::test]
async fn ten_minutes_without_a_control_plane_change_nothing() {
    testing::outage(Fake::new().await).await;
}

/// D3: a stream that falls silent is left for another one.
#[tokio::test]
async fn a_silent_stream_is_left() {
    let fake = Fake::new().await;
    fake.say(&[1]);
    let mut source = fake.source();
    asked(&mut source).await;
    tokio::time::pause();
    let mut asking = Box::pin(source.ask());
    assert!(futures_util::poll!(&mut asking).is_pending());
    tokio::time::advance(QUIET * 2).await;
    tokio::time::resume();
    assert_eq!(numbers(&asking.await.expect("an answer")), [1]);
    assert_eq!(fake.plane.streams(), 2);
}

/// D3: who does not answer holds nobody up for ever; who answers of late is heard at once, and not after
/// the pause.
#[tokio::test]
async fn who_answers_of_late_is_heard() {
    let fake = Fake::new().await;
    let mut source = fake.source();
    asks_in_vain(&fake, &mut source).await;
    fake.say(&[1]);
    source.nudged().await;
    assert_eq!(asked(&mut source).await, [1]);
    fake.plane.set(|state| state.instead = Some(Instead::Silence));
    source.forget();
    tokio::time::pause();
    let fault = source.ask().await.expect_err("nobody answers");
    assert!(matches!(fault, Fault::Late(PATIENCE)), "{fault}");
    assert!(source.lines.is_none(), "nor is this connection trusted again");
}

/// D3, O5: what is no answer is told for what it is; no message is read that is longer than any that makes
/// sense.
#[tokio::test]
async fn nonsense_is_told_by_name() {
    let fake = Fake::new().await;
    fake.say(&[1]);
    let bytes = |bytes: &[u8]| Instead::Bytes(Bytes::copy_from_slice(bytes));
    let table = [
        (Instead::Site("text/html"), "it speaks no gRPC"),
        (Instead::Site("application/grpc-web"), "it speaks no gRPC"),
        (Instead::Site("application/grpcx"), "it speaks no gRPC"),
        (Instead::Status("14", "no healthy upstream"), "UNAVAILABLE: no healthy upstream"),
        (Instead::Status("99", "?"), "an unknown status"),
        (bytes(&[1, 0, 0, 0, 1, 0]), "a message is compressed"),
        (bytes(&[0, 0, 64, 0, 1]), "longer than 4 MiB"),
        (bytes(&framed(b"\xff\xff\xff")), "of no use"),
    ];
    for (instead, told) in table {
        fake.plane.set(|state| state.instead = Some(instead));
        let mut source = fake.source();
        let fault = source.ask().await.expect_err(told).to_string();
        assert!(fault.contains(told), "{fault}");
        fake.plane.set(|state| state.instead = None);
        assert_eq!(asked(&mut source).await, [1], "after {told}");
    }
}

/// D3: an answer that comes byte by byte, and of which the end never comes, is waited for no longer than any
/// other.
#[tokio::test]
async fn half_an_answer_is_none() {
    let fake = Fake::new().await;
    let whole = framed(&answer(7, "n1", &[assigned("user", &[])], false).encode_to_vec());
    let half = whole.slice(..whole.len() - 1);
    fake.plane.set(|state| state.instead = Some(Instead::Bytes(half)));
    asks_in_vain(&fake, &mut fake.source()).await;
}

/// D3: what has ended a stream between two questions is told as what it was.
#[tokio::test]
async fn an_end_in_a_pause_is_told() {
    let fake = Fake::new().await;
    let mut source = fake.source();
    asks_in_vain(&fake, &mut source).await;
    fake.plane.set(|state| (state.ends, state.status) = (state.ends + 1, Some("14")));
    source.nudged().await;
    let fault = source.ask().await.expect_err("the stream is over").to_string();
    assert!(fault.contains("UNAVAILABLE"), "{fault}");
}

/// D3: who mends what was refused is heard at once.
#[tokio::test]
async fn what_is_mended_is_heard_at_once() {
    let fake = Fake::new().await;
    fake.say(&[1]);
    let mut source = fake.source();
    assert_eq!(asked(&mut source).await, [1]);
    fake.plane.assign("user", Bytes::from_static(b"\xff"));
    source.ask().await.expect_err("it cannot be read");
    fake.say(&[2]);
    source.nudged().await;
    assert_eq!(asked(&mut source).await, [2]);
}

/// D2: the token that the file has by now is shown, and none of it told.
#[tokio::test]
async fn a_control_plane_is_shown_the_token_of_the_hour() {
    let fake = Fake::new().await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("token");
    std::fs::write(&path, "old\n").expect("written");
    fake.say(&[1]);
    fake.plane.set(|state| state.token = Some("new"));
    let token = Some(topology::SecretRef::File(path.clone()));
    let settings = Settings { token, ..settings(&fake.server.address()) };
    let mut source = Eds::new(&settings, None);
    let refused = source.ask().await.expect_err("the wrong token").to_string();
    assert!(refused.contains("UNAUTHENTICATED") && !refused.contains("old"), "{refused}");
    std::fs::write(&path, "new\n").expect("written");
    assert_eq!(asked(&mut source).await, [1]);
}

/// What is read of these groups.
fn read(groups: &[Group], version: Option<&str>) -> Result<Assigned, String> {
    let answer = answer(1, "n1", &[assigned("user", groups)], false);
    assignment::read(&answer, "user", version).map(|read| read.expect("it is named"))
}

/// Last number, weight, whether it takes something new.
fn brief(groups: &[Group]) -> Vec<(u8, u16, bool)> {
    let read = read(groups, None).expect("an assignment");
    let brief = |one: &Instance| match one.address.ip() {
        std::net::IpAddr::V4(ip) => (ip.octets()[3], one.weight.0, one.takes == Takes::New),
        std::net::IpAddr::V6(_) => (0, 0, false),
    };
    read.instances.iter().map(brief).collect()
}

fn health(number: u16, health_status: i32) -> Member {
    Member { health_status, ..member(number) }
}

/// D3: the healthy ones of the first priority that has any; then degraded ones, then those who leave; who is
/// down is not named.
#[test]
fn health_and_priorities_choose() {
    let with = |priority: u32, members: &[Member]| Group { priority, ..group(members) };
    let (unhealthy, draining, timeout, degraded) = (2, 3, 4, 5);
    let first =
        [health(1, unhealthy), health(2, draining), health(3, timeout), health(4, degraded)];
    let second = [health(5, 0), health(6, 1), health(7, draining)];
    let third = [health(8, 1)];
    let all = [with(1, &second), with(2, &third), with(0, &first)];
    assert_eq!(brief(&all), [(5, 1, true), (6, 1, true), (7, 1, false)]);
    assert_eq!(
        brief(&[with(0, &first), with(1, &[health(9, degraded)])]),
        [(4, 1, true), (2, 1, false)]
    );
    let leaving = [health(1, unhealthy), health(2, draining)];
    assert_eq!(brief(&[with(0, &leaving), with(1, &[health(3, draining)])]), [(2, 1, false)]);
    assert_eq!(brief(&[with(0, &[health(1, unhealthy)])]), []);
    assert_eq!(brief(&[]), []);
}

/// D3: an endpoint's weight is its part of its locality's, where all localities have one; weights keep to one
/// another what they were, in numbers up to 1000.
#[test]
fn weights_are_parts_of_their_localities() {
    let weighed = |number: u16, value: u32| Member {
        load_balancing_weight: self::number(value),
        ..member(number)
    };
    let with = |weight: Option<u32>, members: &[Member]| Group {
        load_balancing_weight: weight.map(|value| Number { value }),
        ..group(members)
    };
    let weights = |groups: &[Group]| brief(groups).iter().map(|one| one.1).collect::<Vec<_>>();
    assert_eq!(weights(&[group(&[weighed(1, 5), member(2)])]), [5, 1]);
    let (a, b) = ([weighed(1, 10), weighed(2, 30)], [member(3)]);
    assert_eq!(weights(&[with(Some(4), &a), with(Some(1), &b)]), [1, 3, 1]);
    assert_eq!(weights(&[with(Some(4), &a), with(None, &b)]), [10, 30, 1]);
    let most = u32::MAX;
    assert_eq!(
        weights(&[group(&[weighed(1, most), weighed(2, most / 4), member(3)])]),
        [1000, 250, 1]
    );
    assert_eq!(weights(&[with(Some(most), &[weighed(1, most)]), with(Some(1), &b)]), [1000, 1]);
    assert_eq!(weights(&[with(Some(7), &[member(1), member(2), member(3)])]), [1, 1, 1]);
}

/// D3: the zone is the locality's, the version stands in the metadata that Envoy's load balancers go by.
#[test]
fn zones_and_versions_are_read() {
    let of = |number: u16, version: &str| {
        let value = Value { string_value: Some(version.to_owned()) }.encode_to_vec();
        let fields = Fields { fields: [("version".to_owned(), value)].into() }.encode_to_vec();
        let metadata = Metadata { filter_metadata: [("envoy.lb".to_owned(), fields)].into() };
        Member { metadata: Some(metadata), ..member(number) }
    };
    let near = Group { locality: zone("a"), ..group(&[of(1, "v1"), of(2, "v2")]) };
    let far = Group { priority: 1, ..group(&[of(3, "v3")]) };
    let groups = [near, far];
    let said = read(&groups, None).expect("an assignment");
    let said: Vec<_> =
        said.instances.iter().map(|one| (one.zone.as_deref(), one.version.as_deref())).collect();
    assert_eq!(said, [(Some("a"), Some("v1")), (Some("a"), Some("v2"))]);
    // Those of a version are chosen among themselves.
    let third = read(&groups, Some("v3")).expect("an assignment");
    assert_eq!((third.instances.len(), third.instances[0].zone.as_deref()), (1, None));
    assert_eq!(third.instances[0].weight, Weight(1));
}

/// O5: an answer with a mistake is refused as a whole, and the cause says which.
#[test]
fn mistakes_are_refused_whole() {
    let (good, socket) = (member(1), |address: &str, port: u32| {
        let socket =
            Socket { address: address.to_owned(), port_value: Some(port), named_port: None };
        let place = Whereabouts { socket_address: Some(socket), ..Whereabouts::default() };
        Member { endpoint: Some(At { address: Some(place) }), ..Member::default() }
    });
    let table = [
        (group(&[good.clone(), socket("user.internal", 80)]), "`user.internal` is no IP address"),
        (group(&[good.clone(), socket("10.0.0.1", 70_000)]), "10.0.0.1 has the port 70000"),
        (group(&[good.clone(), socket("10.0.0.1", 0)]), "10.0.0.1 has the port 0"),
        (group(&[good.clone(), Member::default()]), "an endpoint has no address"),
        (group(&[Member { load_balancing_weight: number(0), ..good.clone() }]), "endpoint is 0"),
        (Group { load_balancing_weight: number(0), ..group(&[]) }, "weight of a locality is 0"),
        (Group { priority: 129, ..group(&[]) }, "priority 129 is over 128"),
        (Group { locality: zone(&"z".repeat(254)), ..group(&[]) }, "longer than 253"),
        (Group { lb_endpoints: vec![Bytes::from_static(b"\xff")], ..group(&[]) }, "cannot be read"),
    ];
    for (group, told) in table {
        let cause = read(&[group], None).expect_err(told);
        assert!(cause.contains(told), "{cause}");
    }
    let twice = [assigned("user", &[]), assigned("user", &[])];
    for (resources, told) in [
        (&twice[..], "`user` is assigned twice"),
        (&[assigned("", &[])], "has no cluster_name"),
        (&[Bytes::from_static(b"\x0a\xff")], "a resource cannot be read"),
    ] {
        let cause = assignment::read(&answer(1, "n1", resources, false), "user", None);
        let cause = cause.expect_err(told);
        assert!(cause.contains(told), "{cause}");
    }
    let envelope = messages::Wrapped { name: "user".to_owned(), ..Default::default() };
    let (type_url, value) = (messages::WRAPPED.to_owned(), envelope.encode_to_vec().into());
    let mut heartbeat = answer(1, "n1", &[], false);
    heartbeat.resources.push(messages::Packed { type_url, value }.encode_to_vec().into());
    assert_eq!(assignment::read(&heartbeat, "user", None), Ok(None), "it lives on as it was");
    let mut other = answer(1, "n1", &[], false);
    other.resources.push(
        messages::Packed { type_url: "x".into(), ..Default::default() }.encode_to_vec().into(),
    );
    let cause = assignment::read(&other, "user", None).expect_err("another type");
    assert!(cause.contains("has the type `x`"), "{cause}");
    let wrapped = answer(1, "n1", &[assigned("user", &[group(&[good])])], true);
    let read = assignment::read(&wrapped, "user", None).expect("in an envelope").expect("named");
    assert_eq!(read.instances.len(), 1);
}

/// D3: what is lawful and of no use to us is left out and told; the rest is used.
#[test]
fn what_is_of_no_use_is_left_out() {
    let place =
        |place: Whereabouts| Member { endpoint: Some(At { address: Some(place) }), ..member(0) };
    let some = || Some(Bytes::new());
    let named = Socket {
        address: "10.0.0.1".to_owned(),
        port_value: None,
        named_port: Some("http".to_owned()),
    };
    let table = [
        (place(Whereabouts { pipe: some(), ..Default::default() }), "in a file system"),
        (
            place(Whereabouts { envoy_internal_address: some(), ..Default::default() }),
            "inside Envoy",
        ),
        (place(Whereabouts { socket_address: Some(named), ..Default::default() }), "`http`"),
        (
            Member { endpoint: None, endpoint_name: Some("a".to_owned()), ..member(0) },
            "by its name",
        ),
    ];
    for (member, told) in table {
        let read = read(&[group(&[member, self::member(2)])], None).expect("an assignment");
        assert_eq!(read.instances.len(), 1, "{told}");
        let cause = read.left_out.expect(told);
        assert!(cause.contains(told), "{cause}");
    }
    let elsewhere = Group { elsewhere: some(), ..group(&[member(1)]) };
    let read = read(&[elsewhere], None).expect("an assignment");
    assert!(read.left_out.is_some_and(|cause| cause.contains("LEDS")));
}

/// A lawful answer that has a little of everything.
fn rich() -> Vec<u8> {
    let weighed = Member { load_balancing_weight: number(3), ..health(2, 5) };
    let near = Group {
        locality: zone("a"),
        load_balancing_weight: number(2),
        ..group(&[member(1), weighed, health(3, 3)])
    };
    let far = Group { priority: 1, ..group(&[member(4)]) };
    answer(1, "n1", &[assigned("user", &[near, far])], true).encode_to_vec()
}

proptest! {
    /// O5, D3: any bytes are refused or read, and never make endpoints of what names none; what is left of a
    /// damaged answer keeps the bounds of any other.
    #[test]
    fn any_bytes_are_refused_or_read(
        bytes in proptest::collection::vec(any::<u8>(), 0..256),
        at in any::<prop::sample::Index>(),
        cut in any::<prop::sample::Index>(),
    ) {
        if let Ok(response) = Response::decode(&bytes[..]) {
            prop_assert!(!matches!(assignment::read(&response, "user", None), Ok(Some(_))));
        }
        let named = answer(1, "n1", &[bytes.clone().into()], false);
        if let Ok(Some(read)) = assignment::read(&named, "user", None) {
            prop_assert!(read.instances.iter().all(|one| one.address.port() != 0));
        }
        let mut damaged = rich();
        let at = at.index(damaged.len());
        for (place, byte) in damaged.iter_mut().skip(at).zip(bytes.iter().take(3)) {
            *place = *byte;
        }
        damaged.truncate(cut.index(damaged.len()).max(at));
        let read = Response::decode(&damaged[..]).map(|it| assignment::read(&it, "user", None));
        if let Ok(Ok(Some(read))) = read {
            for one in &read.instances {
                prop_assert!(one.address.port() != 0 && (1..=1000).contains(&one.weight.0));
                prop_assert!(one.zone.as_ref().is_none_or(|zone| zone.len() <= 253));
            }
        }
    }
}
