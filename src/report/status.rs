//! Shows the fleet on one screen: the cluster, a row for each node, and below that what ironstrap could not see, and why.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;

use anstream::{AutoStream, ColorChoice};
use comfy_table::{Table, presets};
use console::{Term, measure_text_width, style};
use time::OffsetDateTime;
use time::macros::format_description;

use crate::error::{Error, Kind, indented};
use crate::report::group::{self, COMPACT_ABOVE, MANY};
use crate::report::{color, count, exit};
use crate::secret::Shown;
use crate::status::{Drift, Health, NodeStatus, Packets, Seen, Share, Status};

/// The cell of a value that does not exist.
const NONE: &str = "–";
/// The cell of a value that differs between the nodes of a row.
const DIFFERS: &str = "…";
/// The cell of a value that is unknown.
const UNKNOWN: &str = "?";

/// How many steps a row names. `plan` names all of them.
const STEPS: usize = 4;

/// A column: its head, and the function that makes its cells.
type Column = (&'static str, fn(&NodeStatus) -> String);

/// The columns in their order, each with a number. On a narrow terminal, the columns with the highest numbers are left out
/// first.
const COLUMNS: &[(u8, Column)] = &[
    (0, ("NODE", |node| node.name.clone())),
    (2, ("ROLE", |node| node.role.replace('-', " "))),
    (0, ("SSH", |node| if node.reachable { "yes" } else { "no" }.into())),
    (0, ("READY", ready)),
    (0, ("DRIFT", |node| shown(&node.drift, |drift| in_words(drift)))),
    (1, ("PACKETS", |node| shown(&node.packets, arrived))),
    (5, ("KUBELET", |node| shown(&node.versions.kubelet, String::clone))),
    (7, ("CONTAINERD", |node| shown(&node.versions.runtime.version, String::clone))),
    (1, ("CERTS", |node| shown(&node.certificate, |it| validity(it.days)))),
    (3, ("CPU", |node| share(&node.cpu, |cores| number(*cores), ""))),
    (4, ("MEMORY", |node| share(&node.memory, |bytes| gibibytes(*bytes), " GiB"))),
    (6, ("PODS", |node| share(&node.pods, u64::to_string, ""))),
    (8, ("UPTIME", |node| shown(&node.uptime, |seconds| span(*seconds)))),
    (9, ("KERNEL", |node| shown(&node.versions.kernel, String::clone))),
    (10, ("OS", |node| shown(&node.versions.os, String::clone))),
];

/// How the user wants to see the status.
#[derive(Clone, Copy, Default)]
pub struct View {
    pub json: bool,
    /// Whether each node has a row of its own, however many there are.
    pub all: bool,
    /// Seconds until the next status, for `--watch`.
    pub again: Option<u64>,
}

/// Shows the status, and returns whether anybody still reads.
pub fn show(status: &Status, view: View) -> bool {
    if view.json {
        return exit::json(status);
    }
    let is_terminal = std::io::stdout().is_terminal();
    let width =
        Term::stdout().size_checked().filter(|_| is_terminal).map(|(_, columns)| usize::from(columns));
    let colour = AutoStream::choice(&std::io::stdout()) != ColorChoice::Never;
    let mut all = lines(status, width, colour, view.all);
    match view.again {
        Some(seconds) if is_terminal => {
            let clock = OffsetDateTime::now_utc().format(format_description!("[hour]:[minute]:[second] UTC"));
            let foot = format!("{}, every {seconds} s; press Ctrl-C to end", clock.unwrap_or_default());
            exit::redraw(all, &foot)
        }
        again => {
            // An empty line shows where the next status begins.
            all.extend(again.map(|_| String::new()));
            exit::coloured(&all)
        }
    }
}

/// Returns the whole status as text. `width`: columns of the terminal. Without it, no column is left out. `all`: each node has
/// a row of its own.
pub fn lines(status: &Status, width: Option<usize>, colour: bool, all: bool) -> Vec<String> {
    let plain = |line: String| Shown::of(&indented(&line)).to_string();
    let mut lines: Vec<String> = head(status).into_iter().map(plain).collect();
    lines.push(String::new());
    let rows = rows(&status.nodes, all || status.nodes.len() <= COMPACT_ABOVE);
    lines.extend(table(&rows, width, colour));
    let shared = rows.iter().filter(|row| row.len() > 1);
    let names = |row: &Row| group::counted(row.iter().map(|node| node.name.as_str()));
    let shared: Vec<String> = shared.map(|row| plain(format!("{}: {}", title(row), names(row)))).collect();
    lines.extend((!shared.is_empty()).then(String::new));
    lines.extend(shared);
    let told = below(status).into_iter();
    let told = told.map(|line| if colour { color::paint(&Shown::of(&indented(&line))) } else { plain(line) });
    let told: Vec<String> = told.collect();
    let parts = match status.nodes.iter().any(|node| node.reachable) {
        true => [lines, told],
        // If no machine answers, the reason is all there is to know, so it comes first.
        false => [told, lines],
    };
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(&String::new())
}

fn head(status: &Status) -> Vec<String> {
    let cluster = &status.cluster;
    let ready = shown(&cluster.network.ready, u64::to_string);
    let network = match cluster.network.wanted.is() {
        Some(wanted) => format!("{}, {ready} of {} ready", cluster.network.kind, count_pods(*wanted)),
        None if cluster.network.wanted.why().is_some() => format!("{}, {UNKNOWN}", cluster.network.kind),
        None => cluster.network.kind.into(),
    };
    let api: Vec<(&str, String)> = cluster.api.iter().map(|api| (api.node.as_str(), health(api))).collect();
    let etcd = shown(&cluster.etcd, |members| {
        let words: Vec<_> = members.iter().map(|member| (member.name.as_str(), well(member))).collect();
        together(&words)
    });
    let wrong: BTreeSet<&str> = status.errors.iter().filter_map(|error| error.node.as_deref()).collect();
    let wrong =
        (!wrong.is_empty()).then(|| ("errors", format!("on {}: see the messages", group::names(wrong))));
    let about = [
        (cluster.name.as_str(), format!("kubernetes {}, {}", cluster.kubernetes, cluster.endpoint)),
        ("nodes", shown(&cluster.ready, |ready| format!("{ready} of {} Ready", cluster.nodes))),
        ("API", together(&api)),
        ("etcd", etcd),
        ("network", network),
        ("join token", shown(&cluster.token, |token| until(token.until))),
    ];
    let about: Vec<_> = about.into_iter().chain(wrong).collect();
    let width = about.iter().map(|(name, _)| measure_text_width(name)).max().unwrap_or(0);
    about.iter().map(|(name, value)| format!("{name:<width$}  {value}")).collect()
}

fn count_pods(wanted: u64) -> String {
    count(usize::try_from(wanted).unwrap_or(usize::MAX), "pod")
}

/// Returns the word for each name, or one word if it is the same for all.
fn together(each: &[(&str, String)]) -> String {
    match each {
        [(_, only)] => only.clone(),
        [(_, first), rest @ ..] if rest.iter().all(|(_, word)| word == first) => {
            format!("{first} on all {}", each.len())
        }
        each => each.iter().map(|(name, word)| format!("{name} {word}")).collect::<Vec<_>>().join(", "),
    }
}

fn health(api: &crate::status::Api) -> String {
    shown(&api.health, |health| match (health, &api.why) {
        (Health::Healthy, _) => "healthy".into(),
        (Health::Failing, Some(why)) => format!("failing ({why})"),
        (Health::Failing, None) => "failing".into(),
        (Health::Down, _) => "down".into(),
    })
}

fn well(member: &crate::status::Member) -> String {
    let why = member.why.as_deref().map(|why| format!(" ({})", one_line(why))).unwrap_or_default();
    let learner = if member.learner == Seen::Is(true) { ", a learner" } else { "" };
    shown(&member.healthy, |well| if *well { "healthy".into() } else { format!("not healthy{why}") })
        + learner
}

fn until(time: Option<OffsetDateTime>) -> String {
    let Some(time) = time else { return "never expires".into() };
    let time = time.format(format_description!("[year]-[month]-[day] [hour]:[minute] UTC"));
    format!("valid until {}", time.unwrap_or_default())
}

/// Draws the table with as many columns as fit. If too many are still left, it breaks the lines.
fn table(rows: &[Row], width: Option<usize>, colour: bool) -> Vec<String> {
    let mut ranks: Vec<u8> = COLUMNS.iter().map(|(rank, _)| *rank).filter(|rank| *rank > 0).collect();
    ranks.sort_unstable();
    loop {
        let most = ranks.last().copied().unwrap_or(0);
        let columns = COLUMNS.iter().filter(|(rank, _)| *rank <= most).map(|(_, column)| column);
        let columns: Vec<&Column> = columns.collect();
        let lines = drawn(rows, &columns, None);
        let widest = lines.iter().map(|line| measure_text_width(line)).max().unwrap_or(0);
        match width {
            Some(width) if widest > width && most > 0 => drop(ranks.pop()),
            Some(width) if widest > width => return drawn(rows, &columns, Some(width)),
            _ if colour => return coloured(lines, rows),
            _ => return lines,
        }
    }
}

fn drawn(rows: &[Row], columns: &[&Column], width: Option<usize>) -> Vec<String> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(columns.iter().map(|(head, _)| *head));
    for row in rows {
        let cell = |(head, cell): &&Column| match *head {
            "NODE" => title(row),
            _ if row.iter().any(|node| cell(node) != cell(row[0])) => DIFFERS.into(),
            _ => cell(row[0]),
        };
        // A cell may be cut or broken later, so it must be safe to show before that.
        table.add_row(columns.iter().map(|column| Shown::of(&cell(column)).to_string()));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    if let Some(width) = width.and_then(|width| u16::try_from(width).ok()) {
        table.set_content_arrangement(comfy_table::ContentArrangement::Dynamic).set_width(width);
    }
    table.lines().map(|line| line.trim_end().to_string()).collect()
}

/// The nodes of a row: one node, or many that are the same in what matters.
type Row<'a> = Vec<&'a NodeStatus>;

fn rows(nodes: &[NodeStatus], each: bool) -> Vec<Row<'_>> {
    let what = |node: &NodeStatus| {
        let drift = shown(&node.drift, |drift| in_words(drift));
        (node.role, node.reachable, ready(node), drift)
    };
    let mut group: BTreeMap<_, Row> = BTreeMap::new();
    nodes.iter().for_each(|node| group.entry(what(node)).or_default().push(node));
    let row = |node| match group.get(&what(node)).filter(|row| !each && row.len() >= MANY) {
        Some(row) => std::ptr::eq(row[0], node).then(|| row.clone()),
        None => Some(vec![node]),
    };
    nodes.iter().filter_map(row).collect()
}

