//! The live view on a terminal: one line per part, the newest events, commands to paste. Not for
//! the numbers (`status`) and not for the plain output (`progress`). Run by `up` while the stack
//! runs.
//!
//! Invariant: the terminal is given back as it was, also after an error.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::observe::admin::Unit;
use crossterm::event::{Event, KeyCode, KeyEventKind, KeyModifiers};
use crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line as TextLine, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Table};
use tokio::sync::mpsc;

use crate::up::hints::Hint;
use crate::up::plan::Part;
use crate::up::status::{Health, Line};
use crate::watch::history::KEPT;

/// The terminal in full-screen mode; given back on drop.
pub(crate) struct Screen {
    terminal: ratatui::DefaultTerminal,
    keys: mpsc::Receiver<Key>,
    reading: Arc<AtomicBool>,
    scroll: usize,
    shows: Shows,
}

/// What the terminal shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shows {
    /// The live view.
    Picture,
    /// What was printed before it, where commands can be copied whole.
    Print,
}

/// What one picture shows.
#[derive(Debug)]
pub(crate) struct Picture<'a> {
    /// The stack's name.
    pub(crate) stack: &'a str,
    /// How long it has been ready.
    pub(crate) running: Duration,
    /// Parts and their numbers.
    pub(crate) parts: &'a [Part],
    /// By the index of the part.
    pub(crate) lines: &'a [Line],
    /// Newest last.
    pub(crate) events: &'a [String],
    /// To paste.
    pub(crate) hints: &'a [Hint],
}

/// What a person pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key {
    /// `q`, Escape or Ctrl-C.
    Quit,
    /// One line up.
    Up,
    /// One line down.
    Down,
    /// `c`: to the printed commands, and back.
    Commands,
    /// The window has another size.
    Resized,
}

impl Screen {
    /// Takes the terminal.
    pub(crate) fn open() -> anyhow::Result<Self> {
        let terminal = ratatui::try_init()?;
        let (tell, keys) = mpsc::channel(64);
        let reading = Arc::new(AtomicBool::new(true));
        let goes_on = Arc::clone(&reading);
        // crossterm's reader blocks; it has nothing to do with the data path.
        std::thread::Builder::new().name("keys".into()).spawn(move || {
            while goes_on.load(Ordering::Relaxed) {
                if let Ok(true) = crossterm::event::poll(Duration::from_millis(200))
                    && let Ok(event) = crossterm::event::read()
                    && let Some(key) = key(&event)
                    && tell.blocking_send(key).is_err()
                {
                    return;
                }
            }
        })?;
        Ok(Self { terminal, keys, reading, scroll: 0, shows: Shows::Picture })
    }

    /// The next key; cancel safe.
    pub(crate) async fn key(&mut self) -> Key {
        self.keys.recv().await.unwrap_or(Key::Quit)
    }

    /// Moves the table, or changes what is shown.
    pub(crate) fn press(&mut self, key: Key, parts: usize) -> anyhow::Result<()> {
        match (key, self.shows) {
            (Key::Quit | Key::Resized, _) => {}
            (Key::Commands, Shows::Picture) => {
                self.shows = Shows::Print;
                crossterm::execute!(std::io::stdout(), LeaveAlternateScreen)?;
            }
            (_, Shows::Print) => {
                self.shows = Shows::Picture;
                crossterm::execute!(std::io::stdout(), EnterAlternateScreen)?;
                self.terminal.clear()?;
            }
            (Key::Up, Shows::Picture) => self.scroll = self.scroll.saturating_sub(1),
            (Key::Down, Shows::Picture) => {
                self.scroll = (self.scroll + 1).min(parts.saturating_sub(1));
            }
        }
        Ok(())
    }

    /// Draws one picture.
    pub(crate) fn draw(&mut self, picture: &Picture<'_>) -> anyhow::Result<()> {
        if self.shows == Shows::Print {
            return Ok(());
        }
        let scroll = self.scroll;
        self.terminal.draw(|frame| draw(frame, picture, scroll))?;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.reading.store(false, Ordering::Relaxed);
        ratatui::restore();
    }
}

fn key(event: &Event) -> Option<Key> {
    match event {
        Event::Resize(..) => Some(Key::Resized),
        Event::Key(key) if key.kind != KeyEventKind::Release => match key.code {
            KeyCode::Char('q') | KeyCode::Esc => Some(Key::Quit),
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Key::Quit),
            KeyCode::Char('c') => Some(Key::Commands),
            KeyCode::Up | KeyCode::Char('k') => Some(Key::Up),
            KeyCode::Down | KeyCode::Char('j') => Some(Key::Down),
            _ => None,
        },
        _ => None,
    }
}

