//! What the programs are told on the command line. Not for defaults of behaviour: those stand
//! beside the code that has them. Read by `main` and by each program's `run`.
//!
//! Invariant: a parsed option is valid; the programs check nothing twice.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};

/// Options of every HTTP service.
#[derive(Debug, Clone, Args)]
pub(crate) struct WebArgs {
    /// Where to listen
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: SocketAddr,
    /// The name that every answer carries
    #[arg(long, default_value = "demo")]
    pub(crate) name: String,
    /// Whom to believe about the user [default: header; of echo: nobody is asked for]
    #[arg(long, value_enum)]
    pub(crate) auth: Option<AuthMode>,
    /// Key set for `--auth token`
    #[arg(long, value_name = "URL")]
    pub(crate) jwks: Option<String>,
    /// `iss` that `--auth token` wants
    #[arg(long, value_name = "URL", default_value = "https://id.example")]
    pub(crate) issuer: String,
    /// `aud` that `--auth token` wants
    #[arg(long, value_name = "NAME", default_value = "api")]
    pub(crate) audience: String,
    /// Something this service connects to; may be repeated
    #[arg(long = "use", value_name = "NAME=URL")]
    pub(crate) uses: Vec<Use>,
    /// Registers under this name with the Eureka among the dependencies, whose name is `eureka`
    #[arg(long, value_name = "APPLICATION")]
    pub(crate) register: Option<String>,
}

/// Options of the registry.
#[derive(Debug, Clone, Args)]
pub(crate) struct RegistryArgs {
    /// Where to listen
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: SocketAddr,
    /// The name that every answer carries
    #[arg(long, default_value = "eureka")]
    pub(crate) name: String,
}

/// Where a service learns the user from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AuthMode {
    /// From X-User-Id, which the gateway sets after it has verified the token
    Header,
    /// From the bearer token, verified here
    Token,
}

/// Options of the gRPC service.
#[derive(Debug, Clone, Args)]
pub(crate) struct GrpcArgs {
    /// Where to listen
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: SocketAddr,
    /// The name in every reply
    #[arg(long, default_value = "echo")]
    pub(crate) name: String,
}

/// Options of the game server.
#[derive(Debug, Clone, Args)]
pub(crate) struct GameArgs {
    /// Where to listen
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: SocketAddr,
    /// The name in every reply; at most 64 bytes
    #[arg(long, default_value = "game", value_parser = short_name)]
    pub(crate) name: String,
}

/// Options of the live-stream server.
#[derive(Debug, Clone, Args)]
pub(crate) struct RtmpArgs {
    /// Where to listen
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: SocketAddr,
    /// The name in its messages
    #[arg(long, default_value = "rtmp")]
    pub(crate) name: String,
}

/// Options of the token issuer.
#[derive(Debug, Clone, Args)]
pub(crate) struct IssuerArgs {
    /// Where to listen
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: SocketAddr,
    /// Folder of es256.pem and rs256.pem; made when missing
    #[arg(long, value_name = "DIR")]
    pub(crate) keys: PathBuf,
    /// `iss` of the tokens
    #[arg(long, value_name = "URL", default_value = "https://id.example")]
    pub(crate) issuer: String,
    /// `aud` of the tokens
    #[arg(long, value_name = "NAME", default_value = "api")]
    pub(crate) audience: String,
    /// The name that every answer carries
    #[arg(long, default_value = "issuer")]
    pub(crate) name: String,
}

/// `data/app=postgres://…`: a dependency's name in the topology file and where it answers here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Use {
    /// `GROUP/NAME`, or a service's name.
    pub(crate) name: String,
    /// Where it answers.
    pub(crate) url: String,
}

impl FromStr for Use {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, url)) if !name.is_empty() && url.contains("://") => {
                Ok(Self { name: name.to_owned(), url: url.to_owned() })
            }
            _ => {
                Err("write NAME=URL, for example data/app=postgres://app@127.0.0.1:6432/app".into())
            }
        }
    }
}

impl WebArgs {
    /// The first database among the dependencies.
    pub(crate) fn database(&self) -> Option<&str> {
        self.uses.iter().map(|u| u.url.as_str()).find(|url| url.starts_with("postgres"))
    }

    /// The dependency whose last name is `name`, reached by HTTP.
    pub(crate) fn service(&self, name: &str) -> Option<&str> {
        self.uses
            .iter()
            .find(|u| u.url.starts_with("http://") && u.name.rsplit('/').next() == Some(name))
            .map(|u| u.url.as_str())
    }
}

fn short_name(text: &str) -> Result<String, String> {
    if (1..=64).contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        Err("a name has 1 to 64 bytes".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_use_keeps_equal_signs_of_its_url() {
        let parsed: Use = "data/app=postgres://a@h/app?x=1".parse().expect("valid");
        assert_eq!(parsed.name, "data/app");
        assert_eq!(parsed.url, "postgres://a@h/app?x=1");
        assert!("data/app".parse::<Use>().is_err());
        assert!("=http://x".parse::<Use>().is_err());
    }
}
