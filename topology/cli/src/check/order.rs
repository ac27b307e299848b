//! The filters of every route, in the order in which its requests and answers pass them. Which that is the gateway
//! says. Called by `check`.
//!
//! Invariant: routes in the order of the file.

use l7_gateway::order::{Order, Placed};
use serde_json::{Value, json};
use topology::Topology;

use crate::explain::gateway::listed;

/// A route, as `GROUP ROUTE`, and its filters.
pub(super) type Of = (String, Order);

/// Of all routes of all gateways.
pub(super) fn of(topology: &Topology) -> Vec<Of> {
    let routes = topology.gateways.iter().flat_map(|group| {
        let named = move |route| (group, route);
        group.routes.iter().map(named)
    });
    let one = |(group, route): (&topology::gateway::Group, &topology::gateway::Route)| {
        (format!("{} {}", group.name, route.name), Order::of_all(group, route))
    };
    routes.map(one).collect()
}

/// For people.
pub(super) fn text(orders: &[Of]) -> String {
    let one = |(name, order): &Of| {
        let (request, answer) = (listed(&order.request), listed(&order.answer));
        format!("{name}\n  request: {request}\n  answer:  {answer}\n")
    };
    orders.iter().map(one).collect()
}

/// For programs.
pub(super) fn json(orders: &[Of]) -> Value {
    let texts = |all: &[Placed]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
    let one = |(name, order): &Of| json!({ "route": name, "request": texts(&order.request), "answer": texts(&order.answer) });
    orders.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// G2: each filter stands at its place, of whichever listener, consumer, route and service it is.
    #[test]
    fn filters_are_printed_in_their_order() {
        let file = "aqueduct: 1
services: { user: { endpoints: [127.0.0.1:8001] }, next: { endpoints: [127.0.0.1:8002] } }
gateways:
  app:
    instances: { gw: { listen: 127.0.0.1:8000 } }
    api-keys: { partners: { from: \"file:keys\", header: X-API-Key } }
    limits:
      burst: { by: address, rate: 100/s }
      share: { by: consumer, rate: 10/s }
    defaults:
      limits: [burst]
      external: { url: \"http://127.0.0.1:7000/\", answers: true }
      transform: { request: { headers: { set: { x-a: a } } } }
    consumers:
      acme: { transform: { response: { headers: { set: { x-b: b } } } }, compress: true }
    upstreams:
      user: { transform: { request: { body: { json: [{ remove: a }] } } }, compress: true }
    routes:
      - name: shop
        path: /shop/*
        to: user
        auth: partners
        scopes: [read]
        limits: [share]
        cors: { origins: \"*\" }
        cache: { fresh: 1s }
        split: [{ to: next, part: 5% }]
        external: { url: \"http://127.0.0.1:7001/\" }
        sunset: 2999-12-31
        response-headers: { x-c: c }
      - { name: old, path: /old, redirect: { to: /shop/ }, auth: none, limits: [] }
";
        let topology = topology::parse("a.yaml", file, Path::new("/"));
        let topology = topology.unwrap_or_else(|problems| panic!("{problems}"));
        let orders = of(&topology);
        let shown = text(&orders);
        assert_eq!(shown, include_str!("order.golden"), "{shown}");
        let json = json(&orders);
        assert_eq!(json[1]["route"], "app old");
        assert_eq!(json[0]["request"][0], "2 cors (the route)");
    }
}
