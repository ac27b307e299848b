//! Tests of endpoint state: counting, ejection, drain, update.

use std::time::Duration;

use topology::Place;

use super::*;

/// A service `s` with endpoints at 127.0.0.1 on the given ports, named by address.
pub(crate) fn service(ports: &[u16]) -> topology::Service {
    let endpoint = |&port: &u16| {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        topology::Endpoint {
            name: EndpointName::new(&address.to_string()),
            address,
            weight: Weight(1),
            zone: None,
            place: Place::default(),
        }
    };
    topology::Service {
        name: ServiceName::new("s"),
        endpoints: ports.iter().map(endpoint).collect(),
        discover: None,
        panic_threshold: topology::units::Percent(0),
        slow_start: None,
        health: None,
        run: None,
        uses: Vec::new(),
        place: Place::default(),
    }
}

/// N8: three failures in a row eject, a success between them does not.
#[tokio::test(start_paused = true)]
async fn failures_in_a_row_eject_for_a_growing_while() {
    let service = Service::new(&service(&[1]));
    let state = &service.endpoints[0].state;
    let now = Instant::now();
    assert_eq!(state.report_failure(now), None);
    assert_eq!(state.report_failure(now), None);
    state.report_success();
    assert_eq!(state.report_failure(now), None);
    assert_eq!(state.report_failure(now), None);
    assert_eq!(state.report_failure(now), Some(Duration::from_secs(1)));
    assert!(!state.selectable(now) && state.healthy());
    assert!(service.panicking(now));

    let later = now + Duration::from_secs(1);
    assert!(state.selectable(later), "an ejection ends by itself");
    assert_eq!(state.report_failure(later), Some(Duration::from_secs(2)), "and doubles");
    state.set_healthy(Health::Up);
    assert!(state.selectable(later), "an active check that passes forgives");
}

#[tokio::test(start_paused = true)]
async fn draining_keeps_known_flows() {
    let service = Service::new(&service(&[1]));
    let state = &service.endpoints[0].state;
    state.drain();
    assert!(state.alive(Instant::now()) && !state.selectable(Instant::now()));
    state.undrain();
    assert!(state.selectable(Instant::now()));
}

#[tokio::test(start_paused = true)]
async fn guards_count_what_is_in_flight() {
    let service = Service::new(&service(&[1]));
    let state = &service.endpoints[0].state;
    let (a, b) = (state.enter(), state.enter());
    assert_eq!(state.active(), 2);
    drop(a);
    drop(b);
    assert_eq!(state.active(), 0);
}

/// N3: a change of configuration keeps what is known about the endpoints that stay.
#[tokio::test(start_paused = true)]
async fn an_update_keeps_the_state_of_endpoints_that_stay() {
    let old = Service::new(&service(&[1, 2]));
    old.endpoints[1].state.set_healthy(Health::Down);
    let new = old.update(&service(&[3, 2]));
    assert!(Arc::ptr_eq(&new.endpoints[1], &old.endpoints[1]));
    assert!(new.endpoints[0].state.healthy());
}

/// Three failures of one kind at an endpoint.
fn fail(service: &Service, endpoint: usize, failing: Failing, now: Instant) -> Option<Duration> {
    service.report_failure(endpoint, failing, now);
    service.report_failure(endpoint, failing, now);
    service.report_failure(endpoint, failing, now)
}

/// G18: at most half of the endpoints are out for bad answers, and never the last one; those that cannot
/// be connected to are out whatever their number.
#[tokio::test(start_paused = true)]
async fn half_may_be_ejected_and_never_all() {
    let now = Instant::now();
    let four = Service::new(&service(&[1, 2, 3, 4]));
    let out = |endpoint| fail(&four, endpoint, Failing::Badly, now).is_some();
    assert_eq!([out(0), out(1), out(2), out(3)], [true, true, false, false]);
    let two = Service::new(&service(&[1, 2]));
    assert!(fail(&two, 0, Failing::Badly, now).is_some(), "one of two");
    assert!(fail(&two, 1, Failing::Badly, now).is_none(), "the last one");
    assert!(fail(&two, 1, Failing::Unreachable, now).is_some());
    assert!(two.endpoints[1].state.unreachable(now) && !two.endpoints[0].state.unreachable(now));
    let alone = Service::new(&service(&[1]));
    assert!(fail(&alone, 0, Failing::Badly, now).is_none());
}

/// G18: after an ejection one request at a time finds out; if it goes well all may come, if not the
/// endpoint is out for longer.
#[tokio::test(start_paused = true)]
async fn one_request_at_a_time_tries_an_ejected_endpoint() {
    let service = Service::new(&service(&[1, 2]));
    let state = &service.endpoints[0].state;
    assert!(matches!(state.admit(Instant::now()), Ok(None)));
    assert_eq!(fail(&service, 0, Failing::Badly, Instant::now()), Some(Duration::from_secs(1)));
    assert!(!service.report_success(0), "what began before says nothing");
    assert!(!state.selectable(Instant::now()));
    tokio::time::advance(Duration::from_secs(1)).await;
    let trial = state.admit(Instant::now());
    assert!(matches!(trial, Ok(Some(_))));
    assert!(!state.selectable(Instant::now()), "others keep away");
    assert_eq!(state.admit(Instant::now()).unwrap_err(), Tried);
    let again = service.report_failure(0, Failing::Badly, Instant::now());
    assert_eq!(again, Some(Duration::from_secs(2)));
    drop(trial);
    assert!(!state.selectable(Instant::now()));
    tokio::time::advance(Duration::from_secs(2)).await;
    let trial = state.admit(Instant::now());
    assert!(service.report_success(0), "it has returned");
    drop(trial);
    assert!(state.selectable(Instant::now()) && matches!(state.admit(Instant::now()), Ok(None)));
}

/// G18: an endpoint that comes and goes is out for longer each time, and is forgiven after a good while.
#[tokio::test(start_paused = true)]
async fn a_flapping_endpoint_is_out_for_longer_each_time() {
    let service = Service::new(&service(&[1, 2]));
    let mut lengths = Vec::new();
    for _ in 0..8 {
        let length = fail(&service, 0, Failing::Badly, Instant::now()).expect("out");
        lengths.push(length.as_secs());
        tokio::time::advance(length + Duration::from_millis(500)).await;
        assert!(service.report_success(0));
    }
    assert_eq!(lengths, [1, 2, 4, 8, 16, 32, 60, 60]);
    tokio::time::advance(Duration::from_secs(9 * 60)).await;
    assert_eq!(fail(&service, 0, Failing::Badly, Instant::now()), Some(Duration::from_secs(1)));
}

/// G18: an endpoint with as many in flight as it may have takes no more.
#[tokio::test(start_paused = true)]
async fn a_full_endpoint_is_passed_over() {
    use crate::balance::{Balancer, HashKey};
    let rules = Rules { most_active: NonZeroU32::new(1), ..Rules::default() };
    let service = Service::with(&service(&[1, 2]), rules);
    let key = HashKey::from_names(["s"]);
    let balancer = Balancer::new(topology::Balance::RoundRobin, &service, key);
    let busy = service.endpoints[0].state.enter();
    assert!((0..10).all(|_| balancer.select(&service, 0, &[]) == Some(1)));
    let _other = service.endpoints[1].state.enter();
    assert_eq!(balancer.select(&service, 0, &[]), None);
    drop(busy);
    assert_eq!(balancer.select(&service, 0, &[]), Some(0));
}
