//! A frame.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, RenderDirection, Row as TableRow, Sparkline, Table, TableState};

use super::model::{DeviceLine, Model, Row, Wait};
use crate::cli::format;
use crate::sched::usage::Standing;

/// Width of a device's bar.
const BAR: usize = 20;
/// Widths of the bars in rows.
const ROW_BAR: usize = 8;
/// Longest name of a device that is shown whole.
const DEVICE_NAME: u16 = 16;
/// Most names in a device's line.
const MAX_NAMES: usize = 4;

/// Lines that a frame needs for everything.
pub(super) fn height(model: &Model) -> u16 {
    let lines = 1 + model.devices().len() + 1 + 1 + model.rows().len() + 1;
    u16::try_from(lines).unwrap_or(u16::MAX)
}

pub(super) fn draw(frame: &mut Frame<'_>, model: &Model) {
    let devices = model.devices();
    // A host with many devices still shows vGPUs.
    let shown = devices.len().min(usize::from(frame.area().height / 2)) as u16;
    let areas = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(shown),
        Constraint::Length(1),
        Constraint::Fill(1),
        Constraint::Length(1),
    ]);
    let [title, above, _, below, foot] = areas.areas(frame.area());
    let rows = model.rows();
    let running = rows.iter().filter(|row| row.standing == Standing::Running).count();
    let connected = rows.iter().filter(|row| row.connected).count();
    let text = format!("paragpu  {} vGPUs, {connected} connected, {running} running", rows.len());
    frame.render_widget(Paragraph::new(text).bold(), title);
    let lines = Layout::vertical(vec![Constraint::Length(1); usize::from(shown)]).split(above);
    for (device, area) in devices.iter().zip(lines.iter()) {
        draw_device(frame, device, *area);
    }
    draw_rows(frame, model, &rows, below);
    let foot_line = match &model.message {
        Some(message) => Line::from(message.as_str()).red(),
        None => {
            let sort = model.sort().name();
            Line::from(format!("q end   ↑↓ choose   p pause or resume   s sort (by {sort})")).dim()
        }
    };
    frame.render_widget(Paragraph::new(foot_line), foot);
}

fn draw_device(frame: &mut Frame<'_>, device: &DeviceLine, area: Rect) {
    let areas = Layout::horizontal([
        Constraint::Length(DEVICE_NAME),
        Constraint::Length(BAR as u16 + 8),
        Constraint::Fill(1),
        Constraint::Fill(1),
    ]);
    let [name, gauge, history, who] = areas.areas(area);
    frame.render_widget(Paragraph::new(device.name.as_str()).bold(), name);
    let percent = format!(" {:>3.0}% ", device.busy * 100.0);
    let line = Line::from(vec![
        Span::from(bar(device.busy, BAR)).fg(heat(device.busy)).bg(Color::DarkGray),
        Span::from(percent),
    ]);
    frame.render_widget(Paragraph::new(line), gauge);
    let width = usize::from(history.width);
    // The newest at the right end, where the eye expects it.
    let newest = device.history.iter().rev().take(width).copied();
    let sparkline = Sparkline::default()
        .data(newest)
        .direction(RenderDirection::RightToLeft)
        .max(100)
        .style(Style::default().fg(Color::Cyan));
    frame.render_widget(sparkline, history);
    let mut text = String::new();
    if !device.holders.is_empty() {
        text += &format!("  {}", names(&device.holders));
    }
    if !device.waiting.is_empty() {
        text += &format!("  waiting: {}", names(&device.waiting));
    }
    frame.render_widget(Paragraph::new(text), who);
}

fn names(names: &[String]) -> String {
    let more = names.len().saturating_sub(MAX_NAMES);
    let first = names.iter().take(MAX_NAMES).map(String::as_str).collect::<Vec<_>>().join(", ");
    if more == 0 { first } else { format!("{first} and {more} more") }
}