/// Header, table, events, commands; what does not fit is left out from below.
fn draw(frame: &mut Frame<'_>, picture: &Picture<'_>, scroll: usize) {
    let rows = u16::try_from(picture.parts.len()).unwrap_or(u16::MAX).saturating_add(1);
    let events = u16::try_from(picture.events.len().min(EVENTS)).unwrap_or(0);
    let [head, table, gap, news, commands] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(rows),
        Constraint::Length(1),
        Constraint::Length(events),
        Constraint::Min(0),
    ])
    .areas(frame.area());
    frame.render_widget(header(picture), head);
    frame.render_widget(parts(picture, scroll), table);
    frame.render_widget(Paragraph::new(""), gap);
    frame.render_widget(self::events(picture), news);
    hints(frame, picture, commands);
}

fn header(picture: &Picture<'_>) -> Paragraph<'static> {
    let count = |health| picture.lines.iter().filter(|line| line.health == health).count();
    let seconds = picture.running.as_secs();
    let clock = format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    let mut spans = vec![
        Span::styled(" aqueduct ", Style::new().add_modifier(Modifier::BOLD | Modifier::REVERSED)),
        Span::styled(format!(" {} ", picture.stack), Style::new().add_modifier(Modifier::BOLD)),
        Span::styled(format!(" {clock}  "), DIM),
        Span::styled(format!("{} ready", count(Health::Ready)), Style::new().fg(Color::Green)),
    ];
    for (health, word, colour) in
        [(Health::Unready, "not ready", Color::Yellow), (Health::Down, "down", Color::Red)]
    {
        let number = count(health);
        if number > 0 {
            spans.push(Span::styled(format!("  {number} {word}"), Style::new().fg(colour)));
        }
    }
    spans.push(Span::styled("    c commands to copy   q ends", DIM));
    Paragraph::new(TextLine::from(spans))
}

fn parts(picture: &Picture<'_>, scroll: usize) -> Table<'static> {
    let right = |text: &'static str| Cell::from(TextLine::from(text).right_aligned());
    let head = Row::new(vec![
        Cell::from("KIND"),
        Cell::from("NAME"),
        Cell::from("ADDRESS"),
        Cell::from("STATE"),
        right("CONN"),
        right("WORK/S"),
        // Above the newest block: the first minutes fill but the right end.
        right("5 MIN"),
        right("P50"),
        right("P99"),
        right("ERRORS"),
    ]);
    // From the clients inwards, as traffic flows.
    let shown = picture.parts.iter().zip(picture.lines).rev().skip(scroll);
    let rows: Vec<Row<'static>> = shown.map(|(part, line)| row(part, line)).collect();
    let widths = [
        Constraint::Length(13),
        Constraint::Length(11),
        Constraint::Min(16),
        Constraint::Length(9),
        Constraint::Length(6),
        Constraint::Length(11),
        Constraint::Length(12),
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Length(7),
    ];
    Table::new(rows, widths).header(head.style(DIM)).column_spacing(1)
}

fn row(part: &Part, line: &Line) -> Row<'static> {
    let (word, colour) = match line.health {
        Health::Ready => ("ready", Color::Green),
        Health::Unready => ("not ready", Color::Yellow),
        Health::Down => ("down", Color::Red),
    };
    let right = |text: String| Cell::from(TextLine::from(text).right_aligned());
    let errors = line.errors.map(short).unwrap_or_default();
    let errors = match line.errors {
        Some(1..) => right(errors).style(Style::new().fg(Color::Yellow)),
        _ => right(errors),
    };
    Row::new(vec![
        Cell::from(part.kind().to_owned()).style(Style::new().fg(Color::Cyan)),
        Cell::from(part.name.clone()),
        Cell::from(part.addresses()).style(DIM),
        Cell::from(word).style(Style::new().fg(colour)),
        right(line.connections.map(short).unwrap_or_default()),
        right(rate(line)),
        Cell::from(spark(&line.track)).style(Style::new().fg(Color::Blue)),
        right(line.p50.map(time).unwrap_or_default()),
        right(line.p99.map(time).unwrap_or_default()),
        errors,
    ])
}

fn events(picture: &Picture<'_>) -> Paragraph<'static> {
    let from = picture.events.len().saturating_sub(EVENTS);
    let newest = picture.events.get(from..).unwrap_or_default();
    let style = Style::new().fg(Color::Yellow);
    let lines = newest.iter().map(|event| TextLine::styled(event.clone(), style));
    Paragraph::new(lines.collect::<Vec<_>>())
}

/// One line each; a long one is cut, and whole on the printed page.
fn hints(frame: &mut Frame<'_>, picture: &Picture<'_>, area: Rect) {
    let width = usize::from(area.width);
    let mut lines = vec![TextLine::from("")];
    for hint in picture.hints {
        let room = width.saturating_sub(WHAT + 2);
        let whole = hint.command.chars().count() <= room;
        let kept = if whole { room } else { room.saturating_sub(1) };
        let mut command: String = hint.command.chars().take(kept).collect();
        if !whole {
            command.push('…');
        }
        let what = Span::styled(format!("{:<WHAT$}  ", hint.what), DIM);
        lines.push(TextLine::from(vec![what, Span::from(command)]));
    }
    frame.render_widget(Paragraph::new(lines), area);
}

/// `1234 req`, empty at the first look.
fn rate(line: &Line) -> String {
    let (Some(rate), Some(unit)) = (line.rate, line.unit) else { return String::new() };
    let unit = match unit {
        Unit::Requests => "req",
        Unit::Packets => "pkt",
        Unit::Queries => "sql",
        Unit::Connections => "conn",
    };
    if rate > 0.0 && rate < 10.0 {
        format!("{rate:.1} {unit}")
    } else {
        format!("{rate:.0} {unit}")
    }
}

/// Five minutes in twelve blocks, the newest at the right; the highest is the most there was.
fn spark(track: &[Option<f32>]) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = track.iter().flatten().copied().fold(0.0_f32, f32::max);
    let empty = 12 - track.len().div_ceil(KEPT / 12).min(12);
    // Blocks end with the newest sample.
    let blocks = track.rchunks(KEPT / 12).take(12).map(|part| {
        let highest = part.iter().flatten().copied().reduce(f32::max)?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 7")]
        let height = if most > 0.0 { (highest / most * 7.0).round() as usize } else { 0 };
        BLOCKS.get(height).copied()
    });
    let mut shown: Vec<char> = blocks.map(|block| block.unwrap_or(' ')).collect();
    shown.reverse();
    " ".repeat(empty) + &shown.into_iter().collect::<String>()
}

/// `870 µs`, `1.2 ms`, `3.4 s`.
fn time(us: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "shown with two digits")]
    let value = us as f64;
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{:.1} ms", value / 1e3),
        _ => format!("{:.1} s", value / 1e6),
    }
}

