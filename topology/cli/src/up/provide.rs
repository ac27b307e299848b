//! What a topology names and a fresh machine lacks: certificates, role passwords with their
//! verifiers, the hash key, folders of files, what the demo's calls are like. Makes each once in the folder of the stack. Not for files that the
//! user brought: those are read, never written. Called by `up` before anything starts.
//!
//! Invariant: nothing outside of the folder is written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, bail};
use rcgen::ExtendedKeyUsagePurpose as Usage;
use topology::Topology;
use topology::transcode::Descriptions;
use topology::units::{HostPattern, SecretRef};

use crate::up::folder::{Folder, write_public};
use crate::up::pki::{self, Fresh};
use crate::up::plan::{Does, Plan, Role};
use crate::up::secrets;

/// What the parts are given beyond the file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Provided {
    /// By role.
    pub(crate) credentials: BTreeMap<String, Credential>,
    /// Variables that the file names and nobody has set.
    pub(crate) variables: Vec<(String, String)>,
    /// What was made by this run, for people.
    pub(crate) made: Vec<String>,
}

/// How a role logs in.
#[derive(Clone, Default)]
pub(crate) struct Credential {
    /// What PostgreSQL and pgpool keep: verifier, hash or password.
    pub(crate) secret: Option<String>,
    /// What a client types, where it is known.
    pub(crate) password: Option<String>,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credential(***)")
    }
}

/// Makes what is missing.
pub(crate) fn provide(
    topology: &Topology,
    plan: &Plan,
    folder: &Folder,
    now: SystemTime,
) -> anyhow::Result<Provided> {
    let mut provided = Provided::default();
    certificates(topology, folder, now, &mut provided)?;
    files(topology, folder)?;
    descriptions(topology, folder)?;
    for part in &plan.parts {
        if let Does::Primary(primary) = &part.does {
            for role in &primary.roles {
                provided.credential(role, folder)?;
            }
        }
    }
    for group in &topology.nlbs {
        if let Some(key) = &group.hash_key {
            provided.hash_key(&key.value, folder)?;
        }
    }
    Ok(provided)
}

impl Provided {
    /// The password of a role whose secret was made here or is plain.
    pub(crate) fn password(&self, role: &str) -> anyhow::Result<&str> {
        let known = self.credentials.get(role).and_then(|known| known.password.as_deref());
        known.with_context(|| {
            format!(
                "the password of the database user {role} is not known, only its verifier: write \
                 it beside the verifier, in a file of the same name that ends in .password"
            )
        })
    }

