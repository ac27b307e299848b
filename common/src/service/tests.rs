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
