//! Game players through the edge.

use std::collections::BTreeMap;
use std::time::Duration;

use tests::clients::game::Player;
use tests::fakes::game::Game;
use tests::tier::{Draft, Stack};
use tokio::time::Instant;

const NAMES: [&str; 3] = ["game-1", "game-2", "game-3"];
/// Packets that a player sends before an answer.
const AHEAD: u64 = 2;
const PATIENCE: Duration = Duration::from_secs(600);

/// The documented edge and three game servers.
async fn scene() -> (Stack, Vec<Game>) {
    let mut stack = Draft::documented().stack();
    let mut games = Vec::new();
    for (port, name) in (7801..).zip(NAMES) {
        games.push(Game::start(stack.address.at(port), name).await);
    }
    stack.start("nlb-1").await;
    (stack, games)
}

async fn players(stack: &Stack, count: u16) -> Vec<Player> {
    let mut players = Vec::new();
    for number in 0..count {
        players.push(Player::join(number, stack.address.at(7777)).await);
    }
    players
}

/// T1, N2, N3, N4: 50 players with 128 packets/s for 5 s: nothing is lost on loopback and no
/// player meets two servers; all three servers have players.
#[tokio::test]
async fn fifty_players_lose_nothing_and_stay_where_they_are() {
    let (stack, _games) = scene().await;
    let mut players = players(&stack, 50).await;
    let mut beat = tokio::time::interval(Duration::from_secs(1) / 128);
    let deadline = Instant::now() + PATIENCE;
    for _ in 0..640 {
        beat.tick().await;
        for player in &mut players {
            // On a busy machine players wait for answers rather than overrun the kernel's queues,
            // so that a packet that is lost is lost by the edge.
            player.listen(AHEAD, deadline).await;
            player.send().await;
        }
    }
    let mut lost = 0;
    for player in &mut players {
        player.listen(0, deadline).await;
        lost += player.lost();
        assert_eq!(player.met().len(), 1, "{:?}", player.met());
    }
    assert_eq!(lost, 0, "of {} packets", 50 * 640);
    let used: std::collections::BTreeSet<_> = players.iter().flat_map(Player::met).collect();
    assert_eq!(used.len(), 3, "{used:?}");
}

/// N2: the same player reaches the same server from any source port.
#[tokio::test]
async fn a_player_comes_back_to_its_server_from_another_port() {
    let (stack, _games) = scene().await;
    let mut first = players(&stack, 20).await;
    let mut second = players(&stack, 20).await;
    for (before, after) in first.iter_mut().zip(&mut second) {
        assert_eq!(before.ask().await, after.ask().await);
    }
}

/// N2, N3, N8: when one game server is killed, only its players move.
#[tokio::test]
async fn only_the_players_of_a_killed_server_move() {
    let (stack, mut games) = scene().await;
    let mut players = players(&stack, 60).await;
    let mut homes = Vec::new();
    for player in &mut players {
        homes.push(player.ask().await);
    }
    let killed = NAMES[1];
    games.remove(1).kill().await;
    let mut moved: BTreeMap<String, usize> = BTreeMap::new();
    for (player, home) in players.iter_mut().zip(&homes) {
        let now = player.ask().await;
        assert_ne!(now, killed);
        if now != *home {
            *moved.entry(home.clone()).or_default() += 1;
        }
    }
    let of_killed = homes.iter().filter(|home| *home == killed).count();
    assert!(of_killed > 0);
    assert_eq!(moved, BTreeMap::from([(killed.to_owned(), of_killed)]));
}