    fn credential(&mut self, role: &Role, folder: &Folder) -> anyhow::Result<()> {
        let credential = match &role.secret {
            None => Credential::default(),
            Some(SecretRef::File(path)) if path.exists() => {
                let secret = std::fs::read_to_string(path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                known(secret.trim(), &path.with_extension("password"))?
            }
            Some(SecretRef::File(path)) => {
                within(path, folder)?;
                self.made.push(format!("the password of database user {}", role.name));
                made(path, &path.with_extension("password"))?
            }
            Some(SecretRef::Given(given)) => known(given.reveal(), &folder.path("secrets"))?,
            Some(SecretRef::Env(name)) => match std::env::var(name) {
                Ok(secret) => known(secret.trim(), &folder.path("secrets").join(name))?,
                Err(_) => {
                    let path = folder.path("secrets").join(format!("{}.scram", role.name));
                    let credential = made(&path, &path.with_extension("password"))?;
                    let secret = credential.secret.clone().unwrap_or_default();
                    self.variables.push((name.clone(), secret));
                    credential
                }
            },
        };
        self.credentials.insert(role.name.clone(), credential);
        Ok(())
    }

    fn hash_key(&mut self, reference: &SecretRef, folder: &Folder) -> anyhow::Result<()> {
        match reference {
            SecretRef::Env(name) if std::env::var_os(name).is_none() => {
                let key = secrets::hash_key(&folder.path("hash-key"))?;
                self.variables.push((name.clone(), key));
            }
            SecretRef::File(path) if !path.exists() => {
                within(path, folder)?;
                secrets::hash_key(path)?;
            }
            _ => {}
        }
        Ok(())
    }
}

fn certificates(
    topology: &Topology,
    folder: &Folder,
    now: SystemTime,
    provided: &mut Provided,
) -> anyhow::Result<()> {
    let mut wanted: Vec<(&[topology::gateway::Certificate], Vec<String>, Usage)> = Vec::new();
    for group in &topology.gateways {
        let hosts = group.routes.iter().flat_map(|route| &route.hosts).map(|host| match host {
            HostPattern::Exact(host) => host.clone(),
            HostPattern::Suffix(suffix) => format!("*{suffix}"),
        });
        let own = group.tls.as_ref().map(|tls| (&*tls.certificates, server(hosts.collect())));
        wanted.extend(own.map(|(own, hosts)| (own, hosts, Usage::ServerAuth)));
        // Towards services it is who its group is.
        let callers = group.upstreams.iter().filter_map(|upstream| upstream.tls.as_ref());
        let callers = callers.filter_map(|tls| tls.certificate.as_ref());
        let name = || vec![group.name.to_string()];
        wanted.extend(callers.map(|one| (std::slice::from_ref(one), name(), Usage::ClientAuth)));
    }
    for group in &topology.pools {
        let own = group.tls.as_ref().map(|tls| &*tls.certificates);
        wanted.extend(own.map(|own| (own, server(Vec::new()), Usage::ServerAuth)));
    }
    let mut authority = None;
    for (certificates, hosts, usage) in wanted {
        for certificate in certificates {
            let (SecretRef::File(chain), SecretRef::File(key)) =
                (&certificate.chain.value, &certificate.key.value)
            else {
                continue;
            };
            if !chain.starts_with(folder.root()) || !key.starts_with(folder.root()) {
                continue;
            }
            let signer = match &authority {
                Some(signer) => signer,
                None => authority.insert(pki::authority(folder, now)?),
            };
            if pki::certificate(signer, chain, key, &hosts, (usage.clone(), now))? == Fresh::Made {
                provided.made.push(format!("a certificate for {}", hosts.join(", ")));
            }
        }
    }
    Ok(())
}

/// What a server's certificate is for.
fn server(more: Vec<String>) -> Vec<String> {
    let mut hosts: Vec<String> = HOSTS.map(str::to_owned).to_vec();
    hosts.extend(more.into_iter().filter(|host| !HOSTS.contains(&host.as_str())));
    hosts
}

/// Folders that routes lead to: with a small picture, as beside the documented stack.
fn files(topology: &Topology, folder: &Folder) -> anyhow::Result<()> {
    for path in topology.gateways.iter().flat_map(|group| &group.files) {
        let path = &path.directory.value;
        if path.starts_with(folder.root()) && !path.exists() {
            write_public(&path.join("avatar.jpg"), AVATAR)?;
        }
    }
    Ok(())
}

/// Descriptions that routes name: of the demo's gRPC service, as beside the documented stack.
fn descriptions(topology: &Topology, folder: &Folder) -> anyhow::Result<()> {
    let routes = topology.gateways.iter().flat_map(|group| &group.routes);
    for transcode in routes.filter_map(|route| route.transcode.as_ref()) {
        let Descriptions::Sources { files, .. } = &transcode.from else { continue };
        let demo = |path: &&PathBuf| path.file_name().is_some_and(|name| name == "echo.proto");
        for path in files.iter().filter(demo) {
            if path.starts_with(folder.root()) && !path.exists() {
                write_public(path, ECHO)?;
            }
        }
    }
    Ok(())
}

/// A secret that is there: a password, or a verifier with the password perhaps beside it.
fn known(secret: &str, password: &Path) -> anyhow::Result<Credential> {
    let password = if secret.starts_with("SCRAM-SHA-256$") || secret.starts_with("md5") {
        std::fs::read_to_string(password).ok().map(|text| text.trim().to_owned())
    } else {
        Some(secret.to_owned())
    };
    Ok(Credential { secret: Some(secret.to_owned()), password })
}

fn made(verifier: &Path, password: &Path) -> anyhow::Result<Credential> {
    let password = secrets::password(password)?;
    let secret = secrets::verifier(verifier, &password)?;
    Ok(Credential { secret: Some(secret), password: Some(password) })
}

fn within(path: &Path, folder: &Folder) -> anyhow::Result<()> {
    if !path.starts_with(folder.root()) {
        bail!(
            "{} is not there: write it, or name a relative path and `up` makes it",
            path.display()
        );
    }
    Ok(())
}

const AVATAR: &[u8] = include_bytes!("../../../stacks/static/avatar.jpg");
const ECHO: &[u8] = include_bytes!("../../../stacks/protos/echo.proto");

/// What every certificate is for.
const HOSTS: [&str; 4] = ["api.example", "localhost", "127.0.0.1", "::1"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::up::source;

    /// T2: what the file names is made once, and used again at the next start.
    #[test]
    fn a_second_run_makes_nothing_new() {
        let scratch = tempfile::tempdir().expect("a folder");
        let folder = Folder::named(Some(scratch.path()), "x").expect("absolute");
        folder.make().expect("made");
        let topology = topology::parse("stack.yaml", source::BUILT_IN, scratch.path());
        let topology = topology.expect("the built-in stack is valid");
        let plan = Plan::new(&topology).expect("a plan");
        let first = provide(&topology, &plan, &folder, SystemTime::now()).expect("provided");
        assert_eq!(first.made.len(), 2, "{:?}", first.made);
        assert_eq!(std::fs::read(scratch.path().join("static/avatar.jpg")).expect("there"), AVATAR);
        assert_eq!(std::fs::read(scratch.path().join("protos/echo.proto")).expect("there"), ECHO);
        let second = provide(&topology, &plan, &folder, SystemTime::now()).expect("provided");
        assert_eq!(second.made, Vec::<String>::new());
        assert_eq!(first.password("app").expect("known"), second.password("app").expect("known"));
        assert_eq!(first.variables, second.variables);
        assert!(second.password("nobody").is_err());
    }
}
