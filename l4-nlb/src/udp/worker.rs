//! What one worker does with a batch: finds or makes the flow of each datagram and sends it on.
//! Not for waiting. Called by the plane's loop.
//!
//! Invariant: a flow keeps its endpoint while that lives and the configuration has it.

mod handover;
mod talkers;
mod tape;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use common::net::batch::{Arrival, Batch, Outgoing, Sender};
use common::net::proxy_protocol::{self, Addresses};
use common::net::sys::{self, Poller, Ready};
use common::observe::Observer;
use common::service::InFlight;
use common::service::events::EndpointEjected;
use tokio::net::UdpSocket;
use tokio::time::Instant;
use topology::l4::OnDown;

use super::expiry::Tick;
use super::flow::{Client, FlowId, Flows};
use super::ports::{self, Budget, Family, PortId, Ports};
use super::roster::{MemberId, Roster};
use crate::gate::packets::Packets;
use crate::gate::{Pass, Refusal};
use crate::meters::Direction;
use crate::select::FlowKey;
use crate::snapshot::{Lane, LaneSource};

/// All that one worker knows of one listener.
#[derive(Debug)]
pub(super) struct Worker {
    source: LaneSource,
    lane: Arc<Lane>,
    local: SocketAddr,
    observer: Observer,
    start: Instant,
    flows: Flows<Flow>,
    ports: Ports,
    roster: Roster,
    packets: Packets,
    draining: bool,
    ready: Vec<Ready>,
    origins: Vec<PortId>,
    sender: Sender,
    /// Datagrams with a header of ours before them.
    framed: Vec<u8>,
}

/// What is kept for a flow.
#[derive(Debug)]
struct Flow {
    seat: Option<Seat>,
    pass: Pass,
    /// Bytes that were passed on.
    up: u64,
    down: u64,
    began: Tick,
    /// Whom a trusted peer's header has named, where that is not the peer.
    named: Option<Box<SocketAddr>>,
}

impl Flow {
    fn new(pass: Pass, began: Tick) -> Self {
        Self { seat: None, pass, up: 0, down: 0, began, named: None }
    }
}

// A hundred thousand players must be no matter of memory.
const _: () = assert!(Flows::<Flow>::COST <= 224);

/// Where a datagram goes.
struct Upstream<'b> {
    port: PortId,
    to: SocketAddr,
    payload: &'b [u8],
    /// What a PROXY header before it says (N6).
    header: Option<Addresses>,
}

/// A flow's endpoint, and the socket that it uses towards it.
#[derive(Debug)]
struct Seat {
    member: MemberId,
    port: PortId,
    _in_flight: InFlight,
}

impl Worker {
    pub(super) fn new(
        source: LaneSource,
        local: SocketAddr,
        budget: Budget,
        observer: Observer,
    ) -> io::Result<Self> {
        let (lane, start) = (source.lane(), Instant::now());
        let packets = Packets::new(&lane.rules, start);
        let mut worker = Self {
            source,
            lane,
            local,
            observer,
            start,
            flows: Flows::new(),
            ports: Ports::new(budget)?,
            roster: Roster::default(),
            packets,
            draining: false,
            ready: Vec::new(),
            origins: Vec::new(),
            sender: Sender::new(),
            framed: Vec::new(),
        };
        worker.meet(Tick(0));
        Ok(worker)
    }

    pub(super) fn poller(&self) -> Rc<Poller> {
        self.ports.poller()
    }

    /// Takes no new flows from now on.
    pub(super) fn drain(&mut self) {
        self.draining = true;
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining
    }

    /// Drained: the last flow has gone quiet.
    pub(super) fn is_done(&self) -> bool {
        self.draining && self.flows.is_empty()
    }