fn title(row: &Row) -> String {
    match row.len() {
        0 | 1 => row[0].name.clone(),
        n => format!("{} + {}", row[0].name, n - 1),
    }
}

/// Colours the rows that have a problem. Without colour, the words say the same.
fn coloured(lines: Vec<String>, rows: &[Row]) -> Vec<String> {
    let mut lines = lines.into_iter();
    let bright = |line: String| style(line).force_styling(true);
    let head = lines.next().map(|head| bright(head).bold().to_string());
    let row = |(line, row): (String, &Row)| {
        let (line, node) = (bright(line), row[0]);
        let clean = node.drift.is().is_some_and(|drift| drifted(drift).next().is_none());
        match (node.reachable && node.ready != Seen::Is(false), clean && node.ready.why().is_none()) {
            (false, _) => line.red().to_string(),
            (true, false) => line.yellow().to_string(),
            (true, true) => line.force_styling(false).to_string(),
        }
    };
    head.into_iter().chain(lines.zip(rows).map(row)).collect()
}

/// Returns the drift in a plan. A change that only waits for another node counts as drift of that node.
fn drifted(drift: &[Drift]) -> impl Iterator<Item = &Drift> {
    drift.iter().filter(|drift| drift.state != "waits")
}

/// Returns drift as words, as in `3: swap, runtime; ? member`. That is how many wants do not hold, of which steps, and the
/// steps whose state is unknown.
fn in_words(drift: &[Drift]) -> String {
    let steps = |unknown: bool| {
        let mut steps: Vec<&str> = drifted(drift)
            .filter(|d| (d.state == "unknown") == unknown)
            .map(|d| d.of.step.as_str())
            .collect();
        let wants = steps.len();
        steps.dedup();
        let more = steps.split_off(steps.len().min(STEPS)).len();
        (wants, if more == 0 { steps.join(", ") } else { format!("{}, {more} more", steps.join(", ")) })
    };
    let ((wants, known), (unsure, unknown)) = (steps(false), steps(true));
    match (wants, unsure) {
        (0, 0) => NONE.into(),
        (0, _) => format!("{UNKNOWN} {unknown}"),
        (_, 0) => format!("{wants}: {known}"),
        _ => format!("{wants}: {known}; {UNKNOWN} {unknown}"),
    }
}

