//! The stage without a pipeline: what is credentials, what the cache is trusted with.

mod rfc;

use std::time::Duration;

use serde_json::json;
use topology::gateway::{Algorithm, Issuer, IssuerKeys};
use topology::units::{At, IssuerName, Place, Scope, SecretRef};

use super::forge::Signer;
use super::*;

const NOW: u64 = 1_800_000_000;

/// Two issuers with a key file each, and what signs for them.
struct Scene {
    authn: Authn,
    riders: Signer,
    drivers: Signer,
    _folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::default();
        let (riders, drivers) = (Signer::es256(), Signer::ed());
        let issuer = |name: &str, signer: &Signer, algorithm| {
            let path = folder.path().join(name);
            std::fs::write(&path, signer.pem()).unwrap();
            Issuer {
                name: IssuerName::new(name),
                issuer: format!("https://{name}.example"),
                audiences: vec!["api".to_owned()],
                keys: IssuerKeys::Key(At { value: SecretRef::File(path), place }),
                algorithms: vec![algorithm],
                user_claim: "sub".to_owned(),
                consumer_claim: None,
                scope_claim: "scope".to_owned(),
                role_claim: "realm.roles".to_owned(),
                leeway: Duration::from_secs(30),
                place,
            }
        };
        let issuers = [
            issuer("riders", &riders, Algorithm::ES256),
            issuer("drivers", &drivers, Algorithm::EdDSA),
        ];
        let keys = Keys::new(&issuers, None).unwrap();
        let vouchers = Vouchers {
            keys,
            sources: vec![],
            directories: vec![],
            denylist: None,
            claims: vec![],
            consumers: Vec::new(),
        };
        let authn = Authn::new(Arc::new(vouchers));
        Self { authn, riders, drivers, _folder: folder }
    }

    async fn identify(
        &self,
        token: &str,
        ids: &[usize],
        now: u64,
    ) -> Result<Rc<Identity>, AuthnError> {
        let allowed: Vec<IssuerId> = ids.iter().copied().map(IssuerId).collect();
        self.authn.identify(token.as_bytes(), &allowed, now * 1000).await
    }
}

fn token(signer: &Signer, algorithm: &str, issuer: &str) -> String {
    let claims = json!({
        "iss": format!("https://{issuer}.example"), "aud": "api", "exp": NOW + 300, "sub": "7",
        "scope": "a b",
    });
    signer.token(algorithm, None, &claims)
}

/// G5: a token verified before is still looked at: its expiry, its issuer against the route.
#[tokio::test(start_paused = true)]
async fn the_cache_decides_nothing() {
    let scene = Scene::new();
    let rider = token(&scene.riders, "ES256", "riders");
    let first = scene.identify(&rider, &[0, 1], NOW).await.unwrap();
    assert_eq!((first.subject(), first.issuer()), ("7", Some(IssuerId(0))));
    assert_eq!(first.scopes(), [Scope::new("a"), Scope::new("b")]);
    let again = scene.identify(&rider, &[0], NOW + 329).await.unwrap();
    assert!(Rc::ptr_eq(&first, &again), "it was not verified twice");
    let late = scene.identify(&rider, &[0], NOW + 330).await;
    assert_eq!(late.err(), Some(JwtFault::Expired { by: 30 }.into()));
    let elsewhere = scene.identify(&rider, &[1], NOW).await;
    assert_eq!(elsewhere.err(), Some(JwtFault::OtherIssuer.into()));
}

/// G5: riders and drivers: each issuer's keys count for its own tokens alone.
#[tokio::test(start_paused = true)]
async fn two_issuers() {
    let scene = Scene::new();
    let driver = token(&scene.drivers, "EdDSA", "drivers");
    assert_eq!(scene.identify(&driver, &[0, 1], NOW).await.unwrap().issuer(), Some(IssuerId(1)));
    for (forged, fault) in [
        (token(&scene.drivers, "EdDSA", "riders"), JwtFault::OtherAlgorithm),
        (token(&Signer::ed(), "EdDSA", "drivers"), JwtFault::Forged),
    ] {
        assert_eq!(scene.identify(&forged, &[0, 1], NOW).await.err(), Some(fault.into()));
    }
    assert_eq!(scene.authn.cache.borrow().len(), 1, "what is refused is not kept");
}
