//! How to reach the store of shared counters, one server or a cluster, and what is run there. Not for
//! when it is away: that is `redis` and, for what happens then, `rate_limit`. Called by `redis`.
//!
//! Invariant: a decision is waited for no longer than the store's timeout.

use std::fmt;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::cluster::ClusterClient;
use ::redis::cluster_async::ClusterConnection;
use ::redis::{RedisError, Script, ScriptInvocation};
use futures_util::future::join_all;
use tokio::time::timeout;
use topology::gateway::{LimitStore, WhenAway};

use crate::redis_server::{RedisServer, RedisServerError, patient};
use crate::stages::rate_limit::budget::{Budget, Standing, Verdict};

/// For connecting, logging in and loading the script.
const CONNECT: Duration = Duration::from_secs(1);

/// Most decisions of one worker that wait for a server at once.
const MOST_WAITING: usize = 4096;

/// Why the store made no decision.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be asked.
    #[error(transparent)]
    Server(#[from] RedisServerError),
    /// The nodes cannot be those of a cluster.
    #[error("these are no nodes of a Redis cluster")]
    Nodes,
    /// There is no connection at the moment.
    #[error("Redis is away")]
    Away,
    /// No answer in time.
    #[error("Redis did not answer in time")]
    Timeout,
    /// Redis answers with an error, or the connection broke.
    #[error("Redis: {0}")]
    Failed(#[from] RedisError),
    /// The answer is not the script's.
    #[error("Redis answered something else than was asked")]
    Odd,
}

/// How to reach the store and what to run there; shared by all workers.
#[derive(Debug)]
pub struct Store {
    /// Never empty.
    nodes: Vec<RedisServer>,
    /// Where there are several.
    cluster: Option<Box<ClusterClient>>,
    script: Script,
    timeout: Duration,
    when_away: WhenAway,
}

/// A connection to the store. Its driver runs on the runtime on which it was made; cheap to clone.
#[derive(Clone)]
pub enum Connection {
    /// To one server.
    One(MultiplexedConnection),
    /// To the nodes of a cluster; it finds the way by itself when slots move or nodes come back.
    Cluster(ClusterConnection),
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::One(_) => "One",
            Self::Cluster(_) => "Cluster",
        })
    }
}

/// What a store said.
#[derive(Debug)]
pub struct Decision {
    /// In the order of the charges; `None`: of this one it said nothing.
    pub standings: Vec<Option<Standing>>,
    /// Why not.
    pub fault: Option<StoreError>,
}

impl Store {
    /// For the store of a topology; connects to nothing yet. Blocking: it reads secrets.
    ///
    /// # Errors
    /// An address is not one of Redis, or a secret is not there.
    pub fn new(model: &LimitStore) -> Result<Self, StoreError> {
        let addresses = model.redis.iter().map(|at| at.value.as_str());
        let nodes = addresses.clone().map(|address| RedisServer::new(address, &model.login));
        let nodes = nodes.collect::<Result<Vec<_>, _>>()?;
        let cluster = (nodes.len() > 1).then(|| {
            // A decision that nobody waits for any more must not be sent twice.
            let mut client = ClusterClient::builder(addresses)
                .retries(0)
                .connection_timeout(CONNECT)
                .response_timeout(CONNECT);
            let (user, password) = nodes.first().map(RedisServer::credentials).unwrap_or_default();
            if let Some(user) = user {
                client = client.username(user);
            }
            if let Some(password) = password {
                client = client.password(password);
            }
            client.build().map(Box::new).map_err(|_| StoreError::Nodes)
        });
        let cluster = cluster.transpose()?;
        let script = Script::new(include_str!("../charge.lua"));
        Ok(Self { nodes, cluster, script, timeout: model.timeout, when_away: model.when_away })
    }

    /// What happens to requests while it is away.
    pub fn when_away(&self) -> WhenAway {
        self.when_away
    }

    /// Whether it is reached and asked in the same way.
    pub fn is_as(&self, other: &Self) -> bool {
        let timing = |store: &Self| (store.timeout, store.when_away);
        self.nodes == other.nodes && timing(self) == timing(other)
    }

    /// Whether limits of a request are charged apart, each where its key lives.
    pub fn is_cluster(&self) -> bool {
        self.cluster.is_some()
    }

