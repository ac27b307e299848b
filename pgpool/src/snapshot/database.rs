//! A database of the running configuration: by what name, where, how, with which limits. Not for reading it from the
//! file: that is the snapshot's. Held by pools and clients.
//!
//! Invariant: the counts of a name outlive a reload.

use std::sync::Arc;

use common::secret::Secret;
use topology::pool::{DatabaseTerms, HostOrder, PoolMode, Prelude, ServerAddress};

use super::{ANY, Bounds, Count, Lookup, User};
use crate::family::Membership;
use crate::readiness::Sign;
use crate::server::tls::Security;

/// A database as clients name it.
pub struct Database {
    /// The name that clients use.
    pub name: String,
    /// The name on the server.
    pub server_name: String,
    /// Where its servers are; one for a primary.
    pub servers: Vec<ServerAddress>,
    /// Which of several a new connection goes to.
    pub order: HostOrder,
    /// Whether these are replicas.
    pub is_replica: bool,
    /// Its place in a family of a primary and replicas.
    pub membership: Option<Membership>,
    /// How these are reached.
    pub security: Arc<Security>,
    /// What these are told before anybody uses them.
    pub prelude: Arc<Prelude>,
    /// When a server connection goes back.
    pub mode: PoolMode,
    /// Server connections per user.
    pub pool_size: u32,
    /// Server connections per user, whatever a user is granted.
    pub most_per_user: u32,
    /// What holds for it in place of what holds for all.
    pub terms: DatabaseTerms,
    /// Given whenever one of its servers has answered.
    pub sign: Arc<Sign>,
    /// Server connections of all users together.
    pub connections: Arc<Count>,
    /// Clients of all users together.
    pub clients: Arc<Count>,
    /// Who logs in to its servers, whoever the client is.
    pub(super) login: Option<Arc<User>>,
    /// What is proved to its servers, for every role.
    pub(super) password: Option<Secret>,
    /// Where roles are looked up that are not among the users.
    pub(super) lookup: Option<Arc<Lookup>>,
}

impl Database {
    /// Whether it has no client and no server, on any worker.
    pub fn is_deserted(&self) -> bool {
        self.connections.now() == 0 && self.clients.now() == 0
    }

    /// What its pools have in common with those of its alias: they are at home together.
    pub fn family_name(&self) -> &str {
        self.membership.as_ref().map_or(&self.name, |membership| membership.family.name())
    }

    /// Counts of one by the name that a client has given, with the bounds that hold now.
    pub(super) fn counts(&self, known: &Self, bounds: &mut Bounds) -> (Arc<Count>, Arc<Count>) {
        let mut again = |count, like| {
            let most = bounds.most(like);
            bounds.again(Some(count), most)
        };
        let connections = again(&known.connections, &self.connections);
        (connections, again(&known.clients, &self.clients))
    }

    /// The same under the name that a client has given.
    pub(super) fn named(
        &self,
        name: &str,
        (connections, clients): (Arc<Count>, Arc<Count>),
    ) -> Self {
        let own = self.server_name != ANY;
        Self {
            name: name.to_owned(),
            server_name: if own { self.server_name.clone() } else { name.to_owned() },
            servers: self.servers.clone(),
            login: self.login.clone(),
            password: self.password.clone(),
            lookup: self.lookup.clone(),
            membership: None,
            security: Arc::clone(&self.security),
            prelude: Arc::clone(&self.prelude),
            sign: Arc::default(),
            connections,
            clients,
            ..*self
        }
    }

    /// The same for lookups: over few connections, by whoever asks.
    pub fn asked(&self, most: u32) -> Self {
        Self {
            mode: PoolMode::Transaction,
            most_per_user: most,
            membership: self.membership.clone(),
            sign: Arc::clone(&self.sign),
            ..self.named(&self.name, (Arc::clone(&self.connections), Arc::clone(&self.clients)))
        }
    }

    /// Whether its servers see the client's own role, proved by the client itself.
    pub fn passes_clients_on(&self) -> bool {
        self.login.is_none() && self.password.is_none()
    }

    /// Whether a server connection of the one would do for the other.
    pub fn reaches_as(&self, other: &Self) -> bool {
        let family = |database: &Self| {
            let membership = database.membership.as_ref();
            membership.map(|membership| (Arc::as_ptr(&membership.family), membership.role))
        };
        self.servers == other.servers
            && self.server_name == other.server_name
            && family(self) == family(other)
            && self.security.terms == other.security.terms
            && self.prelude == other.prelude
    }
}
