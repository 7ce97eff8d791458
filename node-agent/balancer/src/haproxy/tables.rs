//! HAProxy's answers: tables whose columns are found by name, because their number and order change with its version.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    driver::{Admin, Health, Server},
    name::ServerName,
};

/// Set by an operator or inherited; a server declared `disabled` and enabled since is not in maintenance.
const MAINTENANCE: u32 = 0x01 | 0x02 | 0x20 | 0x40;
const DRAIN: u32 = 0x08 | 0x10;
/// `show stat`: lines about servers, not about frontends and backends.
const SERVER_LINE: &str = "2";

/// What is not as it should be in an answer.
pub(super) type Garbled = String;

/// A server as `show stat` has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Statistics {
    pub name: ServerName,
    pub sessions: u64,
    status: String,
    check: String,
    weight: u32,
    backup: bool,
}

/// A server as `show servers state` has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub name: ServerName,
    operational: u32,
    admin: u32,
    weight: u32,
}

impl State {
    /// Health comes and goes; what HAProxy was told is what the server-state file is for.
    pub(super) fn without_health(self) -> Self {
        Self { operational: 0, ..self }
    }
}

/// `srv_op_state`: gets sessions, and the first failing check takes them away. So HAProxy itself starts a server of which
/// no file says anything.
const STARTING: &str = "1";
const RUNNING: &str = "2";

struct Table<'a> {
    columns: Vec<&'a str>,
    separator: char,
    lines: std::str::Lines<'a>,
}

impl<'a> Table<'a> {
    fn new(text: &'a str, separator: char) -> Result<Self, Garbled> {
        let mut lines = text.lines();
        let header = lines.find_map(|line| line.strip_prefix("# ")).ok_or("there is no header")?;
        Ok(Self { columns: header.split(separator).collect(), separator, lines })
    }

    fn column(&self, name: &str) -> Result<usize, Garbled> {
        let found = self.columns.iter().position(|column| *column == name);
        found.ok_or_else(|| format!("there is no column {name}"))
    }

    /// Fields that hold the separator would shift the others: only the columns before them are used.
    fn rows(self) -> impl Iterator<Item = Vec<&'a str>> {
        self.lines.filter(|line| !line.is_empty()).map(move |line| line.split(self.separator).collect())
    }
}

fn field<'a>(row: &[&'a str], column: usize) -> Result<&'a str, Garbled> {
    row.get(column).copied().ok_or_else(|| format!("a line has {} fields only", row.len()))
}

fn number<T: std::str::FromStr>(row: &[&str], column: usize, what: &str) -> Result<T, Garbled> {
    let text = field(row, column)?;
    text.parse().map_err(|_| format!("{what} is `{}`", text.escape_debug()))
}

/// Servers whose names this agent would not send are none of its business.
fn name(backend: &str, server: &str) -> Option<ServerName> {
    ServerName::parse(&format!("{backend}/{server}")).ok()
}

/// Parses `show stat`.
pub(super) fn statistics(text: &str) -> Result<Vec<Statistics>, Garbled> {
    let table = Table::new(text, ',')?;
    let (backend, server, kind) = (table.column("pxname")?, table.column("svname")?, table.column("type")?);
    let (sessions, status) = (table.column("scur")?, table.column("status")?);
    let (weight, backup) = (table.column("weight")?, table.column("bck")?);
    let check = table.column("check_status")?;
    let mut servers = Vec::new();
    for row in table.rows() {
        if field(&row, kind)? != SERVER_LINE {
            continue;
        }
        let Some(name) = name(field(&row, backend)?, field(&row, server)?) else { continue };
        servers.push(Statistics {
            name,
            sessions: number(&row, sessions, "the number of sessions")?,
            status: field(&row, status)?.to_owned(),
            check: field(&row, check)?.trim_start_matches("* ").to_owned(),
            weight: number(&row, weight, "the weight")?,
            backup: field(&row, backup)? == "1",
        });
    }
    Ok(servers)
}

/// Parses `show servers state`.
pub(super) fn states(text: &str) -> Result<Vec<State>, Garbled> {
    let table = Table::new(text, ' ')?;
    let (backend, server) = (table.column("be_name")?, table.column("srv_name")?);
    let (operational, admin) = (table.column("srv_op_state")?, table.column("srv_admin_state")?);
    let weight = table.column("srv_uweight")?;
    let mut servers = Vec::new();
    for row in table.rows() {
        let Some(name) = name(field(&row, backend)?, field(&row, server)?) else { continue };
        servers.push(State {
            name,
            operational: number(&row, operational, "the operational state")?,
            admin: number(&row, admin, "the administrative state")?,
            weight: number(&row, weight, "the weight")?,
        });
    }
    Ok(servers)
}