fn ready(node: &NodeStatus) -> String {
    let cordoned = if node.schedulable == Seen::Is(false) { ", cordoned" } else { "" };
    shown(&node.ready, |ready| if *ready { "yes" } else { "no" }.into()) + cordoned
}

fn shown<T>(seen: &Seen<T>, words: impl FnOnce(&T) -> String) -> String {
    match seen {
        Seen::Is(value) => words(value),
        Seen::Nothing => NONE.into(),
        Seen::Unknown(_) => UNKNOWN.into(),
    }
}

/// Returns a share, as in `0.85/2`: what pods request, and what there is.
fn share<T>(share: &Share<T>, words: fn(&T) -> String, unit: &str) -> String {
    match (shown(&share.requested, words), shown(&share.allocatable, words)) {
        (none, nor) if none == nor && share.requested.is().is_none() => none,
        (requested, allocatable) => format!("{requested}/{allocatable}{unit}"),
    }
}

fn gibibytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / (1_u64 << 30) as f64)
}

/// Formats a number with at most two decimal places.
fn number(value: f64) -> String {
    format!("{value:.2}").trim_end_matches('0').trim_end_matches('.').into()
}

/// Returns the result of network probes. `3/3`: reached, of those that were asked. `3/3 (2 ?)`: two more were not asked.
fn arrived(packets: &Packets) -> String {
    match packets.sum() {
        (0, 0, _) => UNKNOWN.into(),
        (reached, not, 0) => format!("{reached}/{}", reached + not),
        (reached, not, unchecked) => format!("{reached}/{} ({unchecked} {UNKNOWN})", reached + not),
    }
}

