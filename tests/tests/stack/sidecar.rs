//! The gateways that are shipped to stand beside services: whoever is asked is asked through mTLS by who may, and each
//! caller has its share; the services themselves know nothing of it.

use tests::clients::http::{Answer, Connection, request};
use tests::pki;
use tests::shipped::Shipped;

async fn scene(edit: impl FnOnce(tests::tier::Draft) -> tests::tier::Draft) -> Shipped {
    Shipped::edited("sidecar", |draft| edit(draft.edit("file:ca.pem", "file:pki/ca.pem"))).await
}

/// As the program beside its gateway asks.
async fn ask(scene: &Shipped, method: &str, path: &str, fields: &[(&str, &str)]) -> Answer {
    let mut connection = Connection::plain(scene.stack.address.at(9740)).await.unwrap();
    connection.send(request(method, path, fields).unwrap()).await.unwrap()
}

/// As another caller's gateway asks, from another host.
async fn caller(scene: &Shipped, name: &str) -> Connection {
    let trust = pki::caller(scene.stack.folder.path(), name);
    Connection::tls(scene.stack.address.at(9741), &trust).await.unwrap()
}

/// G21: a service asks another in plain HTTP; on the way its gateway shows its certificate, and the other's gateway
/// says who it is and who may do what. What a client claims of itself is not believed.
#[tokio::test]
async fn services_meet_through_the_gateways_beside_them() {
    let scene = scene(|draft| draft).await;
    let claims = [("x-client-principal", "root"), ("x-user-id", "1"), ("x-item", "7")];
    for method in ["GET", "PUT"] {
        let answer = ask(&scene, method, "/stock/7", &claims).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let saw = answer.json()["headers"].clone();
        assert_eq!(saw["x-client-principal"], "orders", "{saw}");
        assert!(saw.get("x-user-id").is_none(), "{saw}");
        assert_eq!(saw["x-item"], "7", "{saw}");
    }
    // Not to be asked of anybody.
    assert_eq!(ask(&scene, "GET", "/elsewhere", &[]).await.status, 404);
    // To be asked by nobody.
    assert_eq!(ask(&scene, "DELETE", "/stock/7", &[]).await.status, 405);

    let mut reports = caller(&scene, "reports").await;
    assert_eq!(reports.get("/stock/7", &[]).await.unwrap().status, 200);
    let put = request("PUT", "/stock/7", &[]).unwrap();
    assert_eq!(reports.send(put).await.unwrap().status, 403, "it may read alone");
    let mut batch = caller(&scene, "batch").await;
    assert_eq!(batch.get("/stock/7", &[]).await.unwrap().status, 403, "it may do nothing");
    let stranger = Connection::tls(scene.stack.address.at(9741), &scene.stack.trust).await;
    let refused = match stranger {
        Err(_) => true,
        // The handshake of TLS 1.3 ends before the server has seen that there is no certificate.
        Ok(mut stranger) => stranger.get("/stock/7", &[]).await.is_err(),
    };
    assert!(refused, "who shows no certificate says nothing at all");
}

/// G21, G10: a caller that asks too much uses up its own share, and nothing of the other's.
#[tokio::test]
async fn each_caller_of_a_service_has_its_share() {
    let scene = scene(|draft| draft.edit("rate: 200/s, burst: 400", "rate: 5/h")).await;
    let mut told = Vec::new();
    for _ in 0..8 {
        told.push(ask(&scene, "GET", "/stock/7", &[]).await.status);
    }
    assert_eq!(told, [200, 200, 200, 200, 200, 429, 429, 429]);
    let mut reports = caller(&scene, "reports").await;
    for _ in 0..5 {
        assert_eq!(reports.get("/stock/7", &[]).await.unwrap().status, 200);
    }
}