/// `show servers state` as the server-state file has it: no ready server is down. Checks have seldom risen again when a
/// server is enabled, the file may be read long after, and HAProxy starts what is down there down, also the only one that
/// is left. One that is dead indeed gets sessions until its first failing check, or `fall` of them where `rise` is 1.
pub(super) fn none_down(text: &str) -> Result<String, Garbled> {
    let table = Table::new(text, ' ')?;
    let (operational, own) = (table.column("srv_op_state")?, table.column("srv_admin_state")?);
    let mut lines = Vec::new();
    for line in text.lines() {
        let mut row: Vec<&str> = line.split(' ').collect();
        // The version and the header stand before the servers.
        let bits = row.get(own).and_then(|bits| bits.parse().ok());
        if bits.is_some_and(|bits| admin(bits) == Admin::Ready)
            && let Some(state) = row.get_mut(operational).filter(|state| **state != RUNNING)
        {
            *state = STARTING;
        }
        lines.push(row.join(" "));
    }
    Ok(lines.join("\n"))
}

/// Both tables together. Sessions are those of one worker.
pub(super) fn servers(statistics: &[Statistics], states: &[State]) -> Result<Vec<Server>, Garbled> {
    let states: BTreeMap<&ServerName, &State> = states.iter().map(|state| (&state.name, state)).collect();
    let server = |seen: &Statistics| {
        let state = states.get(&seen.name).ok_or_else(|| format!("there is no state of {}", seen.name))?;
        Ok(Server {
            name: seen.name.clone(),
            admin: admin(state.admin),
            health: health(seen, state),
            sessions: seen.sessions,
            sessions_known: false,
            weight: seen.weight,
            backup: seen.backup,
        })
    };
    statistics.iter().map(server).collect()
}

fn admin(bits: u32) -> Admin {
    if bits & MAINTENANCE != 0 {
        Admin::Maint
    } else if bits & DRAIN != 0 {
        Admin::Drain
    } else {
        Admin::Ready
    }
}

/// `no check` looks up for ever, and so does a server that was not checked yet: neither is known.
fn health(seen: &Statistics, state: &State) -> Health {
    let unchecked = seen.status == "no check" || seen.status.starts_with("MAINT");
    if unchecked || seen.check == "INI" {
        return Health::Unknown;
    }
    match state.operational {
        1 | 2 => Health::Up,
        _ => Health::Down,
    }
}

/// Identifiers of the sessions that `show sess` has of one server.
pub(super) fn sessions<'a>(text: &'a str, server: &ServerName) -> Vec<&'a str> {
    lines_of(text, server).map(|(id, _)| id).collect()
}

/// Those that are older. One whose age is not understood is not.
pub(super) fn sessions_older<'a>(text: &'a str, server: &ServerName, than: Duration) -> Vec<&'a str> {
    let is_older = |line: &str| {
        let age = line.split(' ').find_map(|field| field.strip_prefix("age="));
        age.and_then(span).is_some_and(|age| age > than)
    };
    lines_of(text, server).filter(|(_, line)| is_older(line)).map(|(id, _)| id).collect()
}

fn lines_of<'a>(text: &'a str, server: &ServerName) -> impl Iterator<Item = (&'a str, &'a str)> {
    let (backend, name) = (format!("be={}", server.backend()), format!("srv={}", server.server()));
    let of_server = move |line: &&str| {
        let has = |wanted: &str| line.split(' ').any(|field| field == wanted);
        has(&backend) && has(&name)
    };
    let is_one = |id: &str| {
        id.strip_prefix("0x").is_some_and(|digits| digits.chars().all(|digit| digit.is_ascii_hexdigit()))
    };
    let lines = text.lines().filter(of_server).filter_map(|line| Some((line.split_once(':')?.0, line)));
    lines.filter(move |(id, _)| is_one(id))
}

/// As HAProxy writes a length of time: the two largest units of `1d2h`, `3m4s`, `0s`.
fn span(text: &str) -> Option<Duration> {
    let mut seconds = 0_u64;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..end].parse().ok()?;
        let unit = match rest.as_bytes()[end] {
            b'd' => 86_400,
            b'h' => 3_600,
            b'm' => 60,
            b's' => 1,
            _ => return None,
        };
        seconds = seconds.checked_add(number.checked_mul(unit)?)?;
        rest = &rest[end + 1..];
    }
    (!text.is_empty()).then(|| Duration::from_secs(seconds))
}

/// Pids of all workers in `show proc`, old ones included.
pub(super) fn workers(text: &str) -> Result<Vec<u32>, Garbled> {
    let rows = text.lines().filter(|line| !line.starts_with('#'));
    let rows = rows.map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut pids = Vec::new();
    for row in rows.filter(|row| row.get(1) == Some(&"worker")) {
        pids.push(number(&row, 0, "the pid of a worker")?);
    }
    if pids.is_empty() { Err("no worker is named".into()) } else { Ok(pids) }
}

