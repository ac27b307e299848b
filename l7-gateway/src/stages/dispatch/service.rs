//! A service as all workers of the instance share it: its model, the state of its endpoints, the
//! choice among them. Not for connections: each worker has its own (`upstream`). Called by
//! `snapshot` (build) and by each worker's pool.
//!
//! Invariant: the endpoints' order is that of the topology file, so an index means the same
//! everywhere.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use common::balance::{Balancer, HashKey};
use common::service::Service;
use common::tls::{TlsError, client};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use topology::gateway::{self, Unplaced as _, UpstreamTls};

/// Where routes lead.
#[derive(Debug)]
pub struct Upstream {
    /// What the topology file says.
    pub model: gateway::Upstream,
    /// Endpoints with their state.
    pub service: Arc<Service>,
    /// TLS towards it; `None`: plain.
    pub tls: Option<Secured>,
    balancer: Balancer,
}

/// How connections to a service are secured.
#[derive(Debug)]
pub struct Secured {
    config: Arc<ClientConfig>,
    /// The name that is asked for; `None`: each endpoint's address.
    name: Option<ServerName<'static>>,
}

impl Secured {
    fn new(tls: &UpstreamTls) -> Result<Self, TlsError> {
        let name = tls.name.as_ref().map(|at| {
            ServerName::try_from(at.value.clone()).map_err(|fault| TlsError::Refused {
                what: "name",
                place: at.place,
                reason: fault.to_string(),
            })
        });
        let config = client::for_service(tls, &[b"http/1.1"])?;
        Ok(Self { config, name: name.transpose()? })
    }

    /// The handshake on a new connection.
    pub async fn secure(
        &self,
        stream: TcpStream,
        endpoint: SocketAddr,
    ) -> io::Result<TlsStream<TcpStream>> {
        let name = self.name.clone().unwrap_or_else(|| ServerName::from(endpoint.ip()));
        TlsConnector::from(Arc::clone(&self.config)).connect(name, stream).await
    }
}

impl Upstream {
    /// Every endpoint starts healthy; what `before` knows of one that is still there is kept.
    ///
    /// # Errors
    /// When what its TLS needs cannot be read.
    pub fn new(model: &gateway::Upstream, before: &[Arc<Self>]) -> Result<Arc<Self>, TlsError> {
        // Certificates are read again: the files may have changed.
        let tls = model.tls.as_ref().map(Secured::new).transpose()?;
        let same = |old: &&Arc<Self>| old.model.unplaced() == model.unplaced();
        if let Some(known) = before.iter().find(same).filter(|_| tls.is_none()) {
            return Ok(Arc::clone(known));
        }
        let akin =
            |old: &&Arc<Self>| old.model.service == model.service && old.model.via == model.via;
        let service = topology::Service {
            name: model.service.clone(),
            endpoints: model.endpoints.clone(),
            discover: None,
            panic_threshold: topology::units::Percent::default(),
            slow_start: None,
            health: model.health.clone(),
            run: None,
            uses: Vec::new(),
            place: model.endpoints.first().map(|e| e.place).unwrap_or_default(),
        };
        let service = before
            .iter()
            .find(akin)
            .map_or_else(|| Service::new(&service), |old| old.service.update(&service));
        let names = model.endpoints.iter().map(|endpoint| endpoint.name.as_str());
        let balancer = Balancer::new(model.balance, &service, HashKey::from_names(names));
        Ok(Arc::new(Self { model: model.clone(), service, tls, balancer }))
    }

    /// The endpoint for the next attempt: one that was not tried yet, else any again.
    pub fn select(&self, tried: &[usize], now: Instant) -> Option<usize> {
        let again = || self.balancer.select_at(&self.service, 0, &[], now);
        self.balancer.select_at(&self.service, 0, tried, now).or_else(again)
    }
}