/// `999999`, `1.2M`.
fn short(number: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "shown with two digits")]
    let value = number as f64;
    if number < 1_000_000 { number.to_string() } else { format!("{:.1}M", value / 1e6) }
}

const EVENTS: usize = 4;
/// Columns for what a command is for.
const WHAT: usize = 30;
const DIM: Style = Style::new().fg(Color::DarkGray);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::up::plan::Plan;
    use crate::up::source;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    /// T2: one line per instance with its numbers, from the edge inwards.
    #[test]
    fn every_part_has_its_line() {
        let topology = topology::parse("stack.yaml", source::BUILT_IN, "/stack".as_ref());
        let plan = Plan::new(&topology.expect("valid")).expect("a plan");
        let mut lines = vec![Line::default(); plan.parts.len()];
        let edge = plan.parts.iter().position(|part| part.name == "nlb-1").expect("planned");
        lines[edge].connections = Some(12);
        (lines[edge].rate, lines[edge].unit) = (Some(6400.0), Some(Unit::Packets));
        (lines[edge].p50, lines[edge].p99) = (Some(870), Some(1_240));
        lines[edge].errors = Some(3);
        lines[edge].track = vec![Some(0.0); 25].into_iter().chain(vec![Some(9.0); 25]).collect();
        lines[0].health = Health::Down;
        let events = ["postgres primary ended with signal 9 (SIGKILL)".to_owned()];
        let hints =
            [Hint { what: "metrics", command: "curl -s http://127.0.0.1:9111/metrics".into() }];
        let picture = Picture {
            stack: "demo",
            running: Duration::from_secs(3723),
            parts: &plan.parts,
            lines: &lines,
            events: &events,
            hints: &hints,
        };
        let mut terminal = Terminal::new(TestBackend::new(120, 40)).expect("in memory");
        terminal.draw(|frame| draw(frame, &picture, 0)).expect("drawn");
        let text = terminal.backend().to_string();
        for expected in [
            "1:02:03",
            "20 ready  1 down",
            "6400 pkt",
            "870 µs",
            "1.2 ms",
            "SIGKILL",
            "curl -s",
            "          ▁█ ",
        ] {
            assert!(text.contains(expected), "{expected} in\n{text}");
        }
        // The newest block stands below the end of its heading.
        let end = |line: &str, of: &str| {
            line.find(of).map(|at| line[..at].chars().count() + of.chars().count())
        };
        let head = text.lines().find_map(|line| end(line, "5 MIN"));
        let block = text.lines().find_map(|line| end(line, "▁█"));
        assert!(head.is_some() && head == block, "{head:?} {block:?} in\n{text}");
        let line_of = |name: &str| text.lines().position(|line| line.contains(name));
        assert!(line_of(" nlb-1 ") < line_of(" gw-1 ") && line_of(" gw-1 ") < line_of(" primary "));
    }
}