/// One value of `show info`.
pub(super) fn information<'a>(text: &'a str, key: &str) -> Result<&'a str, Garbled> {
    let values = text.lines().filter_map(|line| line.split_once(": "));
    let found = values.filter(|(name, _)| *name == key).map(|(_, value)| value.trim()).next();
    found.ok_or_else(|| format!("there is no {key}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STATISTICS: &str = "# pxname,svname,scur,status,weight,bck,type,check_status,rate\n\
                              puppet,FRONTEND,9,OPEN,,,0,,\n\
                              compilers,c1,2,DRAIN 2/3,100,0,2,* L7OK,1\n\
                              compilers,c2,0,no check,1,0,2,,1\n\
                              compilers,c3,0,UP,1,1,2,INI,1\n\
                              compilers,BACKEND,2,UP,1,0,1,,";
    const STATES: &str = "1\n# be_id be_name srv_id srv_name srv_op_state srv_admin_state srv_uweight\n\
                          3 compilers 1 c1 2 8 100\n3 compilers 2 c2 2 0 1\n3 compilers 3 c3 2 5 1";

    #[test]
    fn columns_are_found_by_name_and_only_servers_count() {
        let servers = servers(&statistics(STATISTICS).unwrap(), &states(STATES).unwrap()).unwrap();
        let seen: Vec<_> = servers.iter().map(|s| (s.name.server(), s.admin, s.health, s.sessions)).collect();
        assert_eq!(
            seen,
            [
                ("c1", Admin::Drain, Health::Up, 2),
                ("c2", Admin::Ready, Health::Unknown, 0),
                ("c3", Admin::Maint, Health::Unknown, 0)
            ]
        );
        assert!(servers[2].backup);
    }

    #[test]
    fn a_missing_column_a_short_line_and_a_word_for_a_number_are_errors() {
        let without = STATISTICS.replace("scur", "scurr");
        assert_eq!(statistics(&without).unwrap_err(), "there is no column scur");
        assert!(statistics(&STATISTICS.replace(",* L7OK,1", "")).unwrap_err().contains("7 fields only"));
        assert!(states(&STATES.replace("c1 2 8", "c1 2 x")).unwrap_err().contains("`x`"));
    }

    #[test]
    fn a_state_file_starts_no_ready_server_down_and_says_all_else_as_it_was() {
        let line = |server: &str, operational: u32, admin: u32| {
            format!("3 compilers 1 {server} 192.0.2.1 {operational} {admin} 100 1 5 8 2 0 6 0")
        };
        let text = |of_c1: u32, of_c4: u32| {
            let servers = [line("c1", of_c1, 0), line("c2", 2, 0), line("c3", 0, 8), line("c4", of_c4, 4)];
            format!(
                "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight\n{}",
                servers.join("\n")
            )
        };
        assert_eq!(none_down(&text(0, 3)).unwrap(), text(1, 1));
        assert!(none_down(&text(0, 0).replace("srv_op_state", "srv_state")).is_err());
    }

    #[test]
    fn sessions_are_those_of_the_whole_name_and_no_other() {
        let text = "0x1a: proto=tcpv4 src=127.0.0.1:4 fe=f be=p srv=c1 ts=00\n0x2: proto=tcpv4 fe=f be=p srv=c11 ts=00\n\
                    0x3: proto=tcpv4 fe=f be=pp srv=c1 ts=00\nquit;0x4: fe=f be=p srv=c1\n0x5: fe=GLOBAL be=<NONE> srv=<none>";
        assert_eq!(sessions(text, &name("p", "c1").unwrap()), ["0x1a"]);
    }

    #[test]
    fn sessions_have_an_age() {
        let text = "0x1: fe=f be=p srv=c1 ts=00 age=1h2m calls=1\n0x2: fe=f be=p srv=c1 age=59s x\n0x3: be=p srv=c1 age=1d3h\n\
                    0x4: be=p srv=c1 age=? x\n0x5: be=p srv=c1 x\n0x6: be=p srv=c2 age=9d";
        let older = |seconds| sessions_older(text, &name("p", "c1").unwrap(), Duration::from_secs(seconds));
        assert_eq!(older(58), ["0x1", "0x2", "0x3"]);
        assert_eq!(older(59), ["0x1", "0x3"]);
        assert_eq!(older(3_720), ["0x3"]);
        assert_eq!(older(97_200), [""; 0]);
        assert_eq!(["", "5", "s", "4x", "1h99999999999999999999s"].map(span), [None; 5]);
        assert_eq!(span("0s"), Some(Duration::ZERO));
    }

    #[test]
    fn old_workers_are_workers() {
        let text = "#<PID>  <type>  <reloads>\n1162  master  5 [failed: 0] 0d 2.6\n# workers\n1271  worker  0  0d\n\
                    # old workers\n1233  worker  3  0d\n# programs\n";
        assert_eq!(workers(text).unwrap(), [1271, 1233]);
    }

    proptest! {
        #[test]
        fn f20_no_answer_makes_the_parser_panic(text in "(# )?[a-z,# \n0-9]{0,200}", header in any::<bool>()) {
            let text = if header { format!("# pxname,svname,scur,status,weight,bck,type,check_status\n{text}") } else { text };
            let _either = statistics(&text);
            let _either = states(&text);
            let _either = none_down(&text);
            let _either = workers(&text);
            let _either = information(&text, "Pid");
        }
    }
}
