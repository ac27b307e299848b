//! The `register:` section of gateways and pools as typed.
//!
//! Invariant: none beyond `raw`'s.

use crate::raw::schema::section;
use crate::raw::{Text, Typed};
use crate::units::{SecretRef, Time};

section! {
    /// Registries in which each instance is entered while it runs, with whether it is ready; it leaves them
    /// before it drains. A registry that is away delays nothing. At least one of `consul`, `etcd`, `eureka`.
    Register at spot {
        /// A service in Consul with a check of its own. Default: none.
        may "consul" consul: RegisterConsul,
        /// A key in etcd that ends with its lease. Default: none.
        may "etcd" etcd: RegisterEtcd,
        /// An instance of an application in Eureka. Default: none.
        may "eureka" eureka: RegisterEureka,
        /// The zone that is told. Default: none.
        may "zone" zone: Typed<Text>,
        /// The version that is told. Default: none.
        may "version" version: Typed<Text>,
        /// How long it takes new work after it has left, until readers of the registries have noticed; part
        /// of the `drain`. Default: 1s.
        may "linger" linger: Typed<Time>,
    }
}

section! {
    /// Each instance is a service of an agent, named `SERVICE-INSTANCE`, with a TTL check.
    RegisterConsul {
        /// The agent, `http://HOST:8500` or `https://HOST:8501`.
        must "address" address: Typed<Text>,
        /// The service's name there.
        must "service" service: Typed<Text>,
        /// Its tags. Default: none.
        may "tags" tags: Vec<Typed<Text>>,
        /// An ACL token that may write the service, `file:PATH` or `env:NAME`; read again for each request.
        /// Default: none.
        may "token" token: Typed<SecretRef>,
        /// Authorities that its certificate must come from, `file:PATH`. Default: the system's.
        may "ca" ca: Typed<SecretRef>,
        /// An instance that is silent for so long is critical, 3s to 1h; a third of it lies between two signs of
        /// life. Default: 15s.
        may "ttl" ttl: Typed<Time>,
        /// An instance that is critical for so long is forgotten, 1m or more. Default: 10m.
        may "deregister-after" deregister_after: Typed<Time>,
    }
}

section! {
    /// Each instance is a key below a prefix, as `discover: { etcd: … }` reads them; one that is not ready is
    /// `health: down`.
    RegisterEtcd {
        /// Its servers, `http://HOST:2379` or `https://HOST:2379`.
        must "servers" servers: Vec<Typed<Text>>,
        /// What the key begins with, `/services/gateway/`; the instance's name follows.
        must "prefix" prefix: Typed<Text>,
        /// Who we are. Default: nobody.
        may "user" user: Typed<Text>,
        /// What proves it, `file:PATH` or `env:NAME`. Default: nothing.
        may "password" password: Typed<SecretRef>,
        /// Authorities that its certificates must come from, `file:PATH`. Default: the system's.
        may "ca" ca: Typed<SecretRef>,
        /// The key of an instance that is silent for so long is gone, 3s to 1h; a third of it lies between two
        /// signs of life. Default: 15s.
        may "ttl" ttl: Typed<Time>,
    }
}

section! {
    /// Each instance is one of an application, `UP` or `DOWN`.
    RegisterEureka {
        /// Its address with the path, `http://HOST:8761/eureka`.
        must "address" address: Typed<Text>,
        /// The application's name there.
        must "application" application: Typed<Text>,
        /// Who we are. Default: nobody.
        may "user" user: Typed<Text>,
        /// What proves it, `file:PATH` or `env:NAME`. Default: nothing.
        may "password" password: Typed<SecretRef>,
        /// Authorities that its certificate must come from, `file:PATH`. Default: the system's.
        may "ca" ca: Typed<SecretRef>,
        /// An instance that is silent for so long may be evicted, 3s to 1h; a third of it lies between two signs
        /// of life. Default: 15s.
        may "ttl" ttl: Typed<Time>,
    }
}
