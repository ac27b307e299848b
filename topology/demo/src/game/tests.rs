//! The game protocol, byte by byte, and over a socket.

use super::*;

fn step(player: u32, sequence: u64, size: usize) -> Vec<u8> {
    let mut datagram = b"AQ1".to_vec();
    datagram.extend_from_slice(&player.to_be_bytes());
    datagram.extend_from_slice(&sequence.to_be_bytes());
    datagram.extend_from_slice(&7_u64.to_be_bytes());
    datagram.resize(datagram.len().max(size), 0);
    datagram
}

/// T10: a move comes back with the server's name and the client's own numbers.
#[test]
fn a_move_is_echoed_with_the_name_and_remembered() {
    let from = "127.0.0.1:9".parse().expect("valid");
    let (mut game, mut out) = (Game::new("game-1"), Vec::new());
    let datagram = step(42, 5, 100);
    game.reply(&datagram, from, &mut out);
    assert_eq!(&out[..3], b"AQ2");
    assert_eq!(&out[3..23], &datagram[3..23]);
    assert_eq!(out[23], 6);
    assert_eq!(&out[24..30], b"game-1");
    assert_eq!(out.len(), 100);
    game.reply(&step(42, 3, 0), from, &mut out);
    assert_eq!(out.len(), 30);
    assert_eq!(game.players[&42], Player { from, newest: 5, datagrams: 2 });
}

#[test]
fn its_counts_can_be_asked_for() {
    let from = "127.0.0.1:9".parse().expect("valid");
    let (mut game, mut out) = (Game::new("game-1"), Vec::new());
    for player in [1, 2, 2] {
        game.reply(&step(player, 1, 0), from, &mut out);
    }
    game.reply(b"AQ?", from, &mut out);
    assert_eq!(out, b"AQ! 2 3 game-1");
}

#[test]
fn anything_else_is_echoed_behind_the_name_and_ping_is_answered() {
    let from = "127.0.0.1:9".parse().expect("valid");
    let (mut game, mut out) = (Game::new("g"), Vec::new());
    for (sent, expected) in
        [(&b"ping"[..], &b"pong g"[..]), (b"AQ1short", b"g:AQ1short"), (b"", b"g:")]
    {
        game.reply(sent, from, &mut out);
        assert_eq!(out, expected);
    }
    assert!(game.players.is_empty());
}

#[tokio::test]
async fn replies_come_from_the_address_that_was_asked() {
    let server = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
    let at = server.local_addr().expect("bound");
    let client = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
    let mut game = Game::new("game-2");
    client.send_to(b"ping", at).await.expect("sent");
    let mut reply = [0; 64];
    let (length, from) = tokio::select! {
        () = game.play(&server) => unreachable!("play never ends"),
        received = client.recv_from(&mut reply) => received.expect("a reply"),
    };
    assert_eq!((&reply[..length], from), (&b"pong game-2"[..], at));
}
