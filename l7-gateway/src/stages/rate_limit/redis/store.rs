//! How to reach the store of shared counters, one server or a cluster, and what is run there. Not for
//! when it is away: that is `redis` and, for what happens then, `rate_limit`. Called by `redis`.
//!
//! Invariant: a decision is waited for no longer than the store's timeout.

use std::fmt;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::cluster::ClusterClient;
use ::redis::cluster_async::ClusterConnection;
use ::redis::{AsyncConnectionConfig, Client, RedisError, Script, ScriptInvocation};
use futures_util::future::join_all;
use tokio::time::timeout;
use topology::gateway::{LimitStore, WhenAway};

use crate::stages::rate_limit::budget::{Budget, Standing, Verdict};

/// For connecting, logging in and loading the script.
const CONNECT: Duration = Duration::from_secs(1);

/// Most decisions of one worker that wait for a server at once.
const MOST_WAITING: usize = 4096;

/// Why the store made no decision.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The address is not one of Redis.
    #[error("{address} is not an address of Redis: {source}")]
    Address {
        /// As the file has it, without what stands before `@`.
        address: String,
        /// Why.
        source: RedisError,
    },
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
    client: Servers,
    script: Script,
    timeout: Duration,
    when_away: WhenAway,
}

#[derive(Debug)]
enum Servers {
    One(Client),
    Cluster(Box<ClusterClient>),
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
    /// For the store of a topology; connects to nothing yet.
    ///
    /// # Errors
    /// An address is not one of Redis.
    pub fn new(model: &LimitStore) -> Result<Self, StoreError> {
        let addresses: Vec<&str> = model.redis.iter().map(|at| at.value.as_str()).collect();
        let bare = |address: &str| address.rsplit('@').next().unwrap_or_default().to_owned();
        let named = |source| StoreError::Address {
            address: addresses.iter().map(|address| bare(address)).collect::<Vec<_>>().join(", "),
            source,
        };
        let client = match addresses[..] {
            [one] => Servers::One(Client::open(one).map_err(named)?),
            _ => {
                // A decision that nobody waits for any more must not be sent twice.
                let nodes = ClusterClient::builder(addresses.iter().copied())
                    .retries(0)
                    .connection_timeout(CONNECT)
                    .response_timeout(CONNECT);
                Servers::Cluster(Box::new(nodes.build().map_err(named)?))
            }
        };
        let script = Script::new(include_str!("../charge.lua"));
        Ok(Self { client, script, timeout: model.timeout, when_away: model.when_away })
    }

    /// What happens to requests while it is away.
    pub fn when_away(&self) -> WhenAway {
        self.when_away
    }

    /// Whether limits of a request are charged apart, each where its key lives.
    pub fn is_cluster(&self) -> bool {
        matches!(self.client, Servers::Cluster(_))
    }

    /// A connection on the calling runtime, logged in and with the script loaded; a second at most.
    ///
    /// # Errors
    /// Nobody answers, or not in time.
    pub async fn connect(&self) -> Result<Connection, StoreError> {
        let connected = async {
            Ok::<_, StoreError>(match &self.client {
                Servers::One(client) => {
                    let config = AsyncConnectionConfig::new()
                        .set_connection_timeout(None)
                        .set_response_timeout(None)
                        .set_pipeline_buffer_size(MOST_WAITING)
                        .set_concurrency_limit(MOST_WAITING);
                    let made = client.get_multiplexed_async_connection_with_config(&config);
                    let mut connection = made.await?;
                    self.script.load_async(&mut connection).await?;
                    Connection::One(connection)
                }
                // Nodes get the script when they first need it: one that is away holds up nobody.
                Servers::Cluster(client) => {
                    Connection::Cluster(client.get_async_connection().await?)
                }
            })
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