fn validity(days: i64) -> String {
    if days < 0 { "expired".into() } else { format!("{days} d") }
}

fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes} min"),
        (0, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

/// Returns the lines below the table: what is wrong, what ironstrap could not see, and where to look further.
fn below(status: &Status) -> Vec<String> {
    let not_ready = |node: &NodeStatus| {
        let why = node.not_ready.as_ref()?;
        Some(Error::new(Kind::Failed, format!("not Ready: {}", one_line(why))).on(&node.name))
    };
    let not_ready: Vec<Error> = status.nodes.iter().filter_map(not_ready).collect();
    let told = [not_ready.as_slice(), &status.errors].map(group::troubles).concat();
    let mut lines: Vec<String> = told.iter().flat_map(|told| told.lines()).map(String::from).collect();
    lines.extend(unseen(status));
    lines.extend(unchecked(&status.nodes));
    lines.extend(status.notes.iter().map(|note| format!("! {note}")));
    if status.changes > 0 {
        let checks = count(status.changes, "check");
        lines.push(format!("{checks} did not pass, or could not run; `ironstrap plan` shows more"));
    }
    lines
}

/// Names the nodes that had no pod which could be asked.
fn unchecked(nodes: &[NodeStatus]) -> Option<String> {
    let all = || nodes.iter().filter_map(|node| node.packets.is()).flat_map(|packets| &packets.without_pod);
    let named = nodes.iter().map(|node| node.name.as_str()).filter(|name| all().any(|other| other == name));
    let named: Vec<&str> = named.collect();
    let what = "packets: not checked, because no pod that can be probed runs there";
    (!named.is_empty()).then(|| format!("{UNKNOWN} {}  {what}", group::names(named)))
}

/// Returns each reason once, with everything that it hides. It leaves out what an error already says about a machine.
fn unseen(status: &Status) -> Vec<String> {
    let mut reasons: Vec<&str> = Vec::new();
    let mut hidden: BTreeMap<&str, (Vec<&str>, Vec<&str>)> = BTreeMap::new();
    let has_error = |node: &Option<String>| status.errors.iter().any(|error| error.node == *node);
    let told = status.unseen.iter().filter(|it| it.what == "machine" && has_error(&it.node));
    let told: Vec<&str> = told.map(|it| it.why.as_str()).collect();
    for unseen in status.unseen.iter().filter(|it| !told.contains(&it.why.as_str())) {
        if !reasons.contains(&unseen.why.as_str()) {
            reasons.push(&unseen.why);
        }
        let (nodes, whats) = hidden.entry(&unseen.why).or_default();
        nodes.extend(unseen.node.as_deref().filter(|node| !nodes.contains(node)));
        if !whats.contains(&unseen.what) {
            whats.push(unseen.what);
        }
    }
    let line = |why: &str| {
        let (nodes, whats) = hidden.get(why)?;
        let nodes = if nodes.is_empty() { String::new() } else { format!("{}  ", group::names(nodes)) };
        Some(format!("{UNKNOWN} {nodes}{}: {}", whats.join(", "), one_line(why)))
    };
    reasons.into_iter().filter_map(line).collect()
}