fn draw_rows(frame: &mut Frame<'_>, model: &Model, rows: &[Row], area: Rect) {
    let headings = [
        "NAME", "STANDING", "POLICY", "DEVICE", "MEMORY", "LAUNCH/s", "TO/s", "FROM/s", "WAIT p99", "EVICTED",
    ];
    let cells = rows.iter().map(|row| {
        TableRow::new([
            Cell::from(row.name.as_str()),
            Cell::from(Span::from(format::standing(row.standing)).fg(colour(row.standing))),
            Cell::from(row.policy.clone()),
            Cell::from(device_cell(row)),
            Cell::from(memory_cell(row)),
            right(format::count(row.launches)),
            right(format::bytes(row.to_device)),
            right(format::bytes(row.from_device)),
            right(wait_text(row.wait)),
            right(row.evictions.to_string()),
        ])
    });
    let longest_name = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0).clamp(4, 24);
    let longest_policy = rows.iter().map(|row| row.policy.chars().count()).max().unwrap_or(0).clamp(6, 28);
    let widths = [
        Constraint::Length(longest_name as u16),
        Constraint::Length(10),
        Constraint::Length(longest_policy as u16),
        Constraint::Length(ROW_BAR as u16 + 5),
        Constraint::Length(ROW_BAR as u16 + 11),
        Constraint::Length(8),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(7),
    ];
    let header = headings.iter().enumerate().map(|(column, heading)| {
        if column < 5 { Cell::from(*heading) } else { right((*heading).to_owned()) }
    });
    let table = Table::new(cells, widths)
        .header(TableRow::new(header).bold())
        .column_spacing(1)
        .row_highlight_style(Style::default().reversed());
    let mut state = TableState::default().with_selected(model.selected_row(rows));
    frame.render_stateful_widget(table, area, &mut state);
}

fn right(text: String) -> Cell<'static> {
    Cell::from(Line::from(text).right_aligned())
}

fn device_cell(row: &Row) -> Line<'static> {
    Line::from(vec![
        Span::from(bar(row.device, ROW_BAR)).fg(heat(row.device)).bg(Color::DarkGray),
        Span::from(format!(" {:>3.0}%", row.device * 100.0)),
    ])
}

/// A bar only where there is a quota that it is a part of.
fn memory_cell(row: &Row) -> Line<'static> {
    let used = format!("{:>10}", format::bytes(row.memory as f64));
    match row.quota.filter(|quota| *quota > 0) {
        None => Line::from(format!("{:ROW_BAR$}{used}", "")),
        Some(quota) => {
            let part = row.memory as f64 / quota as f64;
            Line::from(vec![
                Span::from(bar(part, ROW_BAR)).fg(heat(part)).bg(Color::DarkGray),
                Span::from(used),
            ])
        }
    }
}

fn wait_text(wait: Option<Wait>) -> String {
    match wait {
        None => "-".to_owned(),
        Some(Wait::Within(micros)) => format!("<{}", format::time(micros.saturating_mul(1000))),
        Some(Wait::Beyond(micros)) => format!(">{}", format::time(micros.saturating_mul(1000))),
    }
}

/// A bar of eighths.
pub(super) fn bar(part: f64, width: usize) -> String {
    let blocks = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    let eighths = (part.clamp(0.0, 1.0) * width as f64 * 8.0).round() as usize;
    let mut bar = "█".repeat(eighths / 8);
    if eighths / 8 < width {
        bar.push(blocks[eighths % 8]);
        bar += &" ".repeat(width - eighths / 8 - 1);
    }
    bar
}

fn heat(part: f64) -> Color {
    match part {
        ..0.6 => Color::Green,
        0.6..0.9 => Color::Yellow,
        _ => Color::Red,
    }
}

fn colour(standing: Standing) -> Color {
    match standing {
        Standing::Running => Color::Green,
        Standing::Waiting => Color::Yellow,
        Standing::BackedOff => Color::Red,
        Standing::Paused => Color::Magenta,
        Standing::Idle => Color::Reset,
        Standing::Offline => Color::DarkGray,
    }
}