    /// A connection on the calling runtime, logged in and with the script loaded; a second at most.
    ///
    /// # Errors
    /// Nobody answers, or not in time.
    pub async fn connect(&self) -> Result<Connection, StoreError> {
        let connected = async {
            if let Some(cluster) = &self.cluster {
                // Nodes get the script when they first need it: one that is away holds up nobody.
                return Ok(Connection::Cluster(cluster.get_async_connection().await?));
            }
            let config = patient()
                .set_pipeline_buffer_size(MOST_WAITING)
                .set_concurrency_limit(MOST_WAITING);
            let server = self.nodes.first().ok_or(StoreError::Away)?;
            let mut connection = server.connect(&config).await?;
            self.script.load_async(&mut connection).await?;
            Ok::<_, StoreError>(Connection::One(connection))
        };
        timeout(CONNECT, connected).await.map_err(|_| StoreError::Timeout)?
    }

    /// Decides on all of these counters: on one server all together, on a cluster each by itself and all
    /// at once. `now` is for tests: in microseconds, `None` means Redis's own clock. Cancel safe; what
    /// was charged stays charged.
    pub async fn charge(
        &self,
        connection: &mut Connection,
        charges: &[(String, Budget)],
        now: Option<u64>,
    ) -> Decision {
        match connection {
            Connection::One(server) => match self.run(server, charges, now).await {
                Ok(standings) => {
                    Decision { standings: standings.into_iter().map(Some).collect(), fault: None }
                }
                Err(fault) => Decision { standings: vec![None; charges.len()], fault: Some(fault) },
            },
            Connection::Cluster(nodes) => {
                let each = charges.iter().map(|charge| {
                    let mut nodes = nodes.clone();
                    async move { self.run(&mut nodes, std::slice::from_ref(charge), now).await }
                });
                let mut fault = None;
                let mut note = |said: Result<Vec<Standing>, StoreError>| match said {
                    Ok(standings) => standings.first().copied(),
                    Err(why) => {
                        fault = Some(why);
                        None
                    }
                };
                let standings = join_all(each).await.into_iter().map(&mut note).collect();
                Decision { standings, fault }
            }
        }
    }

    /// Runs the script; loads it where Redis has not got it.
    async fn run(
        &self,
        connection: &mut impl ::redis::aio::ConnectionLike,
        charges: &[(String, Budget)],
        now: Option<u64>,
    ) -> Result<Vec<Standing>, StoreError> {
        let mut invocation = self.script.prepare_invoke();
        invocation.arg(now.unwrap_or(0));
        charges.iter().for_each(|(key, budget)| add(&mut invocation, key, *budget));
        let answer = timeout(self.timeout, invocation.invoke_async::<Vec<u64>>(connection)).await;
        standings(&answer.map_err(|_| StoreError::Timeout)??, charges.len())
    }
}

fn add(invocation: &mut ScriptInvocation<'_>, key: &str, budget: Budget) {
    let (kind, numbers) = match budget {
        Budget::TokenBucket { fill, cost, capacity } => ("b", [fill, cost, capacity]),
        Budget::LeakyBucket { fill, cost, capacity } => ("l", [fill, cost, capacity]),
        Budget::FixedWindow { count, per } => ("f", [count, per, 0]),
        Budget::Month { count } => ("m", [count, 0, 0]),
        Budget::SlidingWindow { count, per } => ("w", [count, per, 0]),
        // Counted by each instance; never asked of a store.
        Budget::Concurrent { most } => ("f", [most, 1, 0]),
    };
    invocation.key(key).arg(kind).arg(&numbers[..]);
}

fn standings(answer: &[u64], expected: usize) -> Result<Vec<Standing>, StoreError> {
    let (each, rest) = answer.as_chunks::<4>();
    if each.len() != expected || !rest.is_empty() {
        return Err(StoreError::Odd);
    }
    let standing = |&[admits, remaining, next, wait]: &[u64; 4]| {
        let verdict = if admits == 1 { Verdict::Admit } else { Verdict::Refuse };
        Standing { verdict, remaining, next, wait }
    };
    Ok(each.iter().map(standing).collect())
}