    /// Client → endpoint.
    pub(super) fn pass_up(&mut self, batch: &Batch, now: Instant) {
        self.refresh(now);
        self.help(self.tick(now));
        let mut sends: Vec<(PortId, Outgoing<'_>)> = Vec::with_capacity(Batch::CAPACITY);
        let mut framed = std::mem::take(&mut self.framed);
        framed.clear();
        let mut ranges = Vec::new();
        for (arrival, bytes) in batch.iter() {
            let found = self.upstream_of(arrival, bytes, now);
            if let Ok(upstream) = &found {
                self.tape_up(arrival, upstream.payload);
            }
            match found {
                Ok(Upstream { port, to, payload, header: None }) => {
                    sends.push((port, Outgoing { bytes: payload, to, from: None }));
                }
                Ok(Upstream { port, to, payload, header: Some(addresses) }) => {
                    let start = framed.len();
                    proxy_protocol::v2_datagram(addresses, &mut framed);
                    framed.extend_from_slice(payload);
                    ranges.push((port, to, start..framed.len()));
                }
                Err(refusal) => self.lane.meters.refused(refusal),
            }
        }
        sends.extend(ranges.into_iter().filter_map(|(port, to, range)| {
            Some((port, Outgoing { bytes: framed.get(range)?, to, from: None }))
        }));
        // Those of one socket leave by one call; a stable sort keeps each flow's order.
        sends.sort_by_key(|&(port, _)| port);
        let (ports, datagrams): (Vec<PortId>, Vec<Outgoing<'_>>) = sends.into_iter().unzip();
        let mut rest = datagrams.as_slice();
        for run in ports.chunk_by(PartialEq::eq) {
            let (datagrams, after) = rest.split_at_checked(run.len()).unwrap_or((rest, &[]));
            if let Some(&port) = run.first() {
                self.send_up(port, datagrams, now);
            }
            rest = after;
        }
        drop(datagrams);
        self.framed = framed;
    }

    /// Endpoint → client; says whether more may wait.
    pub(super) fn pass_down(&mut self, batch: &mut Batch, to: &UdpSocket, now: Instant) -> bool {
        let mut ready = std::mem::take(&mut self.ready);
        ready.clear();
        let count = self.ports.poller().ready(&mut ready).unwrap_or_default();
        let mut more = count == Batch::CAPACITY;
        batch.clear();
        for Ready { token, error } in &ready {
            let port = PortId(*token);
            if *error {
                more |= self.take_errors(port, now) == Batch::CAPACITY;
            }
            let Some(socket) = self.ports.socket(port) else { continue };
            let received = match batch.receive_most(socket, FEW) {
                Ok(FEW) => batch.receive(socket),
                other => other,
            };
            self.origins.resize(batch.len(), port);
            match received {
                Ok(_) => {}
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => {
                    self.take_errors(port, now);
                    more = true;
                }
            }
            if batch.is_full() {
                self.answer(batch, to, now);
                more = true;
            }
        }
        self.answer(batch, to, now);
        self.ready = ready;
        more
    }

    /// Ends flows that have been quiet for too long; meets a new snapshot where nothing moves.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.refresh(now);
        self.help(self.tick(now));
        let quiet = if self.draining {
            DRAIN_QUIET.min(self.lane.rules.idle)
        } else {
            self.lane.rules.idle
        };
        let (tick, quiet) = (self.tick(now), Tick::count(quiet).max(1));
        for _ in 0..SWEEP_MOST {
            let Some(id) = self.flows.expired(tick, quiet) else { return };
            drop(self.end(id, tick));
        }
    }

    /// Sends what the batch holds to the clients, and empties it.
    fn answer(&mut self, batch: &mut Batch, socket: &UdpSocket, now: Instant) {
        let tick = self.tick(now);
        let origins = std::mem::take(&mut self.origins);
        let mut datagrams = Vec::with_capacity(origins.len());
        for ((arrival, bytes), &port) in batch.iter().zip(&origins) {
            match self.flow_of(port, arrival) {
                Some((id, Client { peer, local })) => {
                    self.flows.heard_endpoint(id, tick);
                    if let Some(flow) = self.flows.value(id) {
                        flow.down += bytes.len() as u64;
                    }
                    self.tape_down(peer, local, bytes);
                    datagrams.push(Outgoing { bytes, to: peer, from: local });
                }
                None => self.lane.meters.stranger(),
            }
        }
        let mut rest = datagrams.as_slice();
        while !rest.is_empty() {
            let sent = match self.sender.send(socket, rest) {
                Ok(sent) => sent,
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => {
                    self.lane.meters.lost(rest.len() as u64);
                    break;
                }
                Err(_) => {
                    self.lane.meters.lost(1);
                    rest = rest.get(1..).unwrap_or_default();
                    continue;
                }
            };
            rest = self.count(Direction::Down, rest, sent);
        }
        drop(datagrams);
        batch.clear();
        self.origins = origins;
        self.origins.clear();
    }

    /// The flow that an endpoint's datagram belongs to.
    fn flow_of(&self, port: PortId, arrival: &Arrival) -> Option<(FlowId, Client)> {
        if arrival.truncated {
            return None;
        }
        let member = self.roster.find(&arrival.peer)?;
        let id = self.ports.flow(port, member)?;
        self.roster.member(member)?.endpoint.state.report_success();
        Some((id, self.flows.client(id)?))
    }

    /// Where a client's datagram goes: its flow's endpoint, or that of a new flow.
    fn upstream_of<'b>(
        &mut self,
        arrival: &Arrival,
        bytes: &'b [u8],
        now: Instant,
    ) -> Result<Upstream<'b>, Refusal> {
        if arrival.truncated || !self.answerable(arrival) {
            return Err(Refusal::Malformed);
        }
        let (source, payload) = self.named(arrival, bytes)?;
        if !self.packets.admit(source.ip(), now) {
            return Err(Refusal::Packets);
        }
        let tick = self.tick(now);
        let local = arrival.local.filter(|_| self.local.ip().is_unspecified());
        let client = Client { peer: arrival.peer, local };
        let key = FlowKey {
            client: source,
            local: SocketAddr::new(arrival.local.unwrap_or(self.local.ip()), self.local.port()),
        };
        let named = Some(source).filter(|source| *source != arrival.peer);
        let known = self
            .flows
            .find(&client)
            .filter(|&id| !self.forgotten(id, tick, now) && !self.another(id, named, tick));
        let (id, (port, to)) = match known {
            Some(id) => {
                self.flows.heard_client(id, tick);
                match self.seat_of(id, now) {
                    Some(seat) => (id, seat),
                    None => (id, self.sit(id, key, now)?),
                }
            }
            None => {
                let id = self.begin(client, source.ip(), tick)?;
                // A flow that finds no seat ends at once.
                (id, self.sit(id, key, now).inspect_err(|_| drop(self.end(id, tick)))?)
            }
        };
        if let Some(flow) = self.flows.value(id) {
            flow.up += payload.len() as u64;
            if known.is_none() {
                flow.named = named.map(Box::new);
            }
        }
        let header = self.lane.rules.proxy_protocol.map(|_| {
            let FlowKey { client: source, local: destination } = key;
            Addresses { source, destination }
        });
        Ok(Upstream { port, to, payload, header })
    }

    /// Who sent it, and what: of a trusted peer's datagram the header says who.
    fn named<'b>(
        &self,
        arrival: &Arrival,
        bytes: &'b [u8],
    ) -> Result<(SocketAddr, &'b [u8]), Refusal> {
        if !self.lane.gate.trusts(arrival.peer.ip()) {
            return Ok((arrival.peer, bytes));
        }
        let header = proxy_protocol::parse_datagram(bytes).map_err(|_| Refusal::Header)?;
        let source = header.addresses.map_or(arrival.peer, |addresses| addresses.source);
        Ok((source, bytes.get(header.length..).unwrap_or_default()))
    }

    /// With `on-down: reset` a flow ends with its endpoint; says whether it did now.
    fn forgotten(&mut self, id: FlowId, tick: Tick, now: Instant) -> bool {
        let reset = self.lane.rules.on_down == OnDown::Reset && self.seat_of(id, now).is_none();
        reset && self.end(id, tick).is_some()
    }

    /// A proxy uses its sockets for one client after the other: the flow of a client that is named no
    /// more ends; says whether it did now.
    fn another(&mut self, id: FlowId, named: Option<SocketAddr>, tick: Tick) -> bool {
        let before = self.flows.peek(id).and_then(|flow| flow.named.as_deref().copied());
        before != named && self.end(id, tick).is_some()
    }

    /// A datagram that claims to come from the listener itself would loop; one from port 0 has
    /// nobody to answer to.
    fn answerable(&self, arrival: &Arrival) -> bool {
        let own = SocketAddr::new(arrival.local.unwrap_or(self.local.ip()), self.local.port());
        arrival.peer.port() != 0 && arrival.peer != own
    }

    /// The flow's seat while its endpoint lives, is configured, or nobody else lives either.
    fn seat_of(&mut self, id: FlowId, now: Instant) -> Option<(PortId, SocketAddr)> {
        let seat = self.flows.value(id)?.seat.as_ref()?;
        let member = self.roster.member(seat.member)?;
        let stays = self.lane.rules.on_down == OnDown::Keep
            || member.endpoint.state.alive(now)
            || self.lane.service.panicking(now);
        (member.current && stays).then_some((seat.port, member.endpoint.address))
    }

    /// Admits a new flow; in a full listener one that has not proved itself makes room.
    fn begin(&mut self, client: Client, source: IpAddr, tick: Tick) -> Result<FlowId, Refusal> {
        if self.draining {
            return Err(Refusal::Draining);
        }
        let lane = self.lane.clone();
        lane.gate.screen(source)?;
        let pass = match lane.gate.count(source) {
            Err(Refusal::Full) => match self.give_up(tick) {
                Some(freed) => freed.hand_over(&lane.gate, source)?,
                None => {
                    lane.gate.want();
                    return Err(Refusal::Full);
                }
            },
            other => other?,
        };
        Ok(self.flows.insert(client, Flow::new(pass, tick), tick).0)
    }

    /// Ends a flow that has not proved itself; the place that it had.
    fn give_up(&mut self, tick: Tick) -> Option<Pass> {
        let freed = self.end(self.flows.expendable()?, tick)?;
        self.lane.meters.evicted();
        Some(freed)
    }

    /// Frees places that other workers ask for: their new clients must not wait for this one's
    /// unproved flows to go quiet.
    fn help(&mut self, tick: Tick) {
        for _ in 0..self.lane.gate.wanted() {
            let Some(freed) = self.give_up(tick) else { return };
            drop(freed);
            self.lane.gate.granted();
        }
    }

    /// Chooses an endpoint and a socket for a flow that has none, or whose endpoint died.
    fn sit(
        &mut self,
        id: FlowId,
        key: FlowKey,
        now: Instant,
    ) -> Result<(PortId, SocketAddr), Refusal> {
        let tick = self.tick(now);
        if self.stand(id, tick) {
            self.lane.meters.moved();
        }
        let index = self.lane.selector.select(&self.lane.service, key, &[]);
        let member = index.and_then(|index| self.roster.at(index)).ok_or(Refusal::Endpoint)?;
        let port = self.pair(id, member, key.client, tick).ok_or(Refusal::Ports)?;
        let known = self.roster.member_mut(member).ok_or(Refusal::Endpoint)?;
        known.flows += 1;
        let (to, in_flight) = (known.endpoint.address, known.endpoint.state.enter());
        known.endpoint.state.count_flow();
        if let Some(flow) = self.flows.value(id) {
            flow.seat = Some(Seat { member, port, _in_flight: in_flight });
        }
        Ok((port, to))
    }

    /// A socket for a flow to this endpoint. When no more can be opened, flows that have not proved
    /// themselves and have been quiet for long enough give theirs up: a flood must not lock new
    /// clients out.
    fn pair(
        &mut self,
        id: FlowId,
        member: MemberId,
        client: SocketAddr,
        tick: Tick,
    ) -> Option<PortId> {
        for _ in 0..GIVE_UP_MOST {
            let port = if self.lane.rules.transparent {
                self.ports.take_as(client, member, id)
            } else {
                self.ports.take(member, id, tick)
            };
            if let Some(port) = port.ok()? {
                return Some(port);
            }
            let oldest = self.flows.expendable()?;
            if tick.since(self.flows.heard(oldest)?) < ports::REST {
                return None;
            }
            drop(self.end(oldest, tick));
            self.lane.meters.evicted();
        }
        None
    }

    /// Gives a flow's seat up; says whether it had one.
    fn stand(&mut self, id: FlowId, tick: Tick) -> bool {
        let Some(seat) = self.flows.value(id).and_then(|flow| flow.seat.take()) else {
            return false;
        };
        self.release(&seat, tick);
        true
    }

    /// Forgets a flow; its pass is the caller's to drop or to hand over.
    fn end(&mut self, id: FlowId, tick: Tick) -> Option<Pass> {
        // Since then nothing was sent to the endpoint: the pair rests already.
        let heard = self.flows.heard(id).unwrap_or(tick);
        let Flow { seat, pass, .. } = self.flows.remove(id)?;
        if let Some(seat) = seat {
            self.release(&seat, heard);
        }
        Some(pass)
    }

    fn release(&mut self, seat: &Seat, tick: Tick) {
        self.ports.give(seat.port, seat.member, tick);
        if let Some(member) = self.roster.member_mut(seat.member) {
            member.flows = member.flows.saturating_sub(1);
        }
    }

    /// Sends datagrams by one upstream socket.
    fn send_up(&mut self, port: PortId, mut rest: &[Outgoing<'_>], now: Instant) {
        while !rest.is_empty() {
            let Some(sent) = self.ports.socket(port).map(|socket| self.sender.send(socket, rest))
            else {
                return;
            };
            match sent {
                Ok(sent) => rest = self.count(Direction::Up, rest, sent),
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => {
                    self.lane.meters.lost(rest.len() as u64);
                    return;
                }
                // The error of an earlier datagram is reported by the next call; then this one
                // was not tried and is sent again. Else the error is its own.
                Err(_) if self.take_errors(port, now) > 0 => {}
                Err(_) => {
                    self.lane.meters.lost(1);
                    rest = rest.get(1..).unwrap_or_default();
                }
            }
        }
    }

    /// Counts the first `sent` and returns the others.
    fn count<'a, 'b>(
        &self,
        direction: Direction,
        datagrams: &'a [Outgoing<'b>],
        sent: usize,
    ) -> &'a [Outgoing<'b>] {
        let (done, rest) = datagrams.split_at_checked(sent.max(1)).unwrap_or((datagrams, &[]));
        let bytes = done.iter().map(|datagram| datagram.bytes.len() as u64).sum();
        self.lane.meters.datagrams(direction, done.len() as u64, bytes);
        rest
    }

    /// An ICMP error counts (N4) as a failure of the endpoint that the datagram was sent to.
    fn take_errors(&mut self, port: PortId, now: Instant) -> usize {
        let mut taken = 0;
        while taken < Batch::CAPACITY {
            let Some(socket) = self.ports.socket(port) else { break };
            let Ok(Some(unreachable)) = sys::take_unreachable(socket) else { break };
            taken += 1;
            let member = self.roster.find(&unreachable.to).and_then(|id| self.roster.member(id));
            let Some(endpoint) = member.map(|member| &member.endpoint) else { continue };
            endpoint.state.count_failure();
            if let Some(length) = endpoint.state.report_failure(now) {
                let cause = io::Error::from_raw_os_error(unreachable.errno).to_string();
                self.observer.emit(EndpointEjected {
                    service: self.lane.service.name.as_str(),
                    endpoint: endpoint.name.as_str(),
                    cause: &cause,
                    length,
                });
            }
        }
        taken
    }

    /// Takes over a newly published lane.
    fn refresh(&mut self, now: Instant) {
        if let Some(lane) = self.source.changed(&self.lane) {
            self.lane = lane;
            self.packets.change(&self.lane.rules);
            self.meet(self.tick(now));
        }
    }

    /// Learns the lane's endpoints.
    fn meet(&mut self, tick: Tick) {
        for id in self.roster.update(&self.lane.service) {
            if let Some(member) = self.roster.member(id) {
                self.ports.admit(id, Family::of(member.endpoint.address), tick);
            }
        }
    }

    /// Ticks begin at 1: tick 0 stands for "never used".
    fn tick(&self, now: Instant) -> Tick {
        Tick(Tick::after(now.saturating_duration_since(self.start)).0 + 1)
    }
}

/// Answers that are asked for at first: most sockets have one.
const FEW: usize = 4;

/// Flows that one new flow may end, at most: their sockets may all be towards other endpoints.
const GIVE_UP_MOST: usize = 16;

/// UDP has no end: while draining, a flow that is quiet for so long has finished.
const DRAIN_QUIET: Duration = Duration::from_secs(2);

/// Flows ended in one sweep at most.
const SWEEP_MOST: usize = 8192;
